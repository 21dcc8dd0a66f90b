"""Minutes instead of seconds: percentiles over time, memory that grows, clocks that fall."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.benchmark import soak as soak_module
from deploy.benchmark.soak import soak, soak_notes
from deploy.hardware.monitor import HardwareMonitor
from deploy.measurement.drift import drift

FRAMES = [np.zeros((1, 2, 2, 1), np.uint8)]


class Clock:
    """Time that passes only when somebody works."""

    def __init__(self) -> None:
        self.ns = 0

    def perf_counter_ns(self) -> int:
        return self.ns

    def monotonic(self) -> float:
        return self.ns / 1e9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(soak_module, "time", made)
    return made


def test_a_soak_lasts_its_minutes_and_counts_every_call(clock: Clock) -> None:
    def call(_: np.ndarray) -> None:
        clock.ns += 10_000_000

    found = soak(call, FRAMES, minutes=1, interval_s=10)
    assert found["n"] == 6000 == sum(point["n"] for point in found["timeline"])
    assert (found["minutes"], len(found["timeline"])) == (1.0, 6)
    assert found["timeline"][0]["p50_ms"] == 10
    assert found["drift"]["p50_ratio"] == 1
    assert len(found["slowest"]) == 20
    assert not any("slow" in note for note in found["notes"])


def test_a_device_that_slows_down_is_told_with_the_moment_of_its_worst_call(clock: Clock) -> None:
    def call(_: np.ndarray) -> None:
        at = clock.ns / 1e9
        clock.ns += 500_000_000 if 30 < at < 30.02 else 20_000_000 if at > 40 else 10_000_000

    found = soak(call, FRAMES, minutes=1, interval_s=5)
    assert found["drift"]["p50_ratio"] == 2
    assert found["slowest"][0]["ms"] == 500
    assert found["slowest"][0]["at_s"] == pytest.approx(30, abs=0.1)
    assert any("2.00 times as slow" in note for note in found["notes"])
    assert max(point["max_ms"] for point in found["timeline"]) == 500


def test_a_call_longer_than_an_interval_still_gives_a_time_line(clock: Clock) -> None:
    def call(_: np.ndarray) -> None:
        clock.ns += 30_000_000_000

    found = soak(call, FRAMES, minutes=1, interval_s=5)
    assert [point["n"] for point in found["timeline"]] == [1, 1]


def timeline(**series: list[float]) -> list[dict[str, float]]:
    length = len(next(iter(series.values())))
    return [{"p50_ms": 1.0, "p99_ms": 1.0, **{k: v[i] for k, v in series.items()}} for i in range(length)]


def test_memory_that_grows_is_a_note_and_a_heap_that_breathes_is_none() -> None:
    leak = drift(timeline(resident_bytes=[(100 + 10 * i) * 2.0**20 for i in range(10)]))
    calm = drift(timeline(resident_bytes=[(100 + i % 2) * 2.0**20 for i in range(10)]))
    result = [soak_notes({"drift": found, "throttled": {}, "minutes": 5.0}) for found in (leak, calm)]
    assert leak["resident_bytes"] == 60 * 2**20
    assert "resident memory grew by 60 MiB in 5.0 minutes" in result[0][0] and result[1] == []


def test_the_first_interval_does_not_count_as_a_leak() -> None:
    found = drift(timeline(resident_bytes=[0.0] + [5e8] * 6))
    assert found["resident_bytes"] == 0


def test_clocks_that_fall_and_heat_events_are_told() -> None:
    found = drift(timeline(cpu_mhz=[3000.0] * 4 + [2000.0] * 5))
    result = soak_notes({"drift": found, "throttled": {"heat_events": 3}, "minutes": 1.0})
    assert any("clocks fell to 67%" in note for note in result)
    assert any("for heat 3 times" in note for note in result)


def test_a_watch_of_the_callers_own_is_used(clock: Clock) -> None:
    def call(_: np.ndarray) -> None:
        clock.ns += 1_000_000_000

    watch = HardwareMonitor()
    soak(call, FRAMES, minutes=0.1, interval_s=2, watch=watch)
    assert len(watch.points) == 3
