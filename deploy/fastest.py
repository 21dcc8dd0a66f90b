"""Which file on which runtime is the quickest here: all of them in turns, and what a card says of it afterwards.

Ratios are taken inside a round, and of the quick tenth of its calls: a machine that wanders, or that others use, does
not choose for us. The choice holds for the machine that made it: `edgemt bench` on the device has the last word.

Shapes: H W size in pixels, K channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deploy.machine import Load
from deploy.percentiles import ratio, summary
from deploy.timing import BenchOptions, Call, in_turns, warm_up
from edgemt.contract import Card

QUICK = BenchOptions(warmup=10, warmup_seconds=0.5, iterations=300, seconds=1.5, rounds=7, block_ms=60)


def timed(
    calls: Mapping[str, Call], frames: Sequence[np.ndarray] | np.ndarray, options: BenchOptions = QUICK
) -> dict[str, dict[str, Any]]:
    """call -> p50_ms, p90_ms, n, and `ratio`: its time as a share of the first call's. Frames uint8 [H, W, K]."""
    fed = [np.ascontiguousarray(frame if frame.ndim == 4 else frame[None]) for frame in frames]
    for call in calls.values():
        warm_up(call, fed, options)
    blocks = in_turns(calls, fed, options)
    quick = {name: {turn: float(np.quantile(t, 0.1)) for turn, t in block.items()} for name, block in blocks.items()}
    first = quick[next(iter(calls))]
    found = {}
    for name, block in blocks.items():
        shared = [turn for turn in quick[name] if turn in first]
        said = summary([ns for times in block.values() for ns in times])
        against = ratio([quick[name][turn] for turn in shared], [first[turn] for turn in shared])
        found[name] = {**{key: said[key] for key in ("p50_ms", "p90_ms", "n")}, "ratio": against["median"]}
    return found


def latency_records(
    calls: Mapping[tuple[str, str, str | None], Any],
    frames: Sequence[np.ndarray] | np.ndarray,
    options: BenchOptions = QUICK,
    *,
    device: str = "",
) -> tuple[dict[str, Any], ...]:
    """For a card: (runtime, file, precision asked for) -> runner, each timed; the quickest of all comes first."""
    before = Load.now()
    found = timed({" ".join(str(part) for part in asked): call for asked, call in calls.items()}, frames, options)
    foreign = before.foreign(Load.now())
    records = [
        {
            "runtime": runtime,
            "file": file,
            "asked": precision,
            "precision": call.precision,
            "threads": call.threads,
            "device": device,
            "foreign_cores": foreign,
            **times,
        }
        for ((runtime, file, precision), call), times in zip(calls.items(), found.values(), strict=True)
    ]
    best = sorted(records, key=lambda record: record["ratio"])
    firsts = {record["runtime"]: record for record in reversed(best)}
    return tuple({**record, "fastest": record is firsts[record["runtime"]]} for record in best)


def fastest(card: Card) -> dict[str, dict[str, Any]]:
    """runtime -> the quickest of its files when the ship was made, quickest runtime first; empty if none was timed."""
    marked = [record for record in card.latency if record.get("fastest") and record.get("file") in card.files]
    return {str(record["runtime"]): dict(record) for record in sorted(marked, key=lambda record: record["ratio"])}
