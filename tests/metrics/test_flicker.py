"""Flicker of masks along the flow, jitter of the area, and what counts when masks are empty."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgemt.metrics.flicker import (
    FlickerMeter,
    area_jitter,
    estimate_flow,
    known_flow,
    mean_record,
    pair_flicker,
    warp_mask,
)

cv2 = pytest.importorskip("cv2")
SIZE = (64, 80)


def picture(dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
    """A smooth random texture, uint8 [H, W, 3], moved by (dx, dy) pixels."""
    noise = np.random.default_rng(0).normal(size=(SIZE[0] + 32, SIZE[1] + 32)).astype(np.float32)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)
    shift = np.array([[1, 0, -16 + dx], [0, 1, -16 + dy]], np.float32)
    grey = cv2.warpAffine(texture, shift, SIZE[::-1], flags=cv2.INTER_CUBIC)
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def disc(x: float, y: float = 30, radius: float = 12, value: int = 1) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return (value * ((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)).astype(np.uint8)


def moved_by(dx: float, dy: float = 0.0) -> np.ndarray:
    """The flow of a picture that moved by (dx, dy): each pixel was that much before."""
    return np.broadcast_to(np.array([-dx, -dy], np.float32), (*SIZE, 2))


def test_estimated_flow_is_the_motion_and_leaves_out_what_came_into_view():
    flow = estimate_flow(picture(), picture(dx=3, dy=-2))
    assert np.abs(np.median(flow.motion[8:-8, 8:-8], axis=(0, 1)) - [-3, 2]).max() < 0.2
    assert flow.valid[8:-8, 8:-8].mean() > 0.9 and not flow.valid[:, 0].any() and not flow.valid[-1].any()


def test_flow_is_not_valid_where_a_picture_has_nothing_of_the_last_one():
    other = picture().copy()
    other[16:48, 20:60] = np.random.default_rng(1).integers(0, 255, (32, 40, 1))
    valid = estimate_flow(picture(), other).valid
    assert valid[20:44, 24:56].mean() < 0.7 < valid[:12].mean()


def test_a_mask_that_follows_the_flow_does_not_flicker():
    flow = known_flow(moved_by(4))
    assert pair_flicker(disc(30), disc(34), flow, classes=2) == [0.0]
    assert pair_flicker(disc(30), disc(30), flow, classes=2)[0] > 0.2
    part = pair_flicker(disc(30), disc(30.3), known_flow(moved_by(0.3)), classes=2)[0]
    assert part < 0.05, "a border moves by parts of a pixel"


def test_flicker_is_one_minus_iou_over_valid_pixels():
    last, now = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    last[10:20, 10:30], now[10:20, 20:40] = 1, 1  # 200 and 200 pixels, 100 shared
    assert pair_flicker(last, now, known_flow(moved_by(0)), classes=2) == [pytest.approx(1 - 100 / 300)]
    flow = known_flow(moved_by(0))
    flow.valid[:, 30:] = False
    assert pair_flicker(last, now, flow, classes=2) == [pytest.approx(1 - 100 / 200)]


def test_masks_of_three_classes_move_each_by_itself():
    last = disc(20, radius=8) + disc(50, radius=8, value=2)
    assert set(np.unique(warp_mask(last, known_flow(moved_by(2.3)), classes=3))) == {0, 1, 2}
    now = disc(22, radius=8) + disc(60, radius=8, value=2)
    first, second = pair_flicker(last, now, known_flow(moved_by(2)), classes=3)
    assert first == 0.0 and second > 0.5


def test_a_pair_without_the_class_has_no_flicker_and_one_empty_mask_counts_one():
    flow, empty = known_flow(moved_by(0)), np.zeros(SIZE, np.uint8)
    assert math.isnan(pair_flicker(empty, empty, flow, classes=2)[0])
    assert pair_flicker(empty, disc(30), flow, classes=2) == [1.0] == pair_flicker(disc(30), empty, flow, classes=2)
    meter = FlickerMeter(("background", "polyp", "tool"))
    for mask in (disc(30), empty, empty, disc(30)):
        meter.add(mask, flow=flow)
    record = meter.record()
    assert record["flicker"] == 1.0 and record["per_class"]["polyp"]["pairs"] == 2
    assert record["per_class"]["tool"] == {"flicker": None, "area_jitter": None, "pairs": 0}


def test_area_jitter_ignores_a_steady_change_and_finds_a_jump():
    steady = [100 + 7 * t for t in range(16)]
    assert area_jitter(steady) == 0.0
    jump = [*steady[:8], *[a + 50 for a in steady[8:9]], *steady[9:]]
    assert area_jitter(jump) == pytest.approx(2 * 50 / 15 / np.mean(jump))
    assert math.isnan(area_jitter([5, 6])) and math.isnan(area_jitter([0, 0, 0]))


def test_flicker_meter_finds_the_flow_itself_and_refuses_what_does_not_fit():
    meter = FlickerMeter(("background", "polyp"))
    for t in range(4):
        meter.add(disc(30 + 3 * t), frame=picture(dx=3 * t))
    still = FlickerMeter(("background", "polyp"))
    for t in range(4):
        still.add(disc(30), frame=picture(dx=3 * t))
    assert meter.record()["flicker"] < 0.05 < 0.2 < still.record()["flicker"]
    assert meter.record()["matched"] > 0.7
    assert mean_record([meter.record(), still.record()])["clips"] == 2
    with pytest.raises(ValueError, match="give the frame"):
        meter.add(disc(30))
    with pytest.raises(ValueError, match="split it there"):
        meter.add(disc(30)[:32], frame=picture()[:32])
