"""What a stream leaves in its statistics, the file of a session, and `edgemt site report`."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from tiny_package import make_ship  # noqa: E402

from deploy.site_statistics import collect  # noqa: E402
from deploy.site_statistics.collect import SessionStatisticsWriter  # noqa: E402
from deploy.site_statistics.features import measure_mask, measure_picture  # noqa: E402
from deploy.site_statistics.session_file import read_folder, read_session, write_session  # noqa: E402
from edgemt.cli import main  # noqa: E402

CLASSES = ("background", "organ", "tool")


def shown(pixels: np.ndarray, mask: np.ndarray | None, *, uncertain: np.ndarray | None = None) -> Any:
    fresh = mask is not None
    status = SimpleNamespace(state="fresh" if fresh else "stale", age_ms=12.0 if fresh else None,
                             likeness=0.9 if fresh else None)  # fmt: skip
    result = SimpleNamespace(mask=mask, marks=SimpleNamespace(uncertain=uncertain)) if fresh else None
    return SimpleNamespace(frame=SimpleNamespace(pixels=pixels), status=status, result=result)


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def writer(folder: Path, clock: Callable[[], float], log: Callable[[str], None] = print) -> SessionStatisticsWriter:
    return SessionStatisticsWriter(folder, classes=CLASSES, device="d1", model="m", card="c" * 64, log=log, clock=clock)


def test_brightness_colour_sharpness_and_areas_are_those_of_the_pixels() -> None:
    pixels = np.full((64, 80, 3), (200, 100, 50), np.uint8)
    values = measure_picture(pixels)
    assert (values["red"], values["green"], values["blue"]) == (200, 100, 50)
    assert values["brightness"] == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50, abs=1e-3)
    assert values["contrast"] == pytest.approx(0, abs=1e-3) and values["sharpness"] == 0
    stripes = np.zeros((64, 80), np.uint8)
    stripes[:, ::2] = 100
    assert measure_picture(stripes)["sharpness"] == 100
    mask = np.zeros((10, 10), np.uint8)
    mask[:2], mask[2] = 1, 2
    uncertain = mask == 2
    assert measure_mask(mask, CLASSES, uncertain) == {"area of organ": 0.2, "area of tool": 0.1, "uncertain": 0.1}


def test_frames_are_counted_twice_a_second(tmp_path: Path) -> None:
    clock = Clock()
    statistics = writer(tmp_path / "a", clock)
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 1
    for frame in range(90):  # three seconds at 30 Hz
        clock.now = frame / 30
        statistics.observe(shown(np.full((16, 16, 3), 128, np.uint8), mask if frame < 45 else None))
        statistics._count_next()
    statistics.close()
    one = read_folder(tmp_path)[0]
    assert (one.samples, one.device, one.model, one.card) == (6, "d1", "m", "c" * 64)
    assert one.histograms["no mask"].counts.tolist() == [3, 3]
    assert one.histograms["area of organ"].total == 3
    area = one.histograms["area of organ"]
    k = int(area.counts.argmax())
    assert area.edges[k - 1] <= 0.5 < area.edges[k]
    assert one.histograms["brightness"].total == 6 and one.histograms["brightness"].counts[128 // 4] == 6
    assert set(json.loads(next((tmp_path / "a").iterdir()).read_text())) == {
        "format", "session", "day", "device", "model", "card", "seconds", "samples", "features",
    }  # fmt: skip


def test_on_a_full_disk_the_stream_goes_on_and_one_warning_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    lines: list[str] = []
    statistics = writer(tmp_path / "a", Clock(), lines.append)
    statistics.start()
    with monkeypatch.context() as patch:
        patch.setattr(collect, "write_session", full)
        statistics._write()
        statistics._write()
        assert len(lines) == 1 and "No space left on device" in lines[0] and "the video goes on" in lines[0]
    statistics.close()
    assert len(lines) == 2 and lines[1].endswith("are written again")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda text: text[:200], "no statistics of a session"),
        (lambda text: text.replace('"format": 1', '"format": 9'), "format 9, this version reads 1"),
        (lambda text: text.replace('"counts": [', '"counts": [7, ', 1), "do not fit its bins"),
        (lambda text: text.replace('"counts": [0', '"counts": [-1', 1), "do not fit its bins"),
        (lambda text: text.replace('"samples"', '"sampled"'), "no 'samples'"),
        (lambda text: "[" * 100_000, "no statistics of a session"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: Callable[[str], str], why: str) -> None:
    statistics = writer(tmp_path, Clock())
    statistics.close()
    path = next(tmp_path.iterdir())
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=why) as error:
        read_session(path)
    assert str(path) in str(error.value)


@pytest.fixture(scope="module")
def ship(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ship(tmp_path_factory.mktemp("counted") / "ship").folder


def test_a_real_stream_leaves_one_session(ship: Path, tmp_path: Path) -> None:
    main(["stream", str(ship), "--frames", "40", "--hz", "30", "--statistics", str(tmp_path / "one")])
    one = read_folder(tmp_path / "one")[0]
    assert one.samples >= 2 and one.histograms["brightness"].total == one.samples
    assert one.histograms["area of organ"].total + one.histograms["no mask"].counts[1] >= one.samples


@pytest.fixture(scope="module")
def centres(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Statistics of 20 s with one frame in ten without a mask, copied to six sessions a centre.

    In the second centre a darker lamp. The frames come from a set clock: how many a real stream shows with a mask
    depends on the load of the machine.
    """
    root = tmp_path_factory.mktemp("centres")
    clock = Clock()
    statistics = writer(root / "one", clock)
    rng = np.random.default_rng(0)
    for number in range(40):
        clock.now = number / 2
        mask = np.zeros((16, 16), np.uint8)
        mask[: 4 + number % 3], mask[12:, :8] = 1, 2
        pixels = rng.integers(100, 160, (64, 80, 3), np.uint8)
        statistics.observe(shown(pixels, None if number % 10 == 0 else mask, uncertain=mask == 2))
        statistics._count_next()
    statistics.close()
    one = read_folder(root / "one")[0]
    assert one.samples == 40 and one.histograms["area of organ"].total == 36
    for folder, shift in (("oslo", 0), ("bern", 9)):
        for number in range(6):
            brightness = one.histograms["brightness"]
            counts = np.roll(brightness.counts, number % 3 - shift)
            histograms = dict(one.histograms) | {"brightness": replace(brightness, counts=counts)}
            day = f"2026-11-{number + (1 if folder == 'oslo' else 11):02}"
            (root / folder).mkdir(exist_ok=True)
            write_session(root / folder, replace(one, session=f"{folder}{number}", day=day, samples=40,
                                                 histograms=histograms))  # fmt: skip
    return root / "oslo", root / "bern"


