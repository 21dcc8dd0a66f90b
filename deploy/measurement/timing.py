"""Timing of calls: warm-up, several calls interleaved in time, and frames at the rate of a camera.

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
    """How long to measure. No option drops a slow call."""

    warmup: int = 50
    """Calls of each model that are discarded before the first round; at most `warmup_seconds`, at least 3 calls."""
    warmup_seconds: float = 2.0
    iterations: int = 1000
    """Calls of each model that are recorded; p99 is anecdotal below 1000."""
    seconds: float = 8.0
    """A slow model stops after this time in its blocks, with fewer iterations."""
    rounds: int = 5
    """Blocks of each model, at least."""
    block_ms: float = 150.0
    settle: int = 2
    """Calls that are discarded at the start of a block: caches and threads are still those of the model before."""
    paced_hz: float = 30.0
    """Frame rate of the paced measurement; 0 omits it."""
    second_hz: float = 60.0
    """Frame rate of a second paced measurement; 0, or the same as the first, omits it."""
    paced_seconds: float = 2.5
    """Duration of each paced measurement."""
    stage_calls: int = 200
    """Calls that are timed in three stages, where the runtime allows it; 0 omits them."""
    streams: tuple[int, ...] = (2,)
    """Numbers of concurrent cameras, each with its own runner (packages only); empty omits them."""
    streams_seconds: float = 1.0
    energy_seconds: float = 3.0
    """Duration of the energy measurement of each model, where the machine has a meter; 0 omits it."""
    soak_minutes: float = 0.0
    """Duration of the soak test of the quickest model, without pauses; 0 omits it."""
    soak_interval_s: float = 10.0
    """Interval of the time line of the soak test."""
    budget_ms: float = 0.0
    """Largest allowed p99; 0 sets no budget."""
    cold: bool = True
    """Time import, load and first mask in a new process (packages only)."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = {"iterations": 1, "rounds": 1, "streams": 2, "soak_interval_s": 0.1}.get(name, 0)
            for number in value if name == "streams" else (value,):
                if number < least:
                    raise ValueError(f"bench.{name}: must be {least} or more, not {number}")

    def with_overrides(
        self,
        *,
        seconds: float | None = None,
        hz: float | None = None,
        streams: tuple[int, ...] | None = None,
        soak_minutes: float | None = None,
        budget_ms: float | None = None,
    ) -> BenchOptions:
        """These options with the values of a command line; None leaves a field unchanged.

        `hz` replaces both frame rates. Concurrent cameras are not timed for longer than `seconds`.
        """
        return replace(
            self,
            seconds=self.seconds if seconds is None else seconds,
            streams_seconds=self.streams_seconds if seconds is None else min(self.streams_seconds, seconds),
            paced_hz=self.paced_hz if hz is None else hz,
            second_hz=self.second_hz if hz is None else 0.0,
            streams=self.streams if streams is None else streams,
            soak_minutes=self.soak_minutes if soak_minutes is None else soak_minutes,
            budget_ms=self.budget_ms if budget_ms is None else budget_ms,
        )


def warm_up(call: Call, frames: list[np.ndarray], options: BenchOptions) -> int:
    """Call at least 3 and at most `options.warmup` times; returns the number of calls."""
    end, done = time.perf_counter() + options.warmup_seconds, 0
    while done < 3 or (done < options.warmup and time.perf_counter() < end):
        call(frames[done % len(frames)])
        done += 1
    return done


def time_interleaved(
    calls: Mapping[str, Call],
    frames: list[np.ndarray],
    options: BenchOptions,
    between: Callable[[], None] = lambda: None,
) -> dict[str, dict[int, list[int]]]:
    """Time several calls in short alternating blocks, so that they share the state of the machine.

    Returns name -> round -> times in ns. The order rotates from round to round; `between` runs after each block.
    """
    blocks: dict[str, dict[int, list[int]]] = {name: {} for name in calls}
    recorded, spent, position = dict.fromkeys(calls, 0), dict.fromkeys(calls, 0), 0
    reference, names = next(iter(calls)), list(calls)

    def is_active(name: str, round_number: int) -> bool:
        return round_number < options.rounds or (
            recorded[name] < options.iterations and spent[name] < options.seconds * 1e9
        )

    round_number = 0
    while active := [name for name in names if is_active(name, round_number)]:
        active = [name for name in names if name in active or name == reference]
        shift = round_number % len(active)
        for name in active[shift:] + active[:shift]:
            times = _block(calls[name], frames, position, options)
            position += len(times)
            blocks[name][round_number] = times
            recorded[name] += len(times)
            spent[name] += sum(times)
            between()
        round_number += 1
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
    """Frames at a fixed rate: frame k appears at k / hz; the newest frame is processed, older ones are dropped.

    The age of a mask is the time since its frame appeared, including waiting and waking up. A miss is a frame without
    a mask one period after it appeared, dropped frames included.
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
