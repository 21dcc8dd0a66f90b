"""Temporal stability of the masks of a clip: flicker between frames along the optical flow, and jitter of the area.

flicker(c) = mean over t of 1 - IoU(W(m[t-1]) = c, m[t] = c), where W moves the mask of the last frame to the present
one by the flow, and pixels that the flow does not match are left out of both masks. It is 1 minus the temporal
consistency of Liu et al., ECCV 2020 (arXiv 2002.11433), with the flow of OpenCV (DIS, Kroeger et al., ECCV 2016) in
place of a network's; VSPW (Miao et al., CVPR 2021) compares clips in the same spirit, against the truth.

area jitter(c) = mean over t of |A[t] - A[t-1] - trend[t]| / mean of A, where A is the area of class c and trend is the
running median of A[t] - A[t-1] over 9 frames: an organ that comes closer at a steady rate has a jitter of 0.

Empty masks: a pair of frames without the class in both masks is left out, as nothing can flicker; with the class in one
of them it counts 1. A class that is in no pair has no figure (NaN). The same holds for the area.

Shapes: H W size in pixels, C classes, T frames. A flow [H, W, 2] holds, for each pixel of the present frame, the
position in the last one minus its own, (x, y) in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgemt.io.opencv import require_opencv

TREND = 9  # frames of the running median


@dataclass(frozen=True)
class Flow:
    """Where each pixel of a frame was in the last frame."""

    motion: np.ndarray  # float32 [H, W, 2]
    valid: np.ndarray  # bool [H, W]: matched in both directions, and inside of the last frame


def estimate_flow(last: np.ndarray, present: np.ndarray) -> Flow:
    """DIS flow between two pictures uint8 [H, W] or [H, W, 3], checked forward and backward.

    A pixel is valid where the flow to the last frame and the flow back from there cancel: |b + f|^2 <= 0.01 (|b|^2 +
    |f|^2) + 0.5 (Sundaram, Brox and Keutzer, ECCV 2010). Raises ValueError for pictures of different sizes, and without
    OpenCV.
    """
    cv2 = require_opencv("flicker")
    if last.shape[:2] != present.shape[:2]:
        raise ValueError(f"flow: frames of {last.shape[:2]} and {present.shape[:2]} pixels; resize them to one size")
    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    before, after = _grey(last), _grey(present)
    motion = method.calc(after, before, None)
    forward = method.calc(before, after, None)
    x, y = _positions(motion)
    returned = cv2.remap(forward, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    gap = ((motion + returned) ** 2).sum(-1)
    valid = gap <= 0.01 * ((motion**2).sum(-1) + (returned**2).sum(-1)) + 0.5
    return Flow(motion, valid & _within(x, y))


def known_flow(motion: np.ndarray) -> Flow:
    """A flow [H, W, 2] that is known, as that of a pseudo-video; valid where it points into the last frame."""
    motion = motion.astype(np.float32)
    return Flow(motion, _within(*_positions(motion)))


def warp_mask(mask: np.ndarray, flow: Flow, *, classes: int) -> np.ndarray:
    """The mask uint8 [H, W] of the last frame, moved to the present one.

    Each class is interpolated linearly and the largest share wins, so that a border moves by parts of a pixel; a
    nearest pixel would add flicker of its own.
    """
    cv2 = require_opencv("flicker")
    x, y = _positions(flow.motion)
    shares = [
        cv2.remap((mask == c).astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for c in range(classes)
    ]
    return np.argmax(np.stack(shares), axis=0).astype(np.uint8)


def pair_flicker(last: np.ndarray, present: np.ndarray, flow: Flow, *, classes: int) -> list[float]:
    """1 - IoU of the moved and the present mask, uint8 [H, W], over valid pixels: a value for each foreground class."""
    moved = warp_mask(last, flow, classes=classes)[flow.valid]
    now = present[flow.valid]
    values = []
    for c in range(1, classes):
        union = int(((moved == c) | (now == c)).sum())
        values.append(1 - int(((moved == c) & (now == c)).sum()) / union if union else math.nan)
    return values


def area_jitter(areas: Sequence[float]) -> float:
    """Jitter of the areas of one class in consecutive frames, as a share of their mean; NaN for fewer than 3 frames."""
    values = np.asarray(areas, np.float64)
    if len(values) < 3 or not values.any():
        return math.nan
    steps = np.diff(values)
    reach = TREND // 2
    trend = [float(np.median(steps[max(0, t - reach) : t + reach + 1])) for t in range(len(steps))]
    return float(np.abs(steps - trend).mean() / values.mean())


@dataclass
class FlickerMeter:
    """Collects the masks of one clip in order; `record` gives its figures. Only the last frame is in memory."""

    classes: tuple[str, ...]  # background first
    pairs: list[list[float]] = field(default_factory=list)
    areas: list[list[int]] = field(default_factory=list)
    matched: list[float] = field(default_factory=list)
    _last: tuple[np.ndarray, np.ndarray | None] | None = None

    def add(self, mask: np.ndarray, *, frame: np.ndarray | None = None, flow: Flow | None = None) -> None:
        """The next mask, uint8 [H, W], with its picture at the same size, from which the flow is estimated, or `flow`.

        Raises ValueError where neither is given, and where masks change their size.
        """
        counts = np.bincount(mask.reshape(-1), minlength=len(self.classes))
        self.areas.append([int(n) for n in counts[1:]])
        last, self._last = self._last, (mask, frame)
        if last is None:
            return
        if last[0].shape != mask.shape:
            raise ValueError(f"flicker: masks of {last[0].shape} and {mask.shape} pixels in one clip; split it there")
        if flow is None:
            if frame is None or last[1] is None:
                raise ValueError("flicker: give the frame of each mask, or the flow between them")
            flow = estimate_flow(last[1], frame)
        self.matched.append(float(flow.valid.mean()))
        self.pairs.append(pair_flicker(last[0], mask, flow, classes=len(self.classes)))

    def record(self) -> dict[str, Any]:
        """{frames, flicker, area_jitter, matched, per_class}: JSON values, null for NaN.

        `flicker` and `area_jitter` are means over foreground classes, `matched` the share of pixels that flow matched.
        """
        per_class: dict[str, dict[str, Any]] = {}
        for i, name in enumerate(self.classes[1:]):
            per_class[name] = {
                "flicker": _mean([pair[i] for pair in self.pairs]),
                "area_jitter": _or_none(area_jitter([counts[i] for counts in self.areas])),
                "pairs": sum(not math.isnan(pair[i]) for pair in self.pairs),
            }
        return {
            "frames": len(self.areas),
            **{key: _mean([of[key] for of in per_class.values()]) for key in ("flicker", "area_jitter")},
            "matched": _mean(self.matched),
            "per_class": per_class,
        }


def mean_record(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean over clips of `flicker` and `area_jitter`, and their number; a clip without a figure is left out of it."""
    figures = {key: _mean([one[key] for one in records]) for key in ("flicker", "area_jitter", "matched")}
    return {"clips": len(records), "frames": sum(one["frames"] for one in records), **figures}


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None and not math.isnan(value)]
    return round(sum(present) / len(present), 6) if present else None


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _grey(picture: np.ndarray) -> np.ndarray:
    cv2 = require_opencv("flicker")
    if picture.ndim == 3 and picture.shape[-1] == 3:
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY))
    return np.ascontiguousarray(picture[..., 0] if picture.ndim == 3 else picture)


def _positions(motion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions (x, y) in the last frame, float32 [H, W] each."""
    height, width = motion.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return x + motion[..., 0], y + motion[..., 1]


def _within(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    height, width = x.shape
    inside: np.ndarray = (x >= -0.01) & (x <= width - 0.99) & (y >= -0.01) & (y <= height - 0.99)
    return inside
