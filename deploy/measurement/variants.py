"""Which file on which runtime is the quickest here: all of them in turns, and what a card says of it afterwards.

Ratios are taken inside a round, and of the quick tenth of its calls: a machine that wanders a little does not choose.
Where other processes use the machine, all are timed again after a pause, a bounded number of times; then the records
are marked `undecided`, nothing is taken from them, and the device decides for itself
(`deploy.runtimes.choose_variant`). A choice holds for the machine that made it: `edgemt bench` on the device has the
last word.

Shapes: H W size in pixels, K channels.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deploy.hardware.machine import Load
from deploy.measurement.percentiles import ratio, summary
from deploy.measurement.timing import BenchOptions, Call, in_turns, warm_up
from edgemt.model_card import ModelCard

BUSY = 0.25  # cores of other processes that make a choice worthless
_LONGEST_PAUSE_S = 5.0
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
    tries: int = 3,
) -> tuple[dict[str, Any], ...]:
    """For a card: (runtime, file, precision asked for) -> runner, each timed; the quickest of all comes first.

    While other processes take more than `BUSY` cores it is done again, `tries` times in all, with pauses as long as the
    timing (5 s at most); the records of the quietest time are given, `undecided` where that was not quiet either.
    """
    named = {" ".join(str(part) for part in asked): call for asked, call in calls.items()}
    foreign, found = _timed_while_quiet(named, frames, options, tries=tries)
    undecided = (foreign or 0.0) > BUSY
    records = [
        {
            "runtime": runtime,
            "file": file,
            "asked": precision,
            "precision": call.precision,
            "threads": call.threads,
            "device": device,
            "foreign_cores": foreign,
            "undecided": undecided,
            **times,
        }
        for ((runtime, file, precision), call), times in zip(calls.items(), found.values(), strict=True)
    ]
    best = sorted(records, key=lambda record: record["ratio"])
    firsts = {record["runtime"]: record for record in reversed(best)}
    return tuple({**record, "fastest": record is firsts[record["runtime"]]} for record in best)


def _timed_while_quiet(
    calls: Mapping[str, Call], frames: Sequence[np.ndarray] | np.ndarray, options: BenchOptions, *, tries: int
) -> tuple[float | None, dict[str, dict[str, Any]]]:
    """Cores that others took, and what was timed, at the quietest of `tries` times."""
    best: tuple[float | None, dict[str, dict[str, Any]]] | None = None
    for left in reversed(range(max(tries, 1))):
        before = Load.now()
        found = timed(calls, frames, options)
        after = Load.now()
        foreign = before.foreign(after)
        if best is None or (foreign or 0.0) < (best[0] or 0.0):
            best = foreign, found
        if (foreign or 0.0) <= BUSY or not left:
            break
        time.sleep(min(after.wall_s - before.wall_s, _LONGEST_PAUSE_S))
    assert best is not None
    return best


def undecided(card: ModelCard) -> bool:
    """Whether files were timed and no choice can be taken from it."""
    return bool(card.latency) and not fastest(card)


def fastest(card: ModelCard) -> dict[str, dict[str, Any]]:
    """runtime -> the quickest of its files when the ship was made, quickest runtime first; empty if none was timed, or
    on a machine that others used."""
    marked = [
        record
        for record in card.latency
        if record.get("fastest") and record.get("file") in card.files and not _disturbed(record)
    ]
    return {str(record["runtime"]): dict(record) for record in sorted(marked, key=lambda record: record["ratio"])}


def _disturbed(record: Mapping[str, Any]) -> bool:
    foreign = record.get("foreign_cores")
    return bool(record.get("undecided")) or (isinstance(foreign, (int, float)) and foreign > BUSY)
