"""Hours instead of seconds: whether a device keeps its speed, its clocks and its memory.

Every call counts; a time line of percentiles is kept instead of every time, and the slowest calls with their moment.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from deploy.hardware.machine import Load
from deploy.hardware.monitor import Watch
from deploy.measurement.percentiles import summary
from deploy.measurement.timing import Call

_SLOWEST = 20
_KEPT = ("n", "p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms")
_GROWTH_BYTES = 8 << 20  # less is a heap that breathes
_SLOWER = 1.1


def soak(
    call: Call, frames: Sequence[np.ndarray], *, minutes: float, interval_s: float, watch: Watch | None = None
) -> dict[str, Any]:
    """Call back to back for `minutes`: {timeline, drift, throttled, slowest, notes}, documented in README.md.

    Drift compares the last third with the first: `p50_ratio`, and how much resident and device memory grew.
    """
    watch, end = watch or Watch(), time.monotonic() + 60 * minutes
    begun, total = time.monotonic(), 0
    timeline: list[dict[str, Any]] = []
    slowest: list[tuple[int, float]] = []
    while (now := time.monotonic()) < end or not timeline:
        load = Load.now()
        times: list[int] = []
        until = end if end - now < 1.5 * interval_s else now + interval_s  # no stub of an interval at the end
        while (at := time.monotonic()) < until or not times:
            before = time.perf_counter_ns()
            call(frames[total % len(frames)])
            times.append(time.perf_counter_ns() - before)
            total += 1
            if len(slowest) < _SLOWEST or times[-1] > slowest[0][0]:
                (heapq.heappush if len(slowest) < _SLOWEST else heapq.heappushpop)(slowest, (times[-1], at - begun))
        said = summary(times)
        looked = watch.look()
        timeline.append(
            {
                **{key: value for key, value in looked.items() if key != "gpu_throttle"},
                "at_s": round(time.monotonic() - begun, 2),
                "foreign_cores": load.foreign(Load.now()),
                **{key: said[key] for key in _KEPT},
            }
        )
        watch.points.append(looked)
    record = {
        "minutes": round((time.monotonic() - begun) / 60, 3),
        "n": total,
        "timeline": timeline,
        "drift": drift(timeline),
        "throttled": watch.throttled(),
        "slowest": [{"ms": round(ns / 1e6, 4), "at_s": round(at, 2)} for ns, at in sorted(slowest, reverse=True)],
    }
    return {**record, "notes": soak_notes(record)}


def drift(timeline: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """The last third of a time line against the first. A first interval that still fills caches is left out of it."""
    points = timeline[1:] if len(timeline) > 3 else timeline
    third = max(len(points) // 3, 1)
    first, last = points[:third], points[-third:]
    return {
        "p50_ratio": _against(first, last, "p50_ms"),
        "p99_ratio": _against(first, last, "p99_ms"),
        "clock_ratio": _against(first, last, "cpu_mhz"),
        "resident_bytes": _growth(first, last, "resident_bytes"),
        "gpu_bytes": _growth(first, last, "gpu_bytes"),
    }


def soak_notes(record: dict[str, Any]) -> list[str]:
    """What the soak found, in words; nothing when the device kept everything."""
    said, found, throttled = [], record["drift"], record["throttled"]
    if (found["p50_ratio"] or 1) > _SLOWER:
        said.append(f"soak: the last third is {found['p50_ratio']:.2f} times as slow as the first")
    if (found["clock_ratio"] or 1) < 1 / _SLOWER:
        said.append(f"soak: clocks fell to {found['clock_ratio']:.0%} of what they were")
    for name in ("resident_bytes", "gpu_bytes"):
        if (found[name] or 0) > _GROWTH_BYTES:
            kind = "resident" if name == "resident_bytes" else "device"
            said.append(f"soak: {kind} memory grew by {found[name] / 2**20:.0f} MiB in {record['minutes']:.1f} minutes")
    if throttled.get("heat_events"):
        said.append(f"soak: the processor slowed down for heat {throttled['heat_events']:.0f} times")
    return said


def _against(first: Sequence[dict[str, Any]], last: Sequence[dict[str, Any]], key: str) -> float | None:
    before, after = _median(first, key), _median(last, key)
    return None if before is None or after is None or not before else round(after / before, 4)


def _growth(first: Sequence[dict[str, Any]], last: Sequence[dict[str, Any]], key: str) -> float | None:
    before, after = _median(first, key), _median(last, key)
    return None if before is None or after is None else after - before


def _median(points: Sequence[dict[str, Any]], key: str) -> float | None:
    there = [point[key] for point in points if point.get(key) is not None]
    return float(np.median(there)) if there else None
