"""Validation and plausibility of masks.

The graph gives class indices without probabilities. So the plausibility of a mask is measured by its agreement with the
previous mask, and by the similarity (likeness) of its frame to the training frames.

Shapes: h w size of the model's input, K channels.
"""

from __future__ import annotations

import numpy as np

from deploy.package.frame_features import matching_features
from deploy.package.input_drift import InputDriftMonitor, InputStatistics
from edgemt.io.class_regions import largest_value

_LIKENESS_EVERY = 15  # frames between two measurements of likeness, which take one or two milliseconds
_NUM_INITIAL = 45  # frames of which every third one is measured, to detect other frames early


class InvalidMaskError(Exception):
    """The output of inference is not a valid mask."""


def validate_mask(mask: np.ndarray, *, size: tuple[int, int], classes: int, overlapping: bool = False) -> np.ndarray:
    """[1, h, w] of class indices, or of bits of overlapping classes -> uint8 [h, w].

    Raises InvalidMaskError for another shape, for floats, an unknown class, or one foreground class everywhere.
    """
    mask = np.asarray(mask)
    if mask.shape != (1, *size):
        raise InvalidMaskError(f"inference gave shape {list(mask.shape)}, not {[1, *size]}")
    if mask.dtype.kind == "f":
        if not np.isfinite(mask).all():
            raise InvalidMaskError("inference gave NaN")
        raise InvalidMaskError(f"inference gave {mask.dtype}, not class indices")
    low, high = int(mask.min()), int(mask.max())
    most = largest_value(classes, overlapping=overlapping)
    if low < 0 or high > most:
        wrong = high if high > most else low
        if overlapping:
            raise InvalidMaskError(f"inference gave the bits {wrong} of {classes - 1} classes")
        raise InvalidMaskError(f"inference gave class {wrong} of {classes}")
    if low == high and low > 0:
        raise InvalidMaskError(f"inference gave class {low} everywhere")
    return mask[0].astype(np.uint8, copy=False)


class MaskPlausibility:
    """Agreement and likeness of consecutive masks."""

    def __init__(self, statistics: InputStatistics | None = None) -> None:
        self.drift_message = ""  # set once the frames differ from the training frames
        self._statistics, self._monitor = statistics, InputDriftMonitor(statistics, what="source")
        self._previous: np.ndarray | None = None
        self._epoch = -1
        self._likeness: float | None = None
        self._count = 0

    def update(self, mask: np.ndarray, fitted: np.ndarray, *, epoch: int) -> tuple[float | None, float | None]:
        """Mask uint8 [h, w] and its frame [h, w, K] -> (agreement, likeness).

        The agreement is None for the first mask of an epoch; the likeness is None without input statistics.
        """
        previous = self._previous if epoch == self._epoch else None
        self._previous, self._epoch = mask, epoch
        interval = 3 if self._count < _NUM_INITIAL else _LIKENESS_EVERY
        if self._statistics is not None and self._count % interval == 0:
            self._likeness = self._measure_likeness(fitted, self._statistics)
        self._count += 1
        return (None if previous is None else _agreement(previous, mask)), self._likeness

    def _measure_likeness(self, fitted: np.ndarray, statistics: InputStatistics) -> float:
        features = matching_features(fitted[None], statistics.names)
        if features is None:
            return 0.0
        self.drift_message = self._monitor.update_features(features) or self.drift_message
        return round(float(statistics.in_distribution_score(features)[0]), 4)


def _agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of the pixels with the same foreground class in both masks; 1 for two empty masks."""
    total = int((a > 0).sum()) + int((b > 0).sum())
    return 1.0 if total == 0 else round(2 * int(((a == b) & (a > 0)).sum()) / total, 4)
