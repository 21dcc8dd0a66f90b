"""Whether a picture is one, black, or frozen. Every 16th row is looked at, which costs a fraction of a millisecond; all
of them where those rows are suspicious.

Shapes: H W size in pixels.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from deploy.stream.state.display_state import Problem

SMALLEST = 16  # pixels a side
_LARGEST = 16384
_APART = 16  # rows between those looked at
_BLACK, _FLAT = 12, 1.5  # grey levels


class Corrupt(Exception):
    """A frame that cannot be used; the next may be fine."""


def as_picture(array: Any) -> np.ndarray:
    """uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] -> contiguous uint8 [H, W] or [H, W, 3]. Raises Corrupt."""
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise Corrupt(f"a frame of {kind}; sources give uint8 arrays")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise Corrupt(f"a frame of shape {array.shape}; wanted [H, W] or [H, W, 3]")
    if not all(SMALLEST <= n <= _LARGEST for n in array.shape[:2]):
        raise Corrupt(f"a frame of {array.shape[1]} x {array.shape[0]} pixels, not {SMALLEST} to {_LARGEST} a side")
    if array.ndim == 3:
        array = array[..., 0] if array.shape[2] == 1 else array[..., :3]
    return np.ascontiguousarray(array)


class Freeze:
    """Finds out when the same picture keeps coming."""

    def __init__(self, frozen_ms: float) -> None:
        self._limit_ns = frozen_ms * 1e6
        self._print, self._since_ns = 0, 0
        self._before: np.ndarray | None = None

    def check(self, pixels: np.ndarray, now_ns: int) -> Problem | None:
        """Of frames in turn: black or one flat colour is no signal, the same picture for too long is stale."""
        rows = pixels[:: min(_APART, len(pixels) // 4)]
        if _plain(rows[:, :: min(_APART, rows.shape[1] // 4)]) and _plain(pixels):
            return "no-signal", "the picture is black or of one colour"
        found, before = zlib.crc32(rows.tobytes()), self._before
        self._before = pixels
        same = found == self._print and before is not None and np.array_equal(pixels, before)
        if not same:
            self._print, self._since_ns = found, now_ns
        elif 0 < self._limit_ns <= now_ns - self._since_ns:
            return "stale", "the picture is frozen"
        return None


def _plain(pixels: np.ndarray) -> bool:
    few = pixels.reshape(-1, pixels.shape[2] if pixels.ndim == 3 else 1)
    return bool(few.max() <= _BLACK) or float(few.std(0).max()) < _FLAT
