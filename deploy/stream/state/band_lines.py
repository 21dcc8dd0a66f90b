"""What is drawn with the outline of a mask: its uncertain region hatched, the outer line dashed, the inner one thin.

Regions, hatching and lines are computed by the first display or page that draws them, not by the inference thread: the
mask does not wait for them, and a mask that nothing draws has none computed.

With OpenCV the lines are traced and drawn by it; without it they are the rims of the regions, in the same places.

Shapes: H W of the picture, h w of the mask, P pixels of the overlay.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from deploy.stream.state.overlay import Colour, Overlay
from edgemt.io.contour_bands import Band
from edgemt.io.opencv import find_opencv
from edgemt.io.uncertain_region import hatching

_DASH = 7  # length of a dash and of the gap after it, in line widths
_SHIFT = 4  # fractional bits of OpenCV's coordinates


class DeferredMarks:
    """The regions of one mask and their marks on an overlay, computed once, when a thread first needs them."""

    def __init__(
        self,
        *,
        colours: Sequence[Colour],
        bands: Callable[[], tuple[Band, ...]] = tuple,
        uncertain: Callable[[], np.ndarray] | None = None,
    ) -> None:
        """Outer and inner regions [h, w] in the `colours` of their classes; the uncertain region, bool [h, w]."""
        self._compute_bands, self._compute_uncertain, self._colours = bands, uncertain, colours
        self._lock = threading.RLock()
        self._bands: tuple[Band, ...] | None = None
        self._uncertain: np.ndarray | None = None
        self._drawn: Overlay | None = None

    @property
    def bands(self) -> tuple[Band, ...]:
        with self._lock:
            if self._bands is None:
                self._bands = self._compute_bands()
            return self._bands

    @property
    def uncertain(self) -> np.ndarray | None:
        with self._lock:
            if self._uncertain is None and self._compute_uncertain is not None:
                self._uncertain = self._compute_uncertain()
            return self._uncertain

    def on(self, overlay: Overlay) -> Overlay:
        """The overlay of the same mask with the marks added. Always call it with the same overlay."""
        with self._lock:
            if self._drawn is None:
                below = with_hatching(overlay, self.uncertain)
                self._drawn = with_band_lines(below, self.bands, colours=self._colours)
            return self._drawn


def with_hatching(overlay: Overlay, region: np.ndarray | None) -> Overlay:
    """The overlay of a picture with a region, bool [h, w], hatched beneath it."""
    if region is None or not region.any():
        return overlay
    index, white = hatching(region, size=overlay.size)
    colour = np.repeat(np.where(white, 255, 0).astype(np.uint8)[:, None], 3, axis=1)
    return Overlay(overlay.size, np.concatenate([index, overlay.index]), np.concatenate([colour, overlay.colour]))


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
    if not found:
        return np.zeros(0, np.int64)
    scale = np.array([size[1] / region.shape[1], size[0] / region.shape[0]])
    placed = [_placed(points[:, 0].astype(np.float32), scale) for points in found]
    every = np.concatenate(placed) >> _SHIFT
    low = np.maximum(every.min(0) - thickness - 1, 0)
    high = np.minimum(every.max(0) + thickness + 2, (size[1], size[0]))
    canvas = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    corner, step = (low << _SHIFT).astype(np.int32), max(2, round(_DASH * thickness / float(scale.max())))
    lines: list[np.ndarray] = []
    for line in placed:
        line -= corner
        lines += [line[i : i + step] for i in range(0, len(line), 2 * step)] if dashed else [line]
    cv2.polylines(canvas, lines, not dashed, 1, thickness, cv2.LINE_8, _SHIFT)
    y, x = np.divmod(np.flatnonzero(canvas.view(bool)), canvas.shape[1])
    return (y + low[1]) * size[1] + x + low[0]


def _placed(line: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """A contour [n, 2] as (x, y) in mask pixels, without the steps of the pixels, in OpenCV's units of the picture."""
    if len(line) > 4:
        line = (line + np.roll(line, 1, 0) + np.roll(line, -1, 0)) / 3
    return np.rint(((line + 0.5) * scale - 0.5) * (1 << _SHIFT)).astype(np.int32)


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
