"""The time line of a long stream: bounded, and it tells a leak or a growing age from a steady one."""

from __future__ import annotations

from deploy.stream.state.latency import DriftTimeline, LatencySeries


def streamed(
    samples: int, *, ms: float = 10.0, later_ms: float = 0.0, leak: int = 0, points: int = 240
) -> DriftTimeline:
    """An interval shows ten masks, each `later_ms` older per interval; memory grows by `leak` bytes per interval."""
    delay = LatencySeries()
    line = DriftTimeline(delay, max_points=points)
    for k in range(samples):
        for frame in range(10):
            delay.add(10 * k + frame, int((ms + k * later_ms) * 1e6))
        line.sample(at_s=5.0 * (k + 1), frames=10 * (k + 1), resident_bytes=1_000_000 + leak * k)
    return line


def test_timeline_of_steady_stream_has_no_drift() -> None:
    said = streamed(30).record()
    assert said["drift"]["resident_bytes"] == 0
    assert said["drift"]["p50_ratio"] == said["drift"]["p99_ratio"] == 1.0


def test_timeline_detects_leak_and_growing_age() -> None:
    said = streamed(31, later_ms=1.0, leak=1000).record()
    assert said["drift"]["resident_bytes"] == 20_000
    assert said["drift"]["p50_ratio"] > 1.5


def test_timeline_interval_has_its_own_times_only() -> None:
    points = streamed(3, ms=10.0, later_ms=5.0).record()["timeline"]
    assert [point["p50_ms"] for point in points] == [10.0, 15.0, 20.0]
    assert [point["n"] for point in points] == [10, 10, 10]


def test_timeline_is_bounded_and_covers_whole_stream() -> None:
    said = streamed(1000, points=16, leak=1).record()
    assert len(said["timeline"]) < 16
    assert said["timeline"][0]["at_s"] < 5 * 1000 / 4 and said["timeline"][-1]["at_s"] > 5 * 1000 * 3 / 4
    assert said["drift"]["resident_bytes"] > 400


def test_timeline_without_masks_has_no_age_and_no_drift() -> None:
    line = DriftTimeline(LatencySeries())
    line.sample(at_s=5.0, frames=150, resident_bytes=None)
    assert line.record() == {
        "timeline": [{"at_s": 5.0, "frames": 150, "resident_bytes": None, "n": 0, "p50_ms": None, "p99_ms": None}],
        "drift": None,
    }
