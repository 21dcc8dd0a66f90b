"""Decode mask files, and collect the evidence on what their values mean: values, palette or colours, lossy or not.

Shapes: H W size of a mask, X Y Z of a volume's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from edgemt.io.array_values import to_unsigned_integers
from edgemt.io.file_types import is_h5, is_image
from edgemt.io.images import deep_channels, grey_values, is_deep_colour, is_grey, opened_image, read_label, upright

Kind = Literal["grey", "bit", "palette", "colour", "alpha"]
Colour = tuple[int, int, int]
_NOISE = 32  # of 255: what compression leaves of black at most
_REGION = 0.2  # share of the pixels of a value in even blocks from which they are a region, no soft edge
_CHUNK = 1 << 22  # values counted at a time


@dataclass(frozen=True)
class Evidence:
    """Of one file. `levels` are the values of its array with their counts; of colours, the largest channel."""

    path: str
    kind: Kind
    levels: dict[int, int]
    lossy: bool = False
    colours: tuple[tuple[int, Colour], ...] = ()  # palette: index and colour of those in use; colour: (0, colour) each
    regions: frozenset[int] = frozenset()  # values between the lowest and the highest that fill areas
    conflict: str = ""  # why nothing can be read at all
    turned: bool = False  # by its own EXIF orientation

    @property
    def top(self) -> int:
        return max(self.levels, default=0)


@dataclass(frozen=True)
class MaskFile:
    """A decoded mask: `array` [H, W] or [X, Y, Z] of whole numbers, in the smallest kind."""

    array: np.ndarray
    evidence: Evidence


def read_mask(path: str | Path) -> MaskFile:
    """A 2-D mask with its evidence. Raises ValueError, naming the file, for one that cannot be decoded."""
    if is_h5(path) or not is_image(path):
        return of_array(read_label(path), path)
    with opened_image(path, what="mask") as (image, turn):
        found = _of_image(image, str(path))
    if turn == 1:
        return found
    return MaskFile(upright(found.array, turn), replace(found.evidence, turned=True))


def of_array(array: np.ndarray, path: str | Path) -> MaskFile:
    """Evidence of whole numbers that need no decoding: a volume's, or a slice of an .h5 file."""
    levels = count(array)
    return MaskFile(array, Evidence(str(path), "grey", levels, regions=_regions(array, levels)))


def count(array: np.ndarray) -> dict[int, int]:
    """Each value of an array of whole numbers, and how often it occurs. Memory stays small."""
    flat = array.reshape(-1)
    if array.dtype != np.uint8:
        values, counts = np.unique(flat, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))
    total = np.zeros(256, np.int64)
    for start in range(0, len(flat), _CHUNK):
        part = flat[start : start + _CHUNK]
        between = part[part + np.uint8(1) > 1]  # neither 0 nor 255, of which most masks are made: counted the quick way
        total += np.bincount(between, minlength=256)
        total[0] += len(part) - np.count_nonzero(part)
        total[255] += np.count_nonzero(part == 255)
    return {int(v): int(total[v]) for v in np.flatnonzero(total)}


def _of_image(image: Image.Image, path: str) -> MaskFile:
    lossy = image.format in ("JPEG", "MPO") or (image.format == "WEBP" and len(image.getcolors(1 << 24) or ()) > 16)
    lossy = lossy or getattr(image, "tag_v2", {}).get(259) in (6, 7)  # TIFF with JPEG inside
    if image.mode == "1":
        array = to_unsigned_integers(np.asarray(image), path)
        return MaskFile(array, Evidence(path, "bit", count(array)))
    if image.mode == "P":
        return _of_palette(image, path)
    if is_grey(image):
        array = to_unsigned_integers(grey_values(image, path), path)
        levels = count(array)
        return MaskFile(array, Evidence(path, "grey", levels, lossy, regions=_regions(array, levels, lossy)))
    return _of_colours(image, path, lossy)


def _of_palette(image: Image.Image, path: str) -> MaskFile:
    array = np.asarray(image)
    levels = count(array)
    table = np.asarray((image.getpalette("RGB") or [])[:768], np.int64).reshape(-1, 3)
    colours = tuple((v, _rgb(table[v])) for v in levels if v < len(table))
    if len({colour for _, colour in colours}) < len(colours):
        colours = ()  # several indices in one colour: the palette tells nothing
    return MaskFile(array, Evidence(path, "palette", levels, False, colours))


