"""The report: one page that needs nothing from outside, numbers that come back, outlines hiding nothing."""

from __future__ import annotations

import builtins
import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemt.io.contours import class_colours, contours, outlines
from edgemt.report import figures, plain, write_report
from edgemt.report.charts import binned
from edgemt.report.formatting import DASH, delivered, figure, scaled, signed, timed
from edgemt.report.run_page import page
from edgemt.report.svg import Axis, place_labels, spread

LATENCY = {"p50_ms": 1.64, "p90_ms": 1.8, "p99_ms": 2.2, "precision": "int8", "n": 4000}


def stage(name: str, dice: float | None, **fields: Any) -> dict[str, Any]:
    row = {
        "name": name,
        "dice": dice,
        "hd95_px": 12.5,
        "per_class": {"polyp": {"dice": dice, "hd95": 12.5}},
        "params": 2_700_000,
        "macs": 540_000_000,
        "size_bytes": 10_900_000,
        "latency": {},
        "drop": None,
        "note": "",
    }
    return {**row, **fields}


@pytest.fixture()
def record() -> dict[str, Any]:
    steps = list(range(0, 400, 10))
    return {
        "name": "kvasir",
        "created": "2026-11-22T22:10:00+00:00",
        "recipe": {"student.name": "mobilenetv4_small", "data.size": [256, 256], "seed": 0},
        "device": {"cpu": "AMD EPYC", "gpu": None},
        "classes": ["background", "polyp"],
        "counts": {"labelled": 80, "unlabelled": 720, "val": 100},
        "stages": [
            stage("teacher", 0.9021, params=26_100_000, latency={"torch": {**LATENCY, "p50_ms": 182.0}}),
            stage("student", 0.8843, drop=0.0178),
            stage("int8/onnxruntime", 0.8831, latency={"onnxruntime int8": {**LATENCY, "p50_ms": 2.71}}),
            stage("int8/openvino", 0.8822, latency={"openvino int8": LATENCY, "tensorrt": {"error": "no GPU"}}),
        ],
        "controls": [stage("controls/labelled only", 0.8102)],
        "curves": {
            "student": {
                "step": steps,
                "terms": {"supervised": [1 / (1 + s) for s in steps], "kl": [2.0 for _ in steps]},
                "val": {"step": [0, 200, 400], "dice": [0.5, 0.7, 0.88]},
            }
        },
        "bench": [{"reference": "a", "calls": [{"name": "a", "max_ms": 6.1, "raw_ns": [1, 2, 3]}]}],
        "messages": ["INT8 is not faster than bf16 with openvino here"],
    }


@pytest.fixture()
def gallery() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    true = np.zeros((48, 64), np.uint8)
    true[10:30, 20:50] = 1
    masks = {"true": true, "teacher": np.roll(true, 2, 0), "student": None, "int8": np.zeros_like(true)}
    image = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return [{"name": "frame <1>", "image": image, "masks": masks}]


def drawn(record: dict[str, Any]) -> dict[figures.Picture, str]:
    """The pictures of a record as they stand in the page."""
    pytest.importorskip("matplotlib")
    pictures = figures.draw_pictures(record)
    return {name: figures.inline_svg(pictures[name], figures.TITLES[name]) for name in pictures}


