"""The outer and inner lines of a mask on the overlay: outer dashed, inner thin.

With OpenCV the lines are traced and drawn by it; without it they are the rims of the regions, in the same places.

Shapes: H W of the picture, h w of the mask, P pixels of the overlay.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deploy.stream.state.overlay import Colour, Overlay
from edgemt.io.contour_bands import Band
from edgemt.io.opencv import find_opencv

_DASH = 7  # length of a dash and of the gap after it, in line widths
_SHIFT = 4  # fractional bits of OpenCV's coordinates


def with_band_lines(overlay: Overlay, bands: Sequence[Band], *, colours: Sequence[Colour]) -> Overlay:
    """The overlay of a picture with the lines of `bands` [h, w] added, in the colours of their classes."""
    if not bands:
        return overlay
    thickness = max(1, overlay.size[0] // 540)
    index, colour = [overlay.index], [overlay.colour]
    for band in bands:
        for region, dashed in ((band.outer, True), (band.inner, False)):
            if region is not None and region.any():
                pixels = line_pixels(region, size=overlay.size, thickness=thickness, dashed=dashed)
                index.append(pixels)
                colour.append(np.broadcast_to(np.array(colours[band.value], np.uint8), (len(pixels), 3)))
    return Overlay(overlay.size, np.concatenate(index), np.concatenate(colour))


def line_pixels(region: np.ndarray, *, size: tuple[int, int], thickness: int, dashed: bool) -> np.ndarray:
    """Bool [h, w] -> int64 [P]: flat indices, in a picture of `size`, of the region's outline."""
    cv2 = find_opencv()
    return (_traced if cv2 is not None else _rim)(region, size, thickness, dashed)


def _traced(region: np.ndarray, size: tuple[int, int], thickness: int, dashed: bool) -> np.ndarray:
    cv2 = find_opencv()
    found, _ = cv2.findContours(region.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    scale = np.array([size[1] / region.shape[1], size[0] / region.shape[0]])
    lines: list[np.ndarray] = []
    for points in found:
        line = points[:, 0].astype(np.float32)
        if len(line) > 4:  # without the steps of the pixels
            line = (line + np.roll(line, 1, 0) + np.roll(line, -1, 0)) / 3
        placed = np.rint(((line + 0.5) * scale - 0.5) * (1 << _SHIFT)).astype(np.int32)
        step = max(2, round(_DASH * thickness / float(scale.max())))
        lines += (
            [placed[i : i + step] for i in range(0, len(placed), 2 * step)]
            if dashed
            else [np.append(placed, placed[:1], 0)]
        )
    if not lines:
        return np.zeros(0, np.int64)
    every = np.concatenate(lines) >> _SHIFT
    low = np.maximum(every.min(0) - thickness - 1, 0)
    high = np.minimum(every.max(0) + thickness + 2, (size[1], size[0]))
    canvas = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    corner = (low << _SHIFT).astype(np.int32)
    cv2.polylines(canvas, [line - corner for line in lines], False, 1, thickness, cv2.LINE_8, _SHIFT)
    y, x = np.divmod(np.flatnonzero(canvas), canvas.shape[1])
    return (y + low[1]) * size[1] + x + low[0]


def _rim(region: np.ndarray, size: tuple[int, int], thickness: int, dashed: bool) -> np.ndarray:
    padded = np.pad(region, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    rim = region & ~inside
    if dashed:
        rows, columns = np.nonzero(region)
        y, x = np.nonzero(rim)
        angle = np.arctan2(y - rows.mean(), x - columns.mean())
        pairs = max(6, len(y) // (2 * _DASH))
        rim[y, x] = (angle * pairs / np.pi) % 2 < 1
    rows, columns = (
        ((np.arange(length) + 0.5) * own / length).astype(int) for length, own in zip(size, rim.shape, strict=True)
    )
    return np.flatnonzero(rim[rows[:, None], columns[None]])
