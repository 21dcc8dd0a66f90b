"""The parts of a call, and several cameras on one box."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from deploy.benchmark.call_breakdown import time_call_stages, time_concurrent

FRAMES = [np.full((1, 2, 2, 1), value, np.uint8) for value in range(4)]
MS = 1_000_000


class Staged:
    """A runner that says how long its parts took: inference slower with every call."""

    stages = ("there",)

    def __init__(self) -> None:
        self.calls = 0

    def run_stages(self, frame: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int]]:
        self.calls += 1
        return frame[..., 0], (1 * MS, 10 * MS * self.calls, 2 * MS)


def test_the_parts_are_summed_call_by_call_and_the_overhead_is_over_the_inference() -> None:
    result = time_call_stages(Staged(), FRAMES, calls=3)
    assert result is not None
    assert (result["copy_in"]["p50_ms"], result["infer"]["p50_ms"], result["copy_out"]["p50_ms"]) == (1, 20, 2)
    assert [result["whole"][f"{name}_ms"] for name in ("min", "p50", "max")] == [13, 23, 33]
    assert result["overhead"] == pytest.approx(3 / 20)


def test_a_call_that_cannot_be_split_has_no_parts() -> None:
    assert time_call_stages(lambda frame: frame, FRAMES, calls=3) is None
    assert time_call_stages(Staged(), FRAMES, calls=0) is None


def test_each_camera_has_a_runner_of_its_own_and_a_share_of_the_threads() -> None:
    made: list[int] = []
    users: dict[int, set[int]] = {}

    def make(threads: int):  # noqa: ANN202
        number = len(made)
        made.append(threads)

        def call(frame: np.ndarray) -> None:
            users.setdefault(number, set()).add(threading.get_ident())
            time.sleep(0.001)

        return call

    result = time_concurrent(make, FRAMES, streams=3, cores=7, seconds=0.03)
    assert made == [2, 2, 2]
    main = threading.get_ident()
    own = [seen - {main} for seen in users.values()]  # the main thread warms up
    assert len(own) == 3 and all(len(seen) == 1 for seen in own) and len(set.union(*own)) == 3
    assert result["streams"] == 3 and result["n"] >= 3
    assert result["throughput_hz"] >= 3 * result["slowest_hz"] - 0.1


def test_more_cameras_than_threads_get_one_each() -> None:
    made: list[int] = []

    def make(threads: int):  # noqa: ANN202
        made.append(threads)
        return lambda frame: None

    time_concurrent(make, FRAMES, streams=4, cores=2, seconds=0.001)
    assert made == [1, 1, 1, 1]


def test_a_runner_that_fails_in_its_thread_is_heard_of() -> None:
    def make(threads: int):  # noqa: ANN202
        def call(frame: np.ndarray) -> None:
            if threading.current_thread() is not threading.main_thread():
                raise ValueError("device lost")

        return call

    with pytest.raises(ValueError, match="device lost"):
        time_concurrent(make, FRAMES, streams=2, cores=2, seconds=0.001)