def test_the_report_finds_the_darker_lamp_and_draws_it(
    centres: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, record = tmp_path / "site.html", tmp_path / "site.json"
    main(["site", "report", *map(str, centres), "--out", str(page), "--json", str(record)])
    out = capsys.readouterr().out
    assert out.startswith("brightness fell from ") and "another camera, lens, lamp" in out
    comparison = json.loads(record.read_text())["comparisons"][0]
    assert comparison["changed"] == ["brightness"] and comparison["groups"] == ["oslo", "bern"]
    html = page.read_text()
    assert "1 features changed" not in html and "1 feature changed." in html and html.count("<svg") >= 20
    assert "http" not in html.replace("http-equiv", "")


def test_the_days_before_and_after_a_date_are_compared(
    centres: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["site", "report", *map(str, centres), "--since", "2026-11-10", "--out", str(tmp_path / "s.html")])
    assert capsys.readouterr().out.startswith("brightness fell")
    main(["site", "report", str(centres[0]), "--since", "2026-11-03", "--out", str(tmp_path / "s.html")])
    assert capsys.readouterr().out.startswith("not tested: 2 and 4 sessions are too few for alpha 0.01")


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["{oslo}"], "name two folders to compare, or one with --since DAY"),
        (["{oslo}", "{tmp}/none"], "no folder; name one that edgemt stream --statistics wrote to"),
        (["{oslo}", "{tmp}"], "no file *.statistics.json"),
        (["{oslo}", "--since", "yesterday"], "'yesterday' is no day"),
        (["{oslo}", "--since", "2030-01-01"], "no session from that day"),
        (["{oslo}", "{bern}", "--alpha", "0"], "must be between 0 and 0.5"),
    ],
)
def test_bad_arguments_are_one_line(
    centres: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], why: str
) -> None:
    places = {"oslo": centres[0], "bern": centres[1], "tmp": tmp_path}
    with pytest.raises(SystemExit) as error:
        main(["site", "report", *(arg.format(**places) for arg in args), "--out", str(tmp_path / "s.html")])
    assert error.value.code == 2 and why in capsys.readouterr().err