def _of_colours(image: Image.Image, path: str, lossy: bool) -> MaskFile:
    """RGB, RGBA, LA, PA, CMYK ...: grey where the channels agree; else the largest channel, transparent being 0."""
    bands, alpha = _bands(image, path)
    conflict = ""
    if alpha is not None and all((band == band[0, 0]).all() for band in bands):
        levels = count(alpha)
        return MaskFile(alpha, Evidence(path, "alpha", levels, lossy, regions=_regions(alpha, levels, lossy)))
    if alpha is not None:
        if any(band[alpha == 0].any() for band in bands):
            conflict = "is transparent where its colours are not black"
        bands = [band * (alpha > 0) for band in bands]
    top = to_unsigned_integers(np.maximum(np.maximum(bands[0], bands[1]), bands[2]), path)
    spread = top - np.minimum(np.minimum(bands[0], bands[1]), bands[2])
    coloured = bool((spread > (_NOISE if lossy else 0)).any())
    colours = _distinct(bands) if coloured and not lossy else ()
    levels = count(top)
    regions = _regions(top, levels, lossy)
    return MaskFile(top, Evidence(path, "colour" if coloured else "grey", levels, lossy, colours, regions, conflict))


def _bands(image: Image.Image, path: str) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Red, green and blue at full depth, and the transparency where something is drawn in it."""
    alpha: np.ndarray | None = None
    if is_deep_colour(image):
        deep = deep_channels(image, path)
        bands, alpha = [deep[..., k] for k in range(3)], deep[..., 3] if deep.shape[2] == 4 else None
    else:
        bands = [np.asarray(band) for band in (image if image.mode == "RGB" else image.convert("RGB")).split()]
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
            alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    if alpha is not None and alpha.max() == 0 and not any(np.ptp(band) for band in bands):
        bands = [band * 0 for band in bands]  # drawn in alpha elsewhere, nothing here
    return bands, None if alpha is None or alpha.min() == alpha.max() else alpha


def _distinct(bands: Sequence[np.ndarray]) -> tuple[tuple[int, Colour], ...]:
    """At most 64 colours that occur."""
    kind, bits = ("u4", 8) if bands[0].dtype == np.uint8 else ("u8", 16)
    found: np.ndarray = np.empty(0, kind)
    flat = [band.reshape(-1) for band in bands]
    for start in range(0, len(flat[0]), _CHUNK // 8):
        packed: np.ndarray = np.zeros(1, kind)
        for band in flat:
            packed = np.left_shift(packed, bits) | band[start : start + _CHUNK // 8]
        found = np.union1d(found, packed)
    mask = (1 << bits) - 1
    return tuple((0, (v >> 2 * bits, v >> bits & mask, v & mask)) for v in found[:64].tolist())


def _rgb(row: np.ndarray) -> Colour:
    return int(row[0]), int(row[1]), int(row[2])


def _regions(array: np.ndarray, levels: dict[int, int], lossy: bool = False) -> frozenset[int]:
    """Values strictly between 0 and the largest that fill areas: blocks of 2 x 2 equal pixels, as soft edges do not."""
    if lossy and array.ndim == 2:
        return _even_areas(array, levels)
    if lossy or len(levels) < 3 or array.ndim < 2:
        return frozenset()
    top = max(levels)
    between = [v for v in levels if 0 < v < top]
    if array.ndim > 2:
        return frozenset(between)  # voxels have no soft edges
    corner = array[:-1, :-1]
    even = (corner == array[1:, :-1]) & (corner == array[:-1, 1:]) & (corner == array[1:, 1:])
    inside = count(to_unsigned_integers(corner[even], "mask"))
    return frozenset(v for v in between if inside.get(v, 0) > _REGION * levels[v])


def _even_areas(array: np.ndarray, levels: dict[int, int]) -> frozenset[int]:
    """Of a mask compressed with loss: the values of areas that are neither black nor white.

    Around each of their pixels 5 x 5 differ by noise alone, which the pixels of an edge do not.
    """
    if sum(n for v, n in levels.items() if _NOISE <= v < 255 - _NOISE) < 25 or min(array.shape) < 5:
        return frozenset()
    low = high = array
    for axis in (0, 1):
        length = array.shape[axis] - 4
        low = np.minimum.reduce([np.take(low, range(k, k + length), axis) for k in range(5)])
        high = np.maximum.reduce([np.take(high, range(k, k + length), axis) for k in range(5)])
    even = (high - low <= _NOISE) & (low >= _NOISE) & (high < 255 - _NOISE)
    return frozenset(np.unique(array[2:-2, 2:-2][even]).tolist())
