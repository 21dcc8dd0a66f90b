"""Stages of a call (copy in, inference, copy out), and the latency of concurrent cameras on one machine.

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


def time_call_stages(call: Any, frames: Sequence[np.ndarray], *, calls: int) -> dict[str, Any] | None:
    """Summary of the times of each stage of a call; None for a call without stages.

    `call.run_stages(frame)` returns a mask and three times in ns. `whole` is their sum, `overhead` the excess of its
    median over that of the inference: 0.15 means 15 %.
    """
    if not calls or getattr(call, "stages", None) is None:
        return None
    rows: list[tuple[int, int, int]] = []
    end = time.perf_counter() + _LIMIT_S
    for i in range(calls):
        rows.append(call.run_stages(frames[i % len(frames)])[1])
        if time.perf_counter() > end:
            break
    result: dict[str, Any] = {name: summary(times) for name, times in zip(PARTS, zip(*rows, strict=True), strict=True)}
    result["whole"] = summary([sum(row) for row in rows])
    result["overhead"] = round(result["whole"]["p50_ms"] / max(result["infer"]["p50_ms"], 1e-6) - 1, 4)
    return result


def time_concurrent(
    make: Callable[[int], Call], frames: Sequence[np.ndarray], *, streams: int, cores: int, seconds: float
) -> dict[str, Any]:
    """`streams` cameras at once, without pauses: latency of the calls, and masks per second of all cameras together.

    `make(threads)` creates a runner for each camera; they share the cores, at least one each.
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
        run, own, clock, at = runners[index], times[index], time.perf_counter_ns, index
        start.wait()
        begun = now = clock()
        try:
            while now - begun < seconds * 1e9 or not own:
                before = clock()
                run(frames[at % len(frames)])
                now = clock()
                own.append(now - before)
                at += 1
        except Exception as error:  # of any runtime; raised again in the calling thread
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
    rates = [1e9 * len(own) / took for own, took in zip(times, spent, strict=True)]
    result = summary([ns for own in times for ns in own])
    return {
        **result,
        "streams": streams,
        "threads": each,
        "throughput_hz": round(sum(rates), 2),
        "slowest_hz": round(min(rates), 2),
    }
