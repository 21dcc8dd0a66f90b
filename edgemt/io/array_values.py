"""Checks of the values of an array that was read from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgemt.io.decode_errors import Refused

INTEGER_TOLERANCE = 1e-3  # so far from a whole number a label may be, as resampling in float leaves it


def to_unsigned_integers(array: np.ndarray, path: str | Path) -> np.ndarray:
    """The same values in the smallest unsigned kind that holds them; negative ones as int32.

    Numbers within 1e-3 of a whole one are rounded. Raises ValueError, naming the file, for any others.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return (array.view(np.uint8) != 0).view(np.uint8)  # Pillow fills the bytes of a true one
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: a mask must hold whole numbers, this one holds {array.dtype}")
    if array.dtype.kind == "f":
        whole = np.rint(check_finite(array, path))
        wrong = np.abs(whole - array) > INTEGER_TOLERANCE
        if wrong.any():
            raise ValueError(f"{path}: a mask must hold whole numbers, this one holds {float(array[wrong][0])!r}")
        array = whole
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    kind = np.int32 if low < 0 else np.uint8 if high < 256 else np.uint16 if high < 65536 else np.uint32
    return array.astype(kind)


def check_not_constant(array: np.ndarray, path: str | Path) -> np.ndarray:
    """The array. Raises ValueError, naming the file, when it is empty or holds one value everywhere."""
    if array.size == 0 or array.min() == array.max():
        raise ValueError(f"{path}: holds one value everywhere; it is no image, replace or remove the file")
    return array


def check_finite(array: np.ndarray, path: str | Path) -> np.ndarray:
    """The array as it is. Raises ValueError, naming the file, if it holds NaN or infinite values."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refused(f"{path}: holds NaN or infinite values; mend or remove the file")
    return array
