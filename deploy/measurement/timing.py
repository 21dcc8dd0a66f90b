"""How calls are timed: warmed up, in turns, and on a camera's clock.

Shapes: H W size in pixels, K channels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from deploy.measurement.percentiles import summary

Call = Callable[[np.ndarray], Any]  # uint8 [1, H, W, K] in host memory; returns when its mask is in host memory


@dataclass(frozen=True)
class BenchOptions:
    """How long to measure. Nothing here drops a slow call."""

    warmup: int = 50
    """Calls thrown away before the first round, each; at most `warmup_seconds`, at least 3 calls."""
    warmup_seconds: float = 2.0
    iterations: int = 1000
    """Calls to keep of each; p99 is anecdotal below 1000."""
    seconds: float = 8.0
    """A slow call stops after so long in its own blocks, with the iterations it has then."""
    rounds: int = 5
    """At least so many turns for each."""
    block_ms: float = 150.0
    settle: int = 2
    """Calls thrown away at the start of a block: the caches and threads are still the neighbour's."""
    paced_hz: float = 30.0
    """Camera clock; 0 leaves the paced part out."""
    second_hz: float = 60.0
    """A second camera clock; 0, or the same as the first, leaves it out."""
    paced_seconds: float = 2.5
    """On each camera clock."""
    stage_calls: int = 200
    """Calls that are timed in three parts, where a runtime can be split; 0 leaves the split out."""
    streams: tuple[int, ...] = (2,)
    """So many cameras at once, each with a runner of its own (ships only); empty leaves this out."""
    streams_seconds: float = 1.0
    energy_seconds: float = 3.0
    """Of calls for the energy of each, where the machine has a meter; 0 leaves it out."""
    soak_minutes: float = 0.0
    """Go on for so long with the quickest call of a runtime, flat out; 0 leaves the soak out."""
    soak_interval_s: float = 10.0
    """Of the soak's time line."""
    budget_ms: float = 0.0
    """What p99 may be at most; 0 sets no budget."""
    cold: bool = True
    """Time import, load and first mask in a fresh process (ships only)."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = {"iterations": 1, "rounds": 1, "streams": 2, "soak_interval_s": 0.1}.get(name, 0)
            for number in value if name == "streams" else (value,):
                if number < least:
                    raise ValueError(f"bench.{name}: must be {least} or more, not {number}")

    def asked(
        self,
        *,
        seconds: float | None = None,
        hz: float | None = None,
        streams: tuple[int, ...] | None = None,
        soak_minutes: float | None = None,
        budget_ms: float | None = None,
    ) -> BenchOptions:
        """These options with what a command line asked for; None leaves a field as it is.

        `hz` takes the place of both camera clocks.
        """
        return replace(
            self,
            seconds=self.seconds if seconds is None else seconds,
            paced_hz=self.paced_hz if hz is None else hz,
            second_hz=self.second_hz if hz is None else 0.0,
            streams=self.streams if streams is None else streams,
            soak_minutes=self.soak_minutes if soak_minutes is None else soak_minutes,
            budget_ms=self.budget_ms if budget_ms is None else budget_ms,
        )


def warm_up(call: Call, frames: list[np.ndarray], options: BenchOptions) -> int:
    end, done = time.perf_counter() + options.warmup_seconds, 0
    while done < 3 or (done < options.warmup and time.perf_counter() < end):
        call(frames[done % len(frames)])
        done += 1
    return done


def in_turns(
    calls: Mapping[str, Call],
    frames: list[np.ndarray],
    options: BenchOptions,
    between: Callable[[], None] = lambda: None,
) -> dict[str, dict[int, list[int]]]:
    """call -> round -> times in ns. Who goes first changes from round to round; `between` runs after each block."""
    blocks: dict[str, dict[int, list[int]]] = {name: {} for name in calls}
    kept, spent, at = dict.fromkeys(calls, 0), dict.fromkeys(calls, 0), 0
    reference, names = next(iter(calls)), list(calls)

    def wants(name: str, turn: int) -> bool:
        return turn < options.rounds or (kept[name] < options.iterations and spent[name] < options.seconds * 1e9)

    turn = 0
    while going := [name for name in names if wants(name, turn)]:
        going = [name for name in names if name in going or name == reference]
        shift = turn % len(going)
        for name in going[shift:] + going[:shift]:
            times = _block(calls[name], frames, at, options)
            at += len(times)
            blocks[name][turn] = times
            kept[name] += len(times)
            spent[name] += sum(times)
            between()
        turn += 1
    return blocks


def _block(call: Call, frames: list[np.ndarray], at: int, options: BenchOptions) -> list[int]:
    clock, times = time.perf_counter_ns, []
    quarter = clock() + options.block_ms * 0.25e6
    for i in range(options.settle):
        call(frames[(at + i) % len(frames)])
        if clock() > quarter:
            break
    end = clock() + options.block_ms * 1e6
    while True:
        frame = frames[at % len(frames)]
        at += 1
        start = clock()
        call(frame)
        stop = clock()
        times.append(stop - start)
        if stop >= end:
            return times


def paced(call: Call, frames: Sequence[np.ndarray], *, hz: float, seconds: float) -> dict[str, Any]:
    """A camera that does not wait: frame k appears at k / hz, the newest is taken, the others are dropped.

    Age is from a frame's appearance to its mask, waiting and waking up included; a miss is a frame whose
    mask was not there one period after it appeared, dropped frames included.
    """
    period, offered, clock = 1e9 / hz, max(int(seconds * hz), 1), time.perf_counter_ns
    ages: list[int] = []
    work: list[int] = []
    dropped = k = 0
    origin = clock() + period
    while k < offered:
        due = origin + k * period
        ahead = due - clock()
        if ahead > 0:
            time.sleep(ahead / 1e9)
        start = clock()
        call(frames[k % len(frames)])
        done = clock()
        ages.append(int(done - due))
        work.append(done - start)
        newest = min(max(k + 1, int((done - origin) // period)), offered)
        dropped += newest - k - 1
        k = newest
    late = sum(age > period for age in ages)
    return {
        "hz": hz,
        "offered": offered,
        "masks": len(ages),
        "dropped": dropped,
        "misses": late + dropped,
        "miss_rate": round((late + dropped) / offered, 5),
        "age": summary(ages),
        "work": summary(work),
        "raw_age_ns": ages,
    }
