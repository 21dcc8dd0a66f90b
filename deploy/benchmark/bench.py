"""The benchmark record: latency of several runners, interleaved in time, without discarding slow calls.

The speed of a machine varies (clocks, other programs, heat), so runtimes that are timed one after the other are timed
under different conditions. Here they alternate in short blocks, and ratios are taken inside a round.

Shapes: H W size in pixels, K channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import numpy as np

from deploy.benchmark.call_breakdown import time_call_stages, time_concurrent
from deploy.benchmark.soak import soak
from deploy.benchmark.summary import budget, notes, table
from deploy.hardware.energy import energy, meters
from deploy.hardware.machine import CpuLoad, SpeedReference, describe, memory, physical_cores, temperature
from deploy.hardware.monitor import HardwareMonitor
from deploy.hardware.nvml import Gpu
from deploy.measurement.percentiles import median, ratio, summary
from deploy.measurement.timing import BenchOptions, Call, paced, time_interleaved, warm_up
from deploy.runtimes.registry import DISTRIBUTIONS

__all__ = ["BenchOptions", "Call", "bench", "measure", "notes", "paced", "table", "without_raw"]

BENCH_FORMAT = 1
TIMED = (
    "uint8 frame in host memory to class mask in host memory, with hand-over, normalisation "
    "and argmax; without capture, decoding and resizing (see `host`)"
)
_RUNNER_FACTS = ("runtime", "file", "precision", "threads", "version", "device", "details")


def measure(
    call: Call, frames: Sequence[np.ndarray] | np.ndarray, options: BenchOptions | None = None
) -> dict[str, Any]:
    """The entry of a bench record for a single call."""
    return bench({getattr(call, "__name__", "call"): call}, frames, options)["calls"][0]


def bench(
    calls: Mapping[str, Call],
    frames: Sequence[np.ndarray] | np.ndarray,
    options: BenchOptions | None = None,
    *,
    makers: Mapping[str, Callable[[int], Call]] | None = None,
) -> dict[str, Any]:
    """Time every call on the same frames, interleaved; returns a JSON record with stable keys (deploy/README.md).

    Ratios are relative to the first call. `frames` are real frames uint8 [H, W, K] or [1, H, W, K]; they are used
    cyclically, so that consecutive calls get different frames. `makers[name](threads)` creates another runner like
    `calls[name]`, for concurrent cameras. Raises ValueError without calls or frames.
    """
    options = options or BenchOptions()
    if not calls:
        raise ValueError("bench: nothing to time; name a runtime or pass a call")
    fed = [np.ascontiguousarray(frame if frame.ndim == 4 else frame[None]) for frame in frames]
    if not fed:
        raise ValueError("bench: no frames; the ship has no golden ones, so pass some of your own")
    machine, before, calibrator, watch = (
        describe(DISTRIBUTIONS),
        CpuLoad.now(),
        SpeedReference(),
        HardwareMonitor(gpu=Gpu.detect()[0]),
    )

    def between() -> None:
        calibrator()
        watch()

    warm = {name: warm_up(call, fed, options) for name, call in calls.items()}
    blocks = time_interleaved(calls, fed, options, between)
    reference = next(iter(calls))
    entries = [_entry(name, call, blocks, to=reference, warm=warm[name]) for name, call in calls.items()]
    other_processes = before.other_processes(CpuLoad.now())  # before the concurrent part, which uses further threads
    using, meter_status = meters()
    for entry, call in zip(entries, calls.values(), strict=True):
        entry["stages"] = time_call_stages(call, fed, calls=options.stage_calls)
        entry["paced"] = _paced(call, fed, hz=options.paced_hz, options=options)
        second = options.second_hz if options.second_hz != options.paced_hz else 0.0
        entry["paced_second"] = _paced(call, fed, hz=second, options=options)
        entry["energy"] = energy(call, fed, using=using, seconds=options.energy_seconds)
        entry["streams"] = _streams((makers or {}).get(entry["name"]), fed, options, entry)
        between()
    record = {
        "format": BENCH_FORMAT,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine,
        "temperature_end_c": temperature(),
        "foreign_cores": other_processes,
        "calibrator": calibrator.summary(),
        "watch": watch.summary(),
        "energy_meters": meter_status,
        "options": asdict(options),
        "timed": TIMED,
        "frames": {"count": len(fed), "shape": list(fed[0].shape), "dtype": str(fed[0].dtype)},
        "reference": reference,
        "memory": {**memory(), "gpu_bytes": watch.points[-1]["gpu_bytes"]},
        "calls": entries,
        "soak": None,
        "budget": budget(entries, ms=options.budget_ms),
    }
    if options.soak_minutes:
        quickest = min(entries, key=lambda entry: entry["p50_ms"])["name"]
        results = soak(
            calls[quickest],
            fed,
            minutes=options.soak_minutes,
            interval_s=options.soak_interval_s,
            watch=HardwareMonitor(gpu=Gpu.detect()[0]),
        )
        record["soak"] = {"call": quickest, **results}
    return {**record, "notes": notes(record)}


def without_raw(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without its single times and time lines, for a report that links to the full record."""
    left_out = ("raw_ns", "raw_rounds", "raw_age_ns", "timeline", "slowest")

    def lean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: lean(item) for key, item in value.items() if key not in left_out}
        return [lean(item) for item in value] if isinstance(value, list) else value

    return {str(key): lean(value) for key, value in record.items()}


def _entry(
    name: str, call: Call, blocks: Mapping[str, Mapping[int, list[int]]], *, to: str, warm: int
) -> dict[str, Any]:
    raw = [ns for block in blocks[name].values() for ns in block]
    medians = {i: median(block) for i, block in blocks[name].items()}
    shared = [i for i in medians if i in blocks[to]]
    return {
        "name": name,
        **{key: getattr(call, key, None) for key in _RUNNER_FACTS},
        **summary(raw),
        "warmup": warm,
        "best_round_ms": round(min(medians.values()) / 1e6, 4),
        "worst_round_ms": round(max(medians.values()) / 1e6, 4),
        "ratio": {"to": to, **ratio([medians[i] for i in shared], [median(blocks[to][i]) for i in shared])},
        "raw_ns": raw,
        "raw_rounds": [len(block) for block in blocks[name].values()],
    }


def _paced(call: Call, frames: Sequence[np.ndarray], *, hz: float, options: BenchOptions) -> dict[str, Any] | None:
    return paced(call, frames, hz=hz, seconds=options.paced_seconds) if hz and options.paced_seconds else None


def _streams(
    make: Callable[[int], Call] | None, frames: Sequence[np.ndarray], options: BenchOptions, entry: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Concurrent cameras; `gain` is the throughput relative to one camera."""
    if make is None or not options.streams_seconds:
        return []
    cores = entry["threads"] or physical_cores()
    results = [
        time_concurrent(make, frames, streams=count, cores=cores, seconds=options.streams_seconds)
        for count in options.streams
    ]
    return [{**row, "gain": round(row["throughput_hz"] / entry["throughput_hz"], 4)} for row in results]
