"""Latency as it is: every call kept, runtimes timed in turns, a camera's clock beside the back-to-back loop.

A machine wanders (clocks, neighbours, heat), so runtimes timed one after the other are timed on different
machines. Here each gets a short block, round after round, and ratios are taken inside a round.

Shapes: H W size in pixels, K channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import numpy as np

from deploy.machine import Calibrator, Load, describe, memory, temperature
from deploy.percentiles import median, ratio, summary
from deploy.timing import BenchOptions, Call, in_turns, paced, warm_up

__all__ = ["BenchOptions", "Call", "bench", "measure", "notes", "paced", "table"]

BENCH_FORMAT = 1
TIMED = (
    "uint8 frame in host memory to class mask in host memory, with hand-over, normalisation "
    "and argmax; without capture, decoding and resizing (see `host`)"
)


def measure(
    call: Call, frames: Sequence[np.ndarray] | np.ndarray, options: BenchOptions | None = None
) -> dict[str, Any]:
    """One call alone: its entry of a bench record."""
    return bench({getattr(call, "__name__", "call"): call}, frames, options)["calls"][0]


def bench(
    calls: Mapping[str, Call], frames: Sequence[np.ndarray] | np.ndarray, options: BenchOptions | None = None
) -> dict[str, Any]:
    """Time every call on the same frames, in turns: a JSON record with stable keys (README.md).

    The first call is the one that ratios are to. `frames` are uint8 [H, W, K] or [1, H, W, K], real ones:
    they are fed in a cycle, so that no call sees the same bytes twice running. Raises ValueError without
    calls or frames.
    """
    options = options or BenchOptions()
    if not calls:
        raise ValueError("bench: nothing to time; name a runtime or pass a call")
    fed = [np.ascontiguousarray(frame if frame.ndim == 4 else frame[None]) for frame in frames]
    if not fed:
        raise ValueError("bench: no frames; the ship has no golden ones, so pass some of your own")
    machine, before, calibrator = describe(), Load.now(), Calibrator()
    warm = {name: warm_up(call, fed, options) for name, call in calls.items()}
    blocks = in_turns(calls, fed, options, calibrator)
    reference = next(iter(calls))
    entries = []
    for name, call in calls.items():
        raw = [ns for block in blocks[name].values() for ns in block]
        medians = {i: median(block) for i, block in blocks[name].items()}
        shared = [i for i in medians if i in blocks[reference]]
        entry = {
            "name": name,
            **{key: getattr(call, key, None) for key in ("runtime", "file", "precision", "threads", "version")},
            **summary(raw),
            "warmup": warm[name],
            "best_round_ms": round(min(medians.values()) / 1e6, 4),
            "worst_round_ms": round(max(medians.values()) / 1e6, 4),
            "ratio": {
                "to": reference,
                **ratio([medians[i] for i in shared], [median(blocks[reference][i]) for i in shared]),
            },
            "paced": None,
            "raw_ns": raw,
            "raw_rounds": [len(block) for block in blocks[name].values()],
        }
        entries.append(entry)
    if options.paced_hz and options.paced_seconds:
        for entry, call in zip(entries, calls.values(), strict=True):
            entry["paced"] = paced(call, fed, hz=options.paced_hz, seconds=options.paced_seconds)
    record = {
        "format": BENCH_FORMAT,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine,
        "temperature_end_c": temperature(),
        "foreign_cores": before.foreign(Load.now()),
        "calibrator": calibrator.summary(),
        "options": asdict(options),
        "timed": TIMED,
        "frames": {"count": len(fed), "shape": list(fed[0].shape), "dtype": str(fed[0].dtype)},
        "reference": reference,
        "memory": memory(),
        "calls": entries,
    }
    return {**record, "notes": notes(record)}


def table(record: Mapping[str, Any]) -> str:
    """A bench record as text, units in the header, its notes below. A tilde marks an anecdotal p99."""
    rows = [_HEADER, *(_row(entry) for entry in record["calls"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    hz = record["options"]["paced_hz"]
    legend = f"ratio: p50 to {record['reference']}, median over rounds"
    legend += f"; missed: later than one frame at {hz:g} Hz" if hz else ""
    return "\n".join(
        [*lines, "", f"{record['machine']['cpu']}; {legend}", *(f"note: {note}" for note in record["notes"])]
    )


_HEADER = [
    "call",
    "precision",
    "threads",
    "n",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "max ms",
    "ratio",
    "fps",
    "missed",
    "Dice",
]


def _row(entry: Mapping[str, Any]) -> list[str]:
    tail = "~" if "p99" in entry["anecdotal"] else ""
    cell = [entry["name"], entry["precision"] or "-", str(entry["threads"] or "-"), str(entry["n"])]
    cell += [
        f"{entry['p50_ms']:.2f}",
        f"{entry['p90_ms']:.2f}",
        f"{tail}{entry['p99_ms']:.2f}",
        f"{entry['max_ms']:.2f}",
    ]
    cell += [f"{entry['ratio']['median']:.2f}", f"{entry['throughput_hz']:.0f}"]
    cell.append(f"{entry['paced']['misses']}/{entry['paced']['offered']}" if entry["paced"] else "-")
    return [*cell, f"{entry['dice']:.4f}" if entry.get("dice") is not None else "-"]


def notes(record: Mapping[str, Any]) -> list[str]:
    """What a reader should know before quoting a number of this record."""
    said = []
    few = [f"{e['name']} n = {e['n']}" for e in record["calls"] if "p99" in e["anecdotal"]]
    if few:
        said.append(f"p99 is anecdotal below 1000 calls: {', '.join(few)}")
    for runtime in {e["runtime"] for e in record["calls"] if e["runtime"]}:
        own = [e for e in record["calls"] if e["runtime"] == runtime]
        whole = [e for e in own if str(e["precision"]).startswith("int8")]
        real = [e for e in own if not str(e["precision"]).startswith("int8")]
        for e in whole:
            quicker = min(real, key=lambda other: other["p50_ms"], default=None)
            if quicker is not None and quicker["ratio"]["median"] <= e["ratio"]["median"]:
                said.append(f"INT8 is not faster than {quicker['precision']} with {runtime} here")
    if (record["foreign_cores"] or 0) > 0.1:
        said.append(f"other processes took {record['foreign_cores']:.2f} cores meanwhile: trust ratios, not times")
    noise = record["calibrator"]
    if noise["p90_ms"] > 1.25 * noise["p10_ms"]:
        said.append(f"fixed arithmetic took {noise['p10_ms']} to {noise['p90_ms']} ms (p10, p90): the speed wandered")
    return said
