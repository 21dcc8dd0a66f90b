"""Masks as thin outlines on the frame they belong to: the report's gallery, the overlays of `predict`.

Shapes: H W size in pixels, K channels (1 grey, 3 RGB), s scale. Class 0 is background and is never drawn.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from edgemt.io.class_regions import in_class, present_classes

Colour = tuple[int, int, int]

# Bright hues, distinguishable on red mucosa, on grey MRI and with the common colour-vision deficiencies.
_PALETTE: tuple[Colour, ...] = (
    (64, 240, 200),
    (255, 210, 63),
    (96, 176, 255),
    (255, 255, 255),
    (200, 150, 255),
    (188, 240, 70),
    (255, 145, 70),
    (255, 120, 190),  # the nearest to red tissue comes last
)
_HALO = 0.55  # opacity of the dark rim that keeps a line visible on a specular highlight


def class_colours(count: int) -> tuple[Colour, ...]:
    """One colour a class, background (index 0, grey) included; the same class always gets the same colour."""
    extra = [
        tuple(round(255 * v) for v in colorsys.hsv_to_rgb((0.09 + 0.618034 * i) % 1.0, 0.55, 1.0))
        for i in range(max(0, count - 1 - len(_PALETTE)))
    ]
    return ((128, 128, 128), *_PALETTE, *extra)[:count]  # type: ignore[return-value]


def contours(
    image: np.ndarray,
    mask: np.ndarray,
    *,
    colours: Sequence[Colour] | None = None,
    scale: int = 1,
    thickness: int | None = None,
    overlapping: bool = False,
) -> np.ndarray:
    """uint8 [H, W], [H, W, 1] or [H, W, 3] and integers [H, W] -> uint8 RGB [sH, sW, 3].

    `colours` is indexed by class (None: `class_colours`); `thickness` in output pixels (None: about 1/256 of
    the longer side). A line lies just inside its region, so its outer rim is the border, and a single pixel
    stays visible. `overlapping`: the mask has bits (`edgemt.io.class_regions`), and each class its own line.
    Raises ValueError when the sizes differ, or a class has no colour.
    """
    frame = _as_rgb(image)
    if frame.shape[:2] != mask.shape:
        raise ValueError(f"mask: {mask.shape} does not fit the image {frame.shape[:2]}; resize the mask first")
    size = (frame.shape[1] * scale, frame.shape[0] * scale)
    out = np.array(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
    drawn = outlines(mask, colours=colours, scale=scale, thickness=thickness, overlapping=overlapping)
    at = np.nonzero(drawn[..., 3])
    alpha = drawn[at][:, 3:].astype(np.float32) / 255.0
    out[at] = np.rint(out[at] * (1.0 - alpha) + drawn[at][:, :3] * alpha).astype(np.uint8)
    return out


def outlines(
    mask: np.ndarray,
    *,
    colours: Sequence[Colour] | None = None,
    scale: int = 1,
    thickness: int | None = None,
    overlapping: bool = False,
) -> np.ndarray:
    """Integers [H, W] -> uint8 RGBA [sH, sW, 4], else transparent. Arguments as for `contours`."""
    if mask.ndim != 2 or scale < 1:
        raise ValueError(f"mask: shape {mask.shape}, scale {scale}; outlines need [H, W] and a scale of 1 or more")
    present = present_classes(mask, overlapping=overlapping)
    colours = class_colours(max(present, default=0) + 1) if colours is None else colours
    if present and present[-1] >= len(colours):
        raise ValueError(f"colours: class {present[-1]} has no colour, only {len(colours)} are given")
    height, width = mask.shape[0] * scale, mask.shape[1] * scale
    line = max(1, round(max(height, width) / 256)) if thickness is None else max(1, thickness)
    rgb = np.zeros((height, width, 3), np.float32)  # premultiplied, so that the halo's black adds nothing
    alpha = np.zeros((height, width, 1), np.float32)
    for c in present:
        cover, top, left = _rim(in_class(mask, c, overlapping=overlapping), scale=scale, line=line)
        dark = np.asarray(Image.fromarray(cover).filter(ImageFilter.MaxFilter(3)))
        rows, columns = np.nonzero(dark)
        inside = (rows + top >= 0) & (rows + top < height) & (columns + left >= 0) & (columns + left < width)
        rows, columns = rows[inside], columns[inside]
        at = (rows + top, columns + left)
        over = cover[rows, columns, None].astype(np.float32) / 255.0
        rgb[at] = rgb[at] * (1.0 - over) + np.asarray(colours[c], np.float32) * over
        alpha[at] = np.maximum.reduce([alpha[at], over, dark[rows, columns, None] * (_HALO / 255.0)])
    out = np.zeros((height, width, 4), np.uint8)
    drawn = np.nonzero(alpha[..., 0])
    straight = np.clip(rgb[drawn] / alpha[drawn], 0, 255)
    out[drawn] = np.concatenate([straight, alpha[drawn] * 255.0], axis=1).round().astype(np.uint8)
    return out


def _rim(region: np.ndarray, *, scale: int, line: int) -> tuple[np.ndarray, int, int]:
    """The inner rim of one region as coverage uint8, and where its first row and column lie in the output.

    The rim is the region minus its erosion, both antialiased. A region cut by the frame is closed along it.
    """
    pad = -(-line // scale) + 1
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    inner = region[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    padded = Image.fromarray(_smooth(np.pad(inner, pad)))
    size = (padded.width * scale, padded.height * scale)
    soft = np.asarray(padded.resize(size, Image.Resampling.BILINEAR))  # its 0.5 level is the border
    cover = np.clip((soft - 0.5) * 510.0 * scale + 127.5, 0, 255).astype(np.uint8)
    eroded = cover
    for _ in range(line):
        for axis in (0, 1):  # least of three neighbours; what wraps around is the rim of zeros
            eroded = np.minimum(eroded, np.minimum(np.roll(eroded, 1, axis), np.roll(eroded, -1, axis)))
    return cover - eroded, (int(rows[0]) - pad) * scale, (int(columns[0]) - pad) * scale


def _smooth(region: np.ndarray) -> np.ndarray:
    """Float [H, W] whose 0.5 level is the border without stairs; every pixel centre stays on its side."""
    soft = region.astype(np.float32)
    for axis in (0, 1):
        beside = np.roll(soft, 1, axis) + np.roll(soft, -1, axis)  # what wraps around is the rim of zeros
        soft = 0.5 * soft + 0.25 * beside
    return np.where((soft > 0.5) != region, region, soft).astype(np.float32)


def _as_rgb(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise ValueError(f"image: {image.dtype} {image.shape}; must be uint8 [H, W], [H, W, 1] or [H, W, 3]")
    frame = image[..., None] if image.ndim == 2 else image
    return np.ascontiguousarray(np.repeat(frame, 3, axis=2) if frame.shape[2] == 1 else frame)
