"""Soak test: hours of calls without a pause, to show drift of speed, clocks and memory.

Every call is counted; a time line of percentiles is stored instead of single times, and the slowest calls with their
time.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from deploy.hardware.machine import CpuLoad
from deploy.hardware.monitor import HardwareMonitor
from deploy.measurement.drift import drift
from deploy.measurement.percentiles import summary
from deploy.measurement.timing import Call

_SLOWEST = 20
_TIMELINE_KEYS = ("n", "p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms")
_GROWTH_BYTES = 8 << 20  # smaller changes are normal variation of the heap
_SLOWER = 1.1


def soak(
    call: Call, frames: Sequence[np.ndarray], *, minutes: float, interval_s: float, watch: HardwareMonitor | None = None
) -> dict[str, Any]:
    """Call without pauses for `minutes`: {timeline, drift, throttled, slowest, notes}, documented in deploy/README.md.

    Drift compares the last third with the first: `p50_ratio`, and how much resident and device memory grew.
    """
    watch, end = watch or HardwareMonitor(), time.monotonic() + 60 * minutes
    started, total = time.monotonic(), 0
    timeline: list[dict[str, Any]] = []
    slowest: list[tuple[int, float]] = []
    while (now := time.monotonic()) < end or not timeline:
        load = CpuLoad.now()
        times: list[int] = []
        until = end if end - now < 1.5 * interval_s else now + interval_s  # the last interval absorbs a short remainder
        while (at := time.monotonic()) < until or not times:
            before = time.perf_counter_ns()
            call(frames[total % len(frames)])
            times.append(time.perf_counter_ns() - before)
            total += 1
            if len(slowest) < _SLOWEST or times[-1] > slowest[0][0]:
                (heapq.heappush if len(slowest) < _SLOWEST else heapq.heappushpop)(slowest, (times[-1], at - started))
        times_summary = summary(times)
        reading = watch.read()
        timeline.append(
            {
                **{key: value for key, value in reading.items() if key != "gpu_throttle"},
                "at_s": round(time.monotonic() - started, 2),
                "foreign_cores": load.other_processes(CpuLoad.now()),
                **{key: times_summary[key] for key in _TIMELINE_KEYS},
            }
        )
        watch.points.append(reading)
    record = {
        "minutes": round((time.monotonic() - started) / 60, 3),
        "n": total,
        "timeline": timeline,
        "drift": drift(timeline),
        "throttled": watch.throttled(),
        "slowest": [{"ms": round(ns / 1e6, 4), "at_s": round(at, 2)} for ns, at in sorted(slowest, reverse=True)],
    }
    return {**record, "notes": soak_notes(record)}


def soak_notes(record: dict[str, Any]) -> list[str]:
    """Findings of a soak test as sentences; empty where nothing drifted."""
    notes, drifted, throttled = [], record["drift"], record["throttled"]
    if (drifted["p50_ratio"] or 1) > _SLOWER:
        notes.append(f"soak: the last third is {drifted['p50_ratio']:.2f} times as slow as the first")
    if (drifted["clock_ratio"] or 1) < 1 / _SLOWER:
        notes.append(f"soak: clocks fell to {drifted['clock_ratio']:.0%} of what they were")
    for name in ("resident_bytes", "gpu_bytes"):
        if (drifted[name] or 0) > _GROWTH_BYTES:
            kind = "resident" if name == "resident_bytes" else "device"
            notes.append(
                f"soak: {kind} memory grew by {drifted[name] / 2**20:.0f} MiB in {record['minutes']:.1f} minutes"
            )
    if throttled.get("heat_events"):
        notes.append(f"soak: the processor slowed down for heat {throttled['heat_events']:.0f} times")
    return notes
