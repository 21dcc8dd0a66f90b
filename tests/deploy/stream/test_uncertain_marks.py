"""A model with a second output in a stream: its uncertain region is hatched on pictures and sent to the page."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from deploy.stream.inference.inference_thread import InferenceThread, StreamModel
from deploy.stream.state.display_state import DisplayState, FreshnessLimits
from deploy.stream.state.frames import Frame, InferenceResult
from deploy.stream.state.latest_queue import LatestQueue
from deploy.stream.web.updates import PageUpdates
from edgemt.io.uncertain_region import uncertain_region

SIZE, COLOURS = (48, 64), ((128, 128, 128), (64, 240, 200))


class TwoOutputs:
    """A runner whose mask and uncertainty are fixed."""

    has_uncertainty = True

    def __init__(self) -> None:
        self.mask = np.zeros((1, *SIZE), np.uint8)
        self.mask[0, 10:40, 5:30] = 1
        self.values = np.zeros((1, *SIZE), np.uint8)
        self.values[0, 8:30, 36:60] = 200

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return self.mask.copy()

    def with_uncertainty(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.mask.copy(), self.values.copy()


def result_of(runner: Any, above: float | None) -> tuple[DisplayState, InferenceResult]:
    """The result of one frame by an inference thread."""
    load: Callable[[], Any] = lambda: runner  # noqa: E731
    model = StreamModel("tiny@0", load, SIZE, 3, COLOURS, uncertain_above=above)
    state = DisplayState(FreshnessLimits(60_000, 60_000), model="tiny@0", uncertain_above=above)
    inbox: LatestQueue[Frame] = LatestQueue()
    thread = InferenceThread(model, state, inbox, hang_ms=60_000, runner=runner)
    frame = Frame(1, np.full((96, 128, 3), 90, np.uint8), state.clock())
    state.put_frame(frame)
    inbox.put(frame)
    try:
        deadline = time.monotonic() + 20
        while state.snapshot().result is None and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        thread.stop()
    found = state.snapshot().result
    assert found is not None
    return state, found


def test_uncertain_pixels_are_hatched_beneath_the_outline_and_sent_to_the_page() -> None:
    runner = TwoOutputs()
    state, result = result_of(runner, 0.2)
    region = uncertain_region(runner.values[0])
    assert result.marks is not None and result.marks.uncertain is not None
    assert np.array_equal(result.marks.uncertain, region) and region.sum() > 400
    snapshot = state.snapshot()
    picture = snapshot.picture()
    assert picture is not None
    part = picture[16:60, 72:120]
    assert {0, 90, 255} == set(np.unique(part))
    drawn = snapshot.drawn_overlay()
    assert (picture.reshape(-1, 3)[result.overlay.index] == COLOURS[1]).all()  # the outline lies above
    assert len(drawn.index) > len(result.overlay.index)
    updates = PageUpdates(state, classes=("background", "organ"), colours=COLOURS, recording=lambda: False)
    assert updates.about["uncertain_above"] == 0.2
    data = updates.next(version=-1, frame=1, mask=-1, wait_s=0)
    length = int.from_bytes(data[:4], "big")
    message = json.loads(data[4 : 4 + length])
    bits = data[4 + length + message["jpeg_bytes"] + message["mask_bytes"] :]
    assert message["lines"] == [{"uncertain": True}]
    assert np.array_equal(np.unpackbits(np.frombuffer(bits, np.uint8)).reshape(SIZE) == 1, region)


def test_a_model_without_the_output_or_the_wish_has_no_marks() -> None:
    state, result = result_of(TwoOutputs(), None)
    assert result.marks is None and state.snapshot().drawn_overlay() is result.overlay
    plain = TwoOutputs()
    plain.has_uncertainty = False
    assert result_of(plain, 0.2)[1].marks is None
