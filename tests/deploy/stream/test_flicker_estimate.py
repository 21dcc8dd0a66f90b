"""The estimate of flicker while a stream runs, and the vote of masks in a session."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deploy.stream.inference.flicker_estimate import FlickerEstimate
from deploy.stream.inference.inference_thread import StreamModel
from deploy.stream.session import Session, StreamOptions
from deploy.stream.sources.iterable import IterableSource

SIZE = (96, 128)
TEXTURE = np.random.default_rng(0).integers(0, 255, (40, 48)).repeat(4, 0).repeat(4, 1).astype(np.uint8)


def picture(down: int = 0, right: int = 0) -> np.ndarray:
    """A texture moved by whole pixels, uint8 [h, w, 3]."""
    part = TEXTURE[32 - down : 32 - down + SIZE[0], 32 - right : 32 - right + SIZE[1]]
    return np.repeat(part[..., None], 3, axis=2)


def box(down: int = 0, right: int = 0) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[30 + down : 60 + down, 40 + right : 80 + right] = 1
    return mask


@pytest.mark.parametrize(("down", "right"), [(0, 0), (6, 0), (-9, 12)])
def test_masks_that_follow_a_shift_of_the_picture_do_not_flicker(down: int, right: int) -> None:
    estimate = FlickerEstimate()
    assert estimate.add(box(), picture(), epoch=0) is None
    value = estimate.add(box(down, right), picture(down, right), epoch=0)
    assert value is not None and value < 0.1
    record = estimate.record()
    assert record["pairs"] == 1 and record["mean"] == pytest.approx(value, abs=1e-4) and record["cost_ms"] > 0


def test_a_mask_that_jumps_in_a_still_picture_flickers_by_one_minus_iou() -> None:
    estimate = FlickerEstimate()
    estimate.add(box(), picture(), epoch=0)
    assert estimate.add(box(right=20), picture(), epoch=0) == pytest.approx(1 - 20 / 60)
    assert estimate.add(np.zeros(SIZE, np.uint8), picture(), epoch=0) == 1.0


def test_empty_masks_and_another_epoch_are_not_counted() -> None:
    estimate, empty = FlickerEstimate(), np.zeros(SIZE, np.uint8)
    for epoch in (0, 0, 1):
        estimate.add(empty, picture(), epoch=epoch)
    assert estimate.add(box(), picture(), epoch=2) is None
    assert estimate.record()["mean"] is None and estimate.record()["pairs"] == 0


def run(vote: int) -> tuple[dict[str, Any], list[int]]:
    """A still picture whose mask is missing in every fourth frame: the record, and the area of each mask shown."""
    count = iter(range(1000))

    def infer(frames: np.ndarray) -> np.ndarray:
        return box()[None] * np.uint8(next(count) % 4 != 3)

    model = StreamModel("test", load=lambda: infer, size=SIZE, channels=3, colours=((0, 0, 0), (0, 255, 0)))
    areas: dict[int, int] = {}

    def show(snapshot: Any, shown: Any) -> None:
        if snapshot.result is not None:
            areas[snapshot.result.frame.id] = int(snapshot.result.mask.sum())

    source = IterableSource(picture() for _ in range(24))
    source.hz = 60
    options = StreamOptions(vote=vote, budget_ms=5000, frozen_ms=0)
    return Session(source, model, runner=infer, options=options, display=show).run(), list(areas.values())


def test_a_vote_of_three_fills_single_missing_masks_and_states_its_delay() -> None:
    plain, areas = run(1)
    voted, steady = run(3)
    assert plain["vote"] is None and plain["flicker"]["mean"] > 0.2 and 0 in areas
    assert voted["flicker"]["mean"] == 0.0 and 0 not in steady
    assert voted["vote"]["masks"] == 3 and voted["vote"]["delay_ms"] > 5
    with pytest.raises(ValueError, match="vote: must be odd"):
        StreamOptions(vote=2)
