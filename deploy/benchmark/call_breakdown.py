"""Where the time of a call goes: copying in, inference, copying out. And what n cameras on one box cost each other.

Shapes: H W size in pixels, K channels.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deploy.measurement.percentiles import summary
from deploy.measurement.timing import Call

PARTS = ("copy_in", "infer", "copy_out")
_LIMIT_S = 2.0


def split(call: Any, frames: Sequence[np.ndarray], *, calls: int) -> dict[str, Any] | None:
    """A summary of each part of a call, timed inside it; None for a call that cannot be split.

    `call.staged(frame)` gives a mask and three times in ns. `whole` is the three together, `overhead` how much longer
    than the inference alone that is at the median: 0.15 means 15 %.
    """
    if not calls or getattr(call, "stages", None) is None:
        return None
    rows: list[tuple[int, int, int]] = []
    end = time.perf_counter() + _LIMIT_S
    for i in range(calls):
        rows.append(call.staged(frames[i % len(frames)])[1])
        if time.perf_counter() > end:
            break
    said: dict[str, Any] = {name: summary(times) for name, times in zip(PARTS, zip(*rows, strict=True), strict=True)}
    said["whole"] = summary([sum(row) for row in rows])
    said["overhead"] = round(said["whole"]["p50_ms"] / max(said["infer"]["p50_ms"], 1e-6) - 1, 4)
    return said


def together(
    make: Callable[[int], Call], frames: Sequence[np.ndarray], *, streams: int, cores: int, seconds: float
) -> dict[str, Any]:
    """`streams` cameras at once, back to back: latency of each call, masks a second of all of them together.

    `make(threads)` gives a runner of its own for each; they share the cores, at least one each.
    """
    each = max(cores // streams, 1)
    runners = [make(each) for _ in range(streams)]
    for run in runners:
        for frame in frames[:3]:
            run(frame)
    times: list[list[int]] = [[] for _ in runners]
    failed: list[BaseException] = []
    start = threading.Barrier(streams + 1)
    spent = [0] * streams

    def work(index: int) -> None:
        run, mine, clock, at = runners[index], times[index], time.perf_counter_ns, index
        start.wait()
        begun = now = clock()
        try:
            while now - begun < seconds * 1e9 or not mine:
                before = clock()
                run(frames[at % len(frames)])
                now = clock()
                mine.append(now - before)
                at += 1
        except Exception as error:  # of whatever runtime; the caller must hear of it
            failed.append(error)
        spent[index] = now - begun

    threads = [threading.Thread(target=work, args=(index,)) for index in range(streams)]
    for thread in threads:
        thread.start()
    start.wait()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    rates = [1e9 * len(mine) / took for mine, took in zip(times, spent, strict=True)]
    said = summary([ns for mine in times for ns in mine])
    return {
        **said,
        "streams": streams,
        "threads": each,
        "throughput_hz": round(sum(rates), 2),
        "slowest_hz": round(min(rates), 2),
    }
