"""Latency as it is: every call kept, runtimes timed in turns, a camera's clock beside the back-to-back loop.

A machine wanders (clocks, neighbours, heat), so runtimes timed one after the other are timed on different
machines. Here each gets a short block, round after round, and ratios are taken inside a round.

Shapes: H W size in pixels, K channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import numpy as np

from deploy.benchmark.call_breakdown import split, together
from deploy.benchmark.soak import soak
from deploy.benchmark.summary import budget, notes, table
from deploy.hardware.energy import energy, meters
from deploy.hardware.machine import Calibrator, Load, describe, memory, physical_cores, temperature
from deploy.hardware.monitor import Watch
from deploy.hardware.nvml import Gpu
from deploy.measurement.percentiles import median, ratio, summary
from deploy.measurement.timing import BenchOptions, Call, in_turns, paced, warm_up

__all__ = ["BenchOptions", "Call", "bench", "measure", "notes", "paced", "table", "without_raw"]

BENCH_FORMAT = 1
TIMED = (
    "uint8 frame in host memory to class mask in host memory, with hand-over, normalisation "
    "and argmax; without capture, decoding and resizing (see `host`)"
)
_SAID = ("runtime", "file", "precision", "threads", "version", "device", "details")


def measure(
    call: Call, frames: Sequence[np.ndarray] | np.ndarray, options: BenchOptions | None = None
) -> dict[str, Any]:
    """One call alone: its entry of a bench record."""
    return bench({getattr(call, "__name__", "call"): call}, frames, options)["calls"][0]


def bench(
    calls: Mapping[str, Call],
    frames: Sequence[np.ndarray] | np.ndarray,
    options: BenchOptions | None = None,
    *,
    makers: Mapping[str, Callable[[int], Call]] | None = None,
) -> dict[str, Any]:
    """Time every call on the same frames, in turns: a JSON record with stable keys (README.md).

    The first call is the one that ratios are to. `frames` are uint8 [H, W, K] or [1, H, W, K], real ones:
    they are fed in a cycle, so that no call sees the same bytes twice running. `makers[name](threads)` gives
    another runner like `calls[name]`, for several cameras at once. Raises ValueError without calls or frames.
    """
    options = options or BenchOptions()
    if not calls:
        raise ValueError("bench: nothing to time; name a runtime or pass a call")
    fed = [np.ascontiguousarray(frame if frame.ndim == 4 else frame[None]) for frame in frames]
    if not fed:
        raise ValueError("bench: no frames; the ship has no golden ones, so pass some of your own")
    machine, before, calibrator, watch = describe(), Load.now(), Calibrator(), Watch(gpu=Gpu.find()[0])

    def between() -> None:
        calibrator()
        watch()

    warm = {name: warm_up(call, fed, options) for name, call in calls.items()}
    blocks = in_turns(calls, fed, options, between)
    reference = next(iter(calls))
    entries = [_entry(name, call, blocks, to=reference, warm=warm[name]) for name, call in calls.items()]
    foreign = before.foreign(Load.now())  # while calls took turns; what follows uses other threads on purpose
    using, told = meters()
    for entry, call in zip(entries, calls.values(), strict=True):
        entry["stages"] = split(call, fed, calls=options.stage_calls)
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
        "foreign_cores": foreign,
        "calibrator": calibrator.summary(),
        "watch": watch.summary(),
        "energy_meters": told,
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
        found = soak(
            calls[quickest],
            fed,
            minutes=options.soak_minutes,
            interval_s=options.soak_interval_s,
            watch=Watch(gpu=Gpu.find()[0]),
        )
        record["soak"] = {"call": quickest, **found}
    return {**record, "notes": notes(record)}


def without_raw(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without its single times and time lines, for a report that links to the whole of it."""
    left_out = ("raw_ns", "raw_rounds", "raw_age_ns", "timeline", "slowest")

    def lean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: lean(held) for key, held in value.items() if key not in left_out}
        return [lean(held) for held in value] if isinstance(value, list) else value

    return {str(key): lean(value) for key, value in record.items()}


def _entry(
    name: str, call: Call, blocks: Mapping[str, Mapping[int, list[int]]], *, to: str, warm: int
) -> dict[str, Any]:
    raw = [ns for block in blocks[name].values() for ns in block]
    medians = {i: median(block) for i, block in blocks[name].items()}
    shared = [i for i in medians if i in blocks[to]]
    return {
        "name": name,
        **{key: getattr(call, key, None) for key in _SAID},
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
    """Several cameras at once; `gain` is the throughput against that of one."""
    if make is None or not options.streams_seconds:
        return []
    cores = entry["threads"] or physical_cores()
    found = [
        together(make, frames, streams=count, cores=cores, seconds=options.streams_seconds) for count in options.streams
    ]
    return [{**said, "gain": round(said["throughput_hz"] / entry["throughput_hz"], 4)} for said in found]
