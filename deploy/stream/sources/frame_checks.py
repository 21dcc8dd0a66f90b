"""Checks of incoming frames: valid format, black or uniform, frozen.

Every 16th row is checked first, which takes a fraction of a millisecond; all rows only if those are suspicious.

Shapes: H W size in pixels.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from deploy.stream.sources.base import CorruptFrameError
from deploy.stream.state.display_state import Problem

MIN_SIDE = 16  # pixels
_MAX_SIDE = 16384
_ROW_STEP = 16  # every n-th row is checked first
_BLACK_MAX, _UNIFORM_STD = 12, 1.5  # grey levels


def to_frame_pixels(array: Any) -> np.ndarray:
    """uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] -> contiguous uint8 [H, W] or [H, W, 3].

    Raises CorruptFrameError for any other type or shape, and for a side outside 16 to 16384 pixels.
    """
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise CorruptFrameError(f"a frame of {kind}; sources give uint8 arrays")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise CorruptFrameError(f"a frame of shape {array.shape}; wanted [H, W] or [H, W, 3]")
    if not all(MIN_SIDE <= n <= _MAX_SIDE for n in array.shape[:2]):
        size = f"{array.shape[1]} x {array.shape[0]} pixels"
        raise CorruptFrameError(f"a frame of {size}; each side must have {MIN_SIDE} to {_MAX_SIDE}")
    if array.ndim == 3:
        array = array[..., 0] if array.shape[2] == 1 else array[..., :3]
    return np.ascontiguousarray(array)


class FreezeDetector:
    """Detects identical frames over a longer time."""

    def __init__(self, frozen_ms: float) -> None:
        """`frozen_ms`: maximum time without a change; 0 turns the detection off."""
        self._limit_ns = frozen_ms * 1e6
        self._checksum, self._since_ns = 0, 0
        self._previous: np.ndarray | None = None

    def check(self, pixels: np.ndarray, now_ns: int) -> Problem | None:
        """Call it for every frame.

        "no-signal" for a black or uniform frame, "stale" if the frames did not change for `frozen_ms`, else None.
        """
        rows = pixels[:: min(_ROW_STEP, len(pixels) // 4)]
        if _is_uniform(rows[:, :: min(_ROW_STEP, rows.shape[1] // 4)]) and _is_uniform(pixels):
            return "no-signal", "the picture is black or of one colour"
        checksum, previous = zlib.crc32(rows.tobytes()), self._previous
        self._previous = pixels
        same = checksum == self._checksum and previous is not None and np.array_equal(pixels, previous)
        if not same:
            self._checksum, self._since_ns = checksum, now_ns
        elif 0 < self._limit_ns <= now_ns - self._since_ns:
            return "stale", "the picture is frozen"
        return None


def _is_uniform(pixels: np.ndarray) -> bool:
    channels = pixels.reshape(-1, pixels.shape[2] if pixels.ndim == 3 else 1)
    return bool(channels.max() <= _BLACK_MAX) or float(channels.std(0).max()) < _UNIFORM_STD