class Links(HTMLParser):
    """Everything in a page that a browser might follow, and whether every opened element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [str(v) for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data", "poster")]
        if tag not in ("meta", "br", "link", "img", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def test_the_page_refers_to_nothing_outside_itself(record: dict[str, Any], gallery: list[dict[str, Any]]) -> None:
    html = page(record, gallery, drawn(record))
    read = Links(html)
    assert read.links and all(link.startswith(("data:image/png", "#")) for link in read.links)
    assert not re.search(r"https?://|@import|url\(", html)
    assert not read.tags & {"script", "link", "iframe", "object", "embed", "form"}
    assert "default-src 'none'" in html


def test_every_element_is_closed(record: dict[str, Any], gallery: list[dict[str, Any]]) -> None:
    assert Links(page(record, gallery, drawn(record))).open == []


def test_strings_of_the_record_cannot_become_markup(record: dict[str, Any], gallery: list[dict[str, Any]]) -> None:
    evil = '"><script>alert(1)</script>'

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                f"{k}{evil}" if k in ("polyp", "torch", "kl", "cpu", "seed") else k: poison(v) for k, v in value.items()
            }
        if isinstance(value, list):
            return [poison(v) for v in value]
        return value + evil if isinstance(value, str) else value

    tainted = poison(record)
    tainted["curves"] = {f"student{evil}": tainted["curves"]["student"]}
    frames = [{**gallery[0], "name": evil, "masks": {**gallery[0]["masks"], evil: gallery[0]["masks"]["true"]}}]
    pictures = drawn(tainted)
    assert all("&lt;script&gt;" in svg for svg in pictures.values())
    html = page(tainted, frames, pictures)
    assert "<script" not in html
    assert "script" not in Links(html).tags
    assert html.count("&lt;script&gt;") > 20


def test_messages_are_shown_before_the_numbers(record: dict[str, Any]) -> None:
    html = page(record)
    assert 0 < html.index("INT8 is not faster than bf16") < html.index("<section")


def test_what_was_not_measured_is_an_en_dash(record: dict[str, Any]) -> None:
    record["stages"][1].update(dice=float("nan"), hd95_px=None, macs=float("inf"))
    record["stages"][1]["per_class"]["polyp"] = {"dice": float("nan"), "hd95": None}
    html = page(record)
    row = re.search(r"<tr><td>[^/]*</i>student</td>.*?</tr>", html)
    assert row and row[0].count(f">{DASH}<") == 4  # Dice, HD95, multiply-adds, median latency
    assert not re.search(r"\b(nan|NaN|inf|Infinity|None|null)\b", html.partition("</style>")[2])


def test_every_runtime_has_its_row_in_the_latency_table(record: dict[str, Any]) -> None:
    html = page(record)
    section = html[html.index("<h2>Latency</h2>") :]
    rows = re.findall(r"<tr><td>.*?</tr>", section[: section.index("</table>")])
    assert len(rows) == 4
    for row, runtime in zip(rows, ("torch", "onnxruntime", "openvino", "tensorrt"), strict=True):
        assert f"<td>{runtime}</td>" in row
    assert "no GPU" in rows[3] and rows[3].count(DASH) == 5
    assert "1.64" in rows[2] and "33" in section


def test_the_json_gives_back_the_record(tmp_path: Path, record: dict[str, Any], gallery: list[dict[str, Any]]) -> None:
    before = copy.deepcopy(record)
    write_report(tmp_path, record, gallery)
    assert json.loads((tmp_path / "report.json").read_text()) == record == before


def test_the_json_is_strict_and_takes_numpy_and_paths() -> None:
    value = {"a": np.float32(0.5), "b": np.arange(2), "c": float("nan"), "d": (Path("x"), True), 3: np.nan}
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == {
        "a": 0.5,
        "b": [0, 1],
        "c": None,
        "d": ["x", True],
        "3": None,
    }


@pytest.mark.parametrize(
    "left_out", ["curves", "controls", "bench", "messages", "stages", "classes", "counts", "device"]
)
def test_a_record_may_lack_any_part(left_out: str, record: dict[str, Any], gallery: list[dict[str, Any]]) -> None:
    for nothing in ({}, None):
        assert "kvasir" in page({**record, left_out: nothing}, gallery)
    assert "kvasir" in page({k: v for k, v in record.items() if k != left_out})


def test_an_empty_record_still_makes_a_page(tmp_path: Path) -> None:
    written = write_report(tmp_path / "report", {}, [])
    assert [p.name for p in written] == ["report.html", "report.json"]
    assert Links((tmp_path / "report" / "report.html").read_text()).open == []


def test_odd_curves_do_not_stop_a_report(record: dict[str, Any]) -> None:
    nan = float("nan")
    record["curves"] = {
        "empty": {"step": [], "terms": {}, "val": {"step": [], "dice": []}},
        "broken": {"step": [0, 1, 2], "terms": {"a": [nan, nan, nan], "b": [1.0]}, "val": {}},
        "flat": {"step": [5, 5], "terms": {"a": [0.0, 0.0]}, "val": {"step": [5], "dice": [0.0]}},
        "none": None,
    }
    record["stages"][0]["latency"]["torch"].update(p50_ms=0.0, p99_ms=None)
    html = page(record, (), drawn(record))
    assert ">flat: loss terms<" in html and ">empty: " not in html and "nan" not in html


def test_the_pictures_are_drawn_with_matplotlib_alone(
    tmp_path: Path, record: dict[str, Any], gallery: list[dict[str, Any]]
) -> None:
    pytest.importorskip("matplotlib")
    names = {p.name for p in write_report(tmp_path, {**record, "name": "$x_1$"}, gallery)}
    assert names == {"report.html", "report.json", "gallery.png", "accuracy_latency.png", "curves.png"}
    assert {p.name for p in tmp_path.iterdir()} == names


def test_a_picture_has_names_as_text_the_colours_of_the_page_and_the_same_bytes_again(record: dict[str, Any]) -> None:
    record["stages"][1]["name"] = "$stu_1$\x1b\n&" + "x" * 40
    record["curves"]["student"]["terms"]["$kl$"] = [1.0] * 40
    first = drawn(record)
    assert set(first) == {"accuracy_latency", "curves"} and first == drawn(record)
    assert "$stu_1$  &amp;xxx" in first["accuracy_latency"] and ">$kl$</text>" in first["curves"]
    assert ">int8/openvino</text>" in first["accuracy_latency"] and ">student: loss terms" in first["curves"]
    for svg in first.values():
        assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) == set() and "var(--s1)" in svg
        assert not re.search(r"<style|<metadata|clip-path|font-family", svg) and len(svg) < 40_000


def test_a_long_noisy_curve_stays_a_small_picture(record: dict[str, Any]) -> None:
    noise = np.random.default_rng(0).lognormal(size=(2, 30_000))
    record["curves"] = {"teacher": {"step": range(30_000), "terms": {"a": noise[0], "b": noise[1]}, "val": {}}}
    assert len(drawn(record)["curves"]) < 40_000


def test_without_matplotlib_the_page_is_whole_and_a_warning_says_what_is_missing(
    tmp_path: Path, record: dict[str, Any], gallery: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.warns(UserWarning, match="pip install matplotlib"):
        written = write_report(tmp_path, record, gallery)
    assert [p.name for p in written] == ["report.html", "report.json", "gallery.png"]
    assert "Accuracy and latency" in (tmp_path / "report.html").read_text()


def test_the_delivered_stage_is_the_fastest_of_the_last_ones_unless_named(record: dict[str, Any]) -> None:
    chosen = delivered(record)
    assert chosen is not None and chosen["name"] == "int8/openvino"
    record["delivered"] = "student"
    chosen = delivered(record)
    assert chosen is not None and chosen["name"] == "student"
    assert delivered({"stages": [stage("teacher", float("nan"))]}) is None


def test_a_runtime_named_with_its_precision_is_one_runtime(record: dict[str, Any]) -> None:
    assert [t.runtime for t in timed(record["stages"])] == ["torch", "onnxruntime", "openvino"]


def test_a_gallery_takes_grey_frames_other_sizes_and_missing_masks(record: dict[str, Any]) -> None:
    grey = np.full((1000, 700, 1), 90, np.uint8)
    mask = np.zeros((250, 175), np.int64)
    mask[40:90, 40:90] = 3  # a class that the record does not name
    html = page(record, [{"name": "big", "image": grey, "masks": {"true": mask, "int8": mask, "teacher": None}}])
    assert "class 3" in html and "Dice 1.00" in html and html.count('id="frame-0"') == 1
    assert 'viewBox="0 0 448 640"' in html


def test_a_cell_says_its_dice_and_what_it_cannot_say(record: dict[str, Any], gallery: list[dict[str, Any]]) -> None:
    html = page(record, gallery)
    assert "Dice 0.90" in html and "not run" in html and "Dice 0.00" in html


def test_an_outline_lies_inside_its_region_and_leaves_the_rest_alone() -> None:
    image = np.full((40, 40, 3), 100, np.uint8)
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 1
    drawn = contours(image, mask, scale=2, colours=((0, 0, 0), (0, 255, 0)))
    assert drawn.shape == (80, 80, 3) and drawn.dtype == np.uint8
    green = (drawn[..., 1] > 180) & (drawn[..., 0] < 60)
    rows, columns = np.nonzero(green)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 59, 20, 59)
    assert (drawn[36:44, 36:44] == 100).all() and (drawn[:16] == 100).all()


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_single_pixel_and_a_full_frame_are_still_outlined(scale: int) -> None:
    speck = np.zeros((31, 31), np.uint8)
    speck[15, 15] = 1
    assert outlines(speck, scale=scale)[..., 3].max() > 220
    assert outlines(np.ones((31, 31), np.uint8), scale=scale)[0, 5, 3] > 220
    hole = np.ones((31, 31), np.uint8)
    hole[15, 15] = 0
    assert outlines(hole, scale=scale)[12 * scale : 19 * scale, 12 * scale : 19 * scale, 3].max() > 220


def test_background_alone_draws_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 24), dtype=np.uint8)
    assert (contours(image, np.zeros((20, 24), np.uint8)) == image[..., None]).all()


def test_each_class_keeps_its_colour_however_many_there_are() -> None:
    assert class_colours(3) == class_colours(14)[:3]
    assert len(set(class_colours(14))) == 14


@pytest.mark.parametrize(
    ("image", "mask", "sentence"),
    [
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8), "resize the mask"),
        (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), "must be uint8"),
        (np.zeros((4, 4), np.uint8), np.full((4, 4), 7, np.uint8), "class 7 has no colour"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(image: np.ndarray, mask: np.ndarray, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        contours(image, mask, colours=class_colours(3))
    assert "\n" not in str(caught.value)


def test_labels_of_a_crowd_cover_neither_each_other_nor_a_point() -> None:
    points = [(100.0 + 14 * i, 100.0 + 3 * (i % 3)) for i in range(7)]
    boxes = place_labels(points, [80.0] * 7, bounds=(0, 0, 600, 300))
    for i, a in enumerate(boxes):
        assert a[0] >= 0 and a[1] >= 0 and a[2] <= 600 and a[3] <= 300
        assert not any(a[0] <= x <= a[2] and a[1] <= y <= a[3] for x, y in points)
        assert not any(min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1]) for b in boxes[:i])


def test_end_labels_keep_their_order_and_distance() -> None:
    heights = [50.0, 51.0, 49.0, 98.0, 2.0, 3.0]
    out = spread(heights, gap=14, low=0, high=100)
    assert np.argsort(out).tolist() == np.argsort(heights).tolist()
    assert np.diff(sorted(out)).min() >= 14 - 1e-9 and min(out) >= 0 and max(out) <= 100


@pytest.mark.parametrize(
    ("low", "high", "log"), [(0.3, 900.0, True), (0.8, 0.81, False), (0.0, 1e6, False), (1e-7, 1e5, True)]
)
def test_an_axis_has_a_readable_number_of_ticks_inside_it(low: float, high: float, log: bool) -> None:
    ticks = Axis(low, high, 0, 100, log=log).ticks()
    assert 3 <= len(ticks) <= 14
    assert all(low * 0.99 <= t <= high * 1.01 for t in ticks) and ticks == sorted(set(ticks))


def test_a_long_curve_keeps_its_range_and_drops_what_is_not_finite() -> None:
    values = [float(i % 10) for i in range(3000)]
    values[7] = float("nan")
    bins = binned(range(3000), values)
    assert len(bins) <= 150 and {b[1] for b in bins} == {0.0} and {b[3] for b in bins} == {9.0}
    assert binned([0, 1, 2], [1.0, None, 3.0]) == [(0, 1.0, 1.0, 1.0), (2, 3.0, 3.0, 3.0)]


def test_format_number_has_unit_and_no_exponent() -> None:
    assert [figure(v) for v in (0.0421, 1.844, 12.34, 105.2, 0, None)] == [
        "0.0421",
        "1.84",
        "12.3",
        "105",
        "0",
        DASH,
    ]
    assert scaled(3_400_000).split() == ["3.40", "M"] and scaled(812, "B").split() == ["812", "B"]
    assert signed(-0.004) == "\N{MINUS SIGN}0.004" and signed(0.00001) == "0.000" and signed(0.02) == "+0.020"
