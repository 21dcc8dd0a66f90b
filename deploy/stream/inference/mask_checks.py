"""Whether a mask can be one, and how far it is to be believed. The graph gives classes and no probabilities, so
confidence is what can honestly be had: agreement with the mask before, and likeness of the frame to training.

Shapes: h w size of the model's frame, K channels.
"""

from __future__ import annotations

import numpy as np

from deploy.package.frame_features import matching_features
from deploy.package.input_drift import InputDriftMonitor, InputStatistics

_LOOK_EVERY = 15  # frames between two looks at likeness, which costs a millisecond or two
_AT_FIRST = 45  # frames of which every third is looked at, to tell soon that they are of another kind


class BadMask(Exception):
    """What inference gave is no mask."""


def checked(mask: np.ndarray, *, size: tuple[int, int], classes: int) -> np.ndarray:
    """[1, h, w] -> uint8 [h, w]. Raises BadMask for NaN, a wrong shape, an unknown class, one class everywhere."""
    mask = np.asarray(mask)
    if mask.shape != (1, *size):
        raise BadMask(f"inference gave shape {list(mask.shape)}, not {[1, *size]}")
    if mask.dtype.kind == "f":
        if not np.isfinite(mask).all():
            raise BadMask("inference gave NaN")
        raise BadMask(f"inference gave {mask.dtype}, not class indices")
    low, high = int(mask.min()), int(mask.max())
    if low < 0 or high >= classes:
        raise BadMask(f"inference gave class {high if high >= classes else low} of {classes}")
    if low == high and low > 0:
        raise BadMask(f"inference gave class {low} everywhere")
    return mask[0].astype(np.uint8, copy=False)


class Belief:
    """Agreement and likeness of masks that come in turn."""

    def __init__(self, known: InputStatistics | None = None) -> None:
        self.unlike = ""  # in a sentence, once the frames turned out to be of another kind
        self._known, self._watch = known, InputDriftMonitor(known, what="source")
        self._before: np.ndarray | None = None
        self._epoch = -1
        self._likeness: float | None = None
        self._count = 0

    def of(self, mask: np.ndarray, fitted: np.ndarray, *, epoch: int) -> tuple[float | None, float | None]:
        """uint8 [h, w] and its frame [h, w, K] -> (agreement, likeness). No agreement across two pictures."""
        before = self._before if epoch == self._epoch else None
        self._before, self._epoch = mask, epoch
        if self._known is not None and self._count % (3 if self._count < _AT_FIRST else _LOOK_EVERY) == 0:
            self._likeness = self._look(fitted, self._known)
        self._count += 1
        return (None if before is None else _agreement(before, mask)), self._likeness

    def _look(self, fitted: np.ndarray, known: InputStatistics) -> float:
        described = matching_features(fitted[None], known.names)
        if described is None:
            return 0.0
        self.unlike = self._watch.update_features(described) or self.unlike
        return round(float(known.in_distribution_score(described)[0]), 4)


def _agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of what both call the same foreground class; two empty masks agree."""
    total = int((a > 0).sum()) + int((b > 0).sum())
    return 1.0 if total == 0 else round(2 * int(((a == b) & (a > 0)).sum()) / total, 4)
