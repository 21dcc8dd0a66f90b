"""Overlays on a frame: the outline of a mask, or a text in place of a mask.

An overlay is opaque, so that every pixel outside it is the unchanged pixel of the source. Its pixels are computed in
the inference thread; painting them is fast enough for the display thread.

Shapes: H W of the picture, h w of the mask, P pixels of the overlay, S segments.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from edgemt.io.class_regions import in_class, present_classes

Colour = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Overlay:
    """Pixels to paint on a picture of `size` (height, width)."""

    size: tuple[int, int]
    index: np.ndarray  # int64 [P] into the flattened picture
    colour: np.ndarray  # uint8 [P, 3]


def composite(pixels: np.ndarray, overlay: Overlay) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] -> a new uint8 [H, W, 3]. An overlay of another size is not painted."""
    out = pixels.copy() if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    if overlay.size == pixels.shape[:2]:
        out.reshape(-1, 3)[overlay.index] = overlay.colour
    return out


def empty_overlay(size: tuple[int, int]) -> Overlay:
    """An overlay for pictures of `size` (H, W) that paints no pixel."""
    return Overlay(size, np.zeros(0, np.int64), np.zeros((0, 3), np.uint8))


def count_changed_outside(picture: np.ndarray, pixels: np.ndarray, overlay: Overlay) -> int:
    """Number of pixels of `picture` that differ from `pixels` outside the overlay. It must be 0."""
    source = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    restored = picture.copy()
    if overlay.size == source.shape[:2]:
        restored.reshape(-1, 3)[overlay.index] = source.reshape(-1, 3)[overlay.index]
    if np.array_equal(restored, source):  # a hundred times faster than counting
        return 0
    return int((restored != source).any(axis=2).sum())


def palette(classes: int) -> tuple[Colour, ...]:
    """One colour per class, including the background."""
    hues = (colorsys.hsv_to_rgb((0.46 + 0.618034 * i) % 1.0, 0.75, 1.0) for i in range(classes))
    return tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues)


def outline(
    mask: np.ndarray,
    *,
    size: tuple[int, int],
    colours: Sequence[Colour],
    thickness: int = 3,
    overlapping: bool = False,
) -> Overlay:
    """Class indices, or bits of overlapping classes, [h, w] -> the contours of all classes except 0, for `size`."""
    scale = (size[0] / mask.shape[0], size[1] / mask.shape[1])
    parts, shades = [], []
    for c in present_classes(mask, overlapping=overlapping):
        start, end = _segments(in_class(mask, c, overlapping=overlapping))
        index = _painted(start, end, size=size, scale=scale, thickness=thickness)
        parts.append(index)
        shades.append(np.broadcast_to(np.array(colours[c], np.uint8), (len(index), 3)))
    return Overlay(size, np.concatenate(parts), np.concatenate(shades)) if parts else empty_overlay(size)


@lru_cache(maxsize=32)
def text_overlay(text: str, size: tuple[int, int]) -> Overlay:
    """Black text on a yellow background, at the lower left."""
    height = max(10, size[0] // 30)
    font = ImageFont.load_default(height)
    left, top, right, bottom = font.getbbox(text)
    pad = height // 3
    plate = Image.new("RGB", (int(right - left) + 2 * pad, int(bottom - top) + 2 * pad), (255, 210, 63))
    ImageDraw.Draw(plate).text((pad - left, pad - top), text, fill=(0, 0, 0), font=font)
    pixels = np.asarray(plate)[: size[0], : size[1]]
    rows = np.arange(size[0] - pixels.shape[0], size[0])
    index = rows[:, None] * size[1] + np.arange(pixels.shape[1])
    return Overlay(size, index.reshape(-1), np.ascontiguousarray(pixels.reshape(-1, 3)))


def _segments(region: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Marching squares on a smoothed region: bool [h, w] -> starts and ends [S, 2] as (y, x), in mask pixels."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    top, left = int(rows[0]) - 2, int(columns[0]) - 2
    soft = _soft(np.pad(region[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 2))
    inside = soft > 0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        across = (0.5 - soft[:, :-1]) / (soft[:, 1:] - soft[:, :-1])
        down = (0.5 - soft[:-1]) / (soft[1:] - soft[:-1])
    cut_across, cut_down = inside[:, 1:] != inside[:, :-1], inside[1:] != inside[:-1]
    cut = np.stack([cut_across[:-1], cut_down[:, :-1], cut_across[1:], cut_down[:, 1:]])  # top, left, bottom, right
    y, x = np.nonzero(cut.any(axis=0))
    flags = cut[:, y, x]
    points = np.stack([
        np.stack([y, x + across[y, x]], axis=-1),
        np.stack([y + down[y, x], x], axis=-1),
        np.stack([y + 1, x + across[y + 1, x]], axis=-1),
        np.stack([y + down[y, x + 1], x + 1], axis=-1),
    ])  # fmt: skip
    order = np.argsort(~flags, axis=0, kind="stable")
    cell, saddle = np.arange(len(y)), flags.all(axis=0)
    start = np.concatenate([points[order[0], cell], points[2][saddle]])
    end = np.concatenate([points[order[1], cell], points[3][saddle]])
    corner = np.array([top, left])
    return start + corner, end + corner


def _soft(region: np.ndarray) -> np.ndarray:
    """Smoothed float32 [h, w] whose level of 0.5 is the contour; no pixel changes its side of that level."""
    soft = region.astype(np.float32)
    for axis in (0, 1):  # np.roll wraps around zeros only: the region is padded
        soft = 0.5 * soft + 0.25 * (np.roll(soft, 1, axis) + np.roll(soft, -1, axis))
    return np.where((soft > 0.5) != region, np.where(region, np.float32(0.51), np.float32(0.49)), soft)


def _painted(
    start: np.ndarray, end: np.ndarray, *, size: tuple[int, int], scale: tuple[float, float], thickness: int
) -> np.ndarray:
    """int64 [P]: flat indices of the pixels within `thickness` / 2 of the segments."""
    steps = np.linspace(0, 1, max(2, int(np.ceil(max(scale) * 1.5)) + 1))[None, :, None]
    along = start[:, None] + steps * (end - start)[:, None]
    at = np.rint((along + 0.5) * np.array(scale) - 0.5).astype(np.int64).reshape(-1, 2)
    width = size[1] + 2 * thickness  # with a margin for lines that cross the border of the picture
    at = np.unique((at[:, 0] + thickness) * width + at[:, 1] + thickness)
    reach = np.arange(thickness) - thickness // 2
    offsets = (reach[:, None] * width + reach[None]).reshape(-1)
    y, x = np.divmod((at[:, None] + offsets).reshape(-1), width)
    y, x = y - thickness, x - thickness
    inside = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
    return y[inside] * size[1] + x[inside]
