"""A cheap estimate of flicker while a stream runs: overlap of consecutive masks after one global shift of the picture.

The measure of `edgemt eval --video` follows each pixel by optical flow; this one has a single shift, found by phase
correlation (Kuglin and Hines, 1975) of the pictures at 64 x 64. It is computed after a mask was published, so no mask
waits for it.

Shapes: h w size of the model's input, K channels.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

_SIDE = 64  # cells of the picture that phase correlation sees, along each axis


class FlickerEstimate:
    """Collects masks of a stream in order: 1 - IoU of the foreground of consecutive masks, and what that takes.

    Of the masks with and without the shift the larger IoU counts, so a wrong shift adds no flicker. Pairs of two empty
    masks are not counted.
    """

    def __init__(self) -> None:
        self._last: tuple[np.ndarray, np.ndarray] | None = None  # the mask and the spectrum of its picture
        self._epoch = -1
        self._sum = self._cost_ns = 0.0
        self._num_pairs = self._num_calls = 0

    def add(self, mask: np.ndarray, fitted: np.ndarray, *, epoch: int) -> float | None:
        """Mask uint8 [h, w] as shown and its frame [h, w, K] -> flicker of this pair; None if it is not counted."""
        start = time.perf_counter_ns()
        spectrum = _spectrum(fitted)
        last = self._last if epoch == self._epoch and self._last is not None else None
        self._last, self._epoch = (mask, spectrum), epoch
        value = None if last is None or last[0].shape != mask.shape else _flicker(*last, mask, spectrum)
        if value is not None:
            self._sum += float(value)
            self._num_pairs += 1
        self._num_calls += 1
        self._cost_ns += time.perf_counter_ns() - start
        return value

    def record(self) -> dict[str, Any]:
        """{mean, pairs, cost_ms}: mean flicker of consecutive masks, their number, mean time of one estimate."""
        return {
            "mean": round(self._sum / self._num_pairs, 5) if self._num_pairs else None,
            "pairs": self._num_pairs,
            "cost_ms": round(self._cost_ns / self._num_calls / 1e6, 4) if self._num_calls else None,
        }


def global_shift(last: np.ndarray, present: np.ndarray, *, size: tuple[int, int]) -> tuple[int, int]:
    """(down, right) in pixels of a picture of `size` by which it moved, from two spectra of `_spectrum`."""
    cross = present * np.conj(last)
    surface = np.fft.irfft2(cross / np.maximum(np.abs(cross), 1e-9), s=(_SIDE, _SIDE))
    peak = np.unravel_index(int(surface.argmax()), surface.shape)
    cells = [_between_cells(surface, peak, axis) for axis in (0, 1)]
    return round(cells[0] * size[0] / _SIDE), round(cells[1] * size[1] / _SIDE)


def _between_cells(surface: np.ndarray, peak: Any, axis: int) -> float:
    """Position of the peak along an axis, -32 to 32, refined by a parabola through its neighbours."""
    line = np.take(surface, peak[1 - axis], axis=1 - axis)
    at = int(peak[axis])
    before, here, after = (float(line[(at + step) % _SIDE]) for step in (-1, 0, 1))
    curve = before - 2 * here + after
    offset = 0.5 * (before - after) / curve if curve < 0 else 0.0
    return (at + offset + _SIDE / 2) % _SIDE - _SIDE / 2


def _spectrum(fitted: np.ndarray) -> np.ndarray:
    """Spectrum of the middle channel of a frame [h, w, K], sampled at 64 x 64 and faded out towards its border."""
    plane = fitted[..., fitted.shape[-1] // 2]
    rows, columns = (np.arange(_SIDE) * side // _SIDE for side in plane.shape)
    steps = [max(side // _SIDE, 1) for side in plane.shape]
    ends = rows + steps[0] - 1, columns + steps[1] - 1
    cells = np.zeros((_SIDE, _SIDE), np.float32)
    for r in (rows, ends[0]):
        for c in (columns, ends[1]):
            cells += plane[np.ix_(r, c)]
    spectrum: np.ndarray = np.fft.rfft2((cells - cells.mean()) * _WINDOW)
    return spectrum


def _flicker(last: np.ndarray, before: np.ndarray, mask: np.ndarray, now: np.ndarray) -> float | None:
    down, right = global_shift(before, now, size=(mask.shape[0], mask.shape[1]))
    overlaps = [one for one in (_overlap(last, mask, 0, 0), _overlap(last, mask, down, right)) if one is not None]
    return 1 - max(overlaps) if overlaps else None


def _overlap(last: np.ndarray, mask: np.ndarray, down: int, right: int) -> float | None:
    """IoU of the foreground where both masks are, the last one shifted; None where both are empty there."""
    height, width = mask.shape
    now = mask[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
    then = last[max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)]
    union = np.count_nonzero(now | then)
    if not union:
        return None
    return float(np.count_nonzero((now == then) & (now > 0)) / union)


_WINDOW = np.outer(np.hanning(_SIDE), np.hanning(_SIDE)).astype(np.float32)
