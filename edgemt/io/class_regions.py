"""The region of a class in a mask: of class indices, or of bits where classes may overlap.

A mask of overlapping classes holds bit k - 1 (the value 2 ** (k - 1)) where class k is; 0 is the background and
`IGNORE` (255) stays what it is, so there are at most `MAX_OVERLAPPING` such classes. The shapes, types and files of
masks are the same for both kinds; only the meaning of a value differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemt.contract import IGNORE

MAX_OVERLAPPING = 7


def in_class(mask: np.ndarray, index: int, *, overlapping: bool) -> np.ndarray:
    """Bool of the mask's shape: where class `index`, 1 or more with overlapping classes, is."""
    if not overlapping:
        return mask == index
    return ((mask >> np.uint8(index - 1)) & 1).astype(bool) & (mask != IGNORE)


def present_classes(mask: np.ndarray, *, overlapping: bool) -> list[int]:
    """The foreground classes of a mask of whole numbers, in order; IGNORE is one unless classes overlap."""
    found = np.flatnonzero(np.bincount(mask.reshape(-1))) if mask.dtype == np.uint8 else np.unique(mask)
    values = [int(value) for value in found if value > 0]
    if not overlapping:
        return values
    return [k for k in range(1, MAX_OVERLAPPING + 1) if any(v != IGNORE and v >> (k - 1) & 1 for v in values)]


def from_regions(regions: Sequence[np.ndarray]) -> np.ndarray:
    """Regions of one shape, those of class 1 first, bool or 0 and 1 -> their bits as uint8."""
    out = np.zeros(regions[0].shape, np.uint8)
    for k, region in enumerate(regions):
        out |= region.astype(np.uint8) << np.uint8(k)
    return out


def largest_value(classes: int, *, overlapping: bool) -> int:
    """The largest value of a mask of `classes` classes, the background among them."""
    return (1 << (classes - 1)) - 1 if overlapping else classes - 1


def each_class(
    mask: np.ndarray, change: Callable[[np.ndarray], np.ndarray], *, classes: int, overlapping: bool
) -> np.ndarray:
    """`change` of a mask uint8; of overlapping classes that of each class by itself, as a mask of 0 and 1."""
    if not overlapping:
        return change(mask)
    regions = (in_class(mask, k, overlapping=True).view(np.uint8) for k in range(1, classes))
    return from_regions([change(region) for region in regions])


def mask_parts(mask: np.ndarray, classes: Sequence[str], *, overlapping: bool) -> list[tuple[str, np.ndarray]]:
    """(part of a file name, mask uint8) of each file of a mask: one, or of overlapping classes one each.

    A part is empty, or "CLASS." with underscores for spaces; a mask of one class holds 0 and 1.
    """
    if not overlapping:
        return [("", mask)]
    regions = ((name, in_class(mask, k, overlapping=True)) for k, name in enumerate(classes[1:], 1))
    return [(f"{name.replace(' ', '_')}.", region.astype(np.uint8)) for name, region in regions]


def no_overlapping(card: Any, *, where: str | Path, what: str) -> None:
    """Raises ValueError for a model of overlapping classes, where `what` takes one class a pixel."""
    if card.overlapping:
        raise ValueError(f"{where}: has overlapping classes (data.overlapping), and {what}")
