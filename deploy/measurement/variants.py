"""Latency of the variants of a package (file, runtime, precision), measured alternately and recorded on its card.

Ratios are taken inside a round, of the 10 % quantile of its calls, so that small variations of the machine do not
decide. Where other processes use the machine, all variants are timed again after a pause, a limited number of times;
after that the records are marked `undecided`, no choice is taken from them, and each device measures for itself
(`deploy.runtimes.choose_variant`). A choice is valid for the machine that made it: measure on the device with
`edgemt bench`.

Shapes: H W size in pixels, K channels.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from deploy.hardware.machine import CpuLoad
from deploy.measurement.percentiles import ratio, summary
from deploy.measurement.timing import BenchOptions, Call, time_interleaved, warm_up
from edgemt.model_card import ModelCard

BUSY = 0.25  # cores used by other processes above which no choice is made
_LONGEST_PAUSE_S = 5.0
QUICK = BenchOptions(warmup=10, warmup_seconds=0.5, iterations=300, seconds=1.5, rounds=7, block_ms=60)


def quick_options(options: BenchOptions) -> BenchOptions:
    """`QUICK`, with fewer calls where `options`, those of a recipe's benchmark, have fewer."""
    return replace(
        QUICK,
        iterations=min(QUICK.iterations, options.iterations),
        rounds=min(QUICK.rounds, options.rounds),
        block_ms=min(QUICK.block_ms, options.block_ms),
    )


def time_variants(
    calls: Mapping[str, Call], frames: Sequence[np.ndarray] | np.ndarray, options: BenchOptions = QUICK
) -> dict[str, dict[str, Any]]:
    """By name p50_ms, p90_ms, n, and `ratio`: time divided by the time of the first call. Frames uint8 [H, W, K]."""
    fed = [np.ascontiguousarray(frame if frame.ndim == 4 else frame[None]) for frame in frames]
    for call in calls.values():
        warm_up(call, fed, options)
    blocks = time_interleaved(calls, fed, options)
    quick = {
        name: {round_number: float(np.quantile(t, 0.1)) for round_number, t in block.items()}
        for name, block in blocks.items()
    }
    first = quick[next(iter(calls))]
    results = {}
    for name, block in blocks.items():
        shared = [round_number for round_number in quick[name] if round_number in first]
        statistics = summary([ns for times in block.values() for ns in times])
        quotient = ratio(
            [quick[name][round_number] for round_number in shared], [first[round_number] for round_number in shared]
        )
        results[name] = {**{key: statistics[key] for key in ("p50_ms", "p90_ms", "n")}, "ratio": quotient["median"]}
    return results


def latency_records(
    calls: Mapping[tuple[str, str, str | None], Any],
    frames: Sequence[np.ndarray] | np.ndarray,
    options: BenchOptions = QUICK,
    *,
    device: str = "",
    tries: int = 3,
) -> tuple[dict[str, Any], ...]:
    """Latency records for a card, the quickest first. calls: (runtime, file, requested precision) -> runner.

    While other processes use more than `BUSY` cores the measurement is repeated, up to `tries` times, with pauses as
    long as the measurement (5 s at most); the records of the quietest attempt are returned, marked `undecided` where it
    was not quiet enough.
    """
    named = {" ".join(str(part) for part in variant): call for variant, call in calls.items()}
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
    """(cores used by other processes, results of `time_variants`) of the quietest of `tries` attempts."""
    best: tuple[float | None, dict[str, dict[str, Any]]] | None = None
    for remaining in reversed(range(max(tries, 1))):
        before = CpuLoad.now()
        found = time_variants(calls, frames, options)
        after = CpuLoad.now()
        foreign = before.other_processes(after)
        if best is None or (foreign or 0.0) < (best[0] or 0.0):
            best = foreign, found
        if (foreign or 0.0) <= BUSY or not remaining:
            break
        time.sleep(min(after.wall_s - before.wall_s, _LONGEST_PAUSE_S))
    assert best is not None
    return best


def undecided(card: ModelCard) -> bool:
    """True where variants were timed, but no choice can be taken from the records."""
    return bool(card.latency) and not fastest(card)


def fastest(card: ModelCard) -> dict[str, dict[str, Any]]:
    """By runtime the record of its quickest variant when the package was made, the quickest runtime first.

    Empty where none was timed, or where other processes used the machine.
    """
    marked = [
        record
        for record in card.latency
        if record.get("fastest") and record.get("file") in card.files and not _disturbed(record)
    ]
    return {str(record["runtime"]): dict(record) for record in sorted(marked, key=lambda record: record["ratio"])}


def _disturbed(record: Mapping[str, Any]) -> bool:
    foreign = record.get("foreign_cores")
    return bool(record.get("undecided")) or (isinstance(foreign, (int, float)) and foreign > BUSY)
