"""The page of a bench record: everything drawn, nothing fetched, every name escaped."""

from __future__ import annotations

import html.parser
import re

import pytest

from edgemt.report.bench_charts import accuracy_front, distributions, front, parts_of_a_call, soak_lines, tails
from edgemt.report.bench_page import bench_page

MS = 1_000_000


def summary(ms: float) -> dict[str, object]:
    keys = ("p10", "p50", "p90", "p95", "p99", "p99_9", "max", "tail", "mean")
    return {"n": 400, "throughput_hz": 1000 / ms, "anecdotal": ["p99"], **{f"{k}_ms": ms for k in keys}}


def call(name: str, ms: float, *, dice: float | None = 0.9, **more: object) -> dict[str, object]:
    raw = [round(ms * MS * (1 + (i % 7) / 50)) for i in range(400)]
    paced = {"hz": 30, "offered": 90, "misses": 2, "dropped": 1, "age": summary(ms + 1)}
    return {
        **{"name": name, "precision": "f32", "file": "model.onnx", "threads": 2, "dice": dice, "dice_from": "card"},
        **{"raw_ns": raw, "raw_rounds": [200, 200], "size_bytes": 3_400_000},
        **summary(ms), "paced": paced, "paced_second": None,
        "stages": {part: summary(ms / 3) for part in ("copy_in", "infer", "copy_out", "whole")},
        "streams": [{**summary(ms), "streams": 2, "threads": 1}],
        "energy": {"masks": 9, "seconds": 1.0, "rapl": {"package-0": {"mj_per_mask": 31.4}}},
        "cold": {"process_ms": 400, "load_ms": 100, "first_mask_ms": 9, "added_bytes": 1e7},
        **more,
    }  # fmt: skip


def record(**more: object) -> dict[str, object]:
    points = [
        {"at_s": 10.0 * i, "p50_ms": 1.0, "p99_ms": 2.0, "max_ms": 3.0, "resident_bytes": 1e8} for i in range(1, 7)
    ]
    return {
        "created": "2026-01-01T00:00:00+00:00", "machine": {"cpu": "A & B"}, "ship": {"name": "organ <i>"},
        "frames": {"shape": [1, 64, 48, 3]}, "options": {"paced_hz": 30.0}, "foreign_cores": 0.0,
        "calls": [call("quick", 1.0, dice=0.90), call("slow & <b>", 40.0, dice=0.92), call("beaten", 50.0, dice=0.91)],
        "host": {"source": [720, 1280], "fit_frame": summary(2.0), "enlarge_mask": summary(1.0)},
        "soak": {"call": "quick", "minutes": 1.0, "n": 1000, "timeline": points},
        "budget": {"ms": 33, "passed": True, "said": "fast enough: quick has p99 1.00 ms"},
        "watch": {"samples": 3, "cpu_mhz": {"min": 1.0, "median": 2.0, "max": 3.0}, "timeline": []},
        "energy_meters": {"rapl": "ok", "nvml": "no driver"}, "notes": ["trust <ratios>"], **more,
    }  # fmt: skip


def test_the_page_has_every_section_and_is_whole() -> None:
    page = bench_page(record())
    for title in (
        "Calls",
        "Accuracy and latency",
        "Distribution",
        "Time line",
        "Where the time goes",
        "Cameras",
        "Soak",
    ):
        assert f"<h2>{title}</h2>" in page, title
    assert "Start, memory, energy" in page and "package-0 31.4" in page and "no driver" in page
    assert "Fast enough: quick has p99 1.00 ms" in page
    open_tags: list[str] = []

    class Parser(html.parser.HTMLParser):
        void = {"meta", "br", "img", "line", "rect", "circle", "path", "polyline", "polygon"}

        def handle_starttag(self, tag: str, attributes: object) -> None:
            if tag not in self.void:
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in self.void:
                assert open_tags.pop() == tag

    Parser().feed(page)
    assert open_tags == []


def test_nothing_is_fetched_and_every_name_is_escaped() -> None:
    page = bench_page(record())
    assert not re.search(r"(src|href)=|<script|url\(|https?://", page)
    assert "<b>" not in page and "<i>" not in page and "slow &amp; &lt;b&gt;" in page and "trust &lt;ratios&gt;" in page


def test_the_front_is_what_nothing_beats_in_both() -> None:
    assert front(record()["calls"]) == ["quick", "slow & <b>"]  # type: ignore[arg-type]
    assert front([call("a", 2.0, dice=0.9), call("b", 1.0, dice=0.9), call("c", 9.0, dice=None)]) == ["b"]
    chart = accuracy_front([call("a", 2.0, dice=0.9), call("b", 1.0, dice=0.9)], deadline_ms=33)
    assert chart.count('class="control"') == 1 and "33.0 ms" in chart


def test_a_distribution_shows_the_single_slowest_call() -> None:
    stalled = call("a", 1.0)
    stalled["raw_ns"] = [MS] * 999 + [400 * MS]
    assert "slowest 400 ms" in distributions([stalled], deadline_ms=33)
    assert "99.9 %" in tails([stalled], deadline_ms=33)


@pytest.mark.parametrize("missing", ["soak", "budget", "host", "watch", "energy_meters", "notes", "options", "ship"])
def test_what_a_record_lacks_is_left_out(missing: str) -> None:
    assert "<h2>Calls</h2>" in bench_page({key: value for key, value in record().items() if key != missing})


def test_a_plain_call_without_parts_streams_energy_or_dice_has_a_page() -> None:
    plain = call("noop", 1.0, dice=None, stages=None, streams=[], energy=None, cold=None, paced=None, size_bytes=None)
    page = bench_page(record(calls=[plain], soak=None, budget=None))
    assert "Where the time goes" not in page and "Cameras" not in page and "<h2>Distribution</h2>" in page
    assert accuracy_front([plain], deadline_ms=33) == "" and parts_of_a_call([plain], {}) == ""


def test_a_soak_draws_only_what_the_machine_tells() -> None:
    points = [{"at_s": 1.0, "cpu_mhz": None}, {"at_s": 2.0, "cpu_mhz": None}]
    assert soak_lines(points, {"cpu_mhz": "processor"}, title="Clocks") == ""
