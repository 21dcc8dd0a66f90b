"""A synthetic video with labels: an organ and an instrument over moving tissue, identical on every machine.

Frame k depends on k only. The frame number is encoded as black and white squares in the upper left corner and can be
read back with `frame_number_of`.

Shapes: H W size in pixels.
"""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

from deploy.stream.sources.base import SourceFrame

CLASSES = ("background", "organ", "instrument")
_SQUARE, _BITS = 8, 20  # side of a square in pixels, number of squares
_SWAY = 0.08  # amplitude of the camera movement, relative to the height


class SyntheticSource:
    """The synthetic video as a source, synthetic or synthetic:WIDTHxHEIGHT; endless if `frames` is None."""

    live = False

    def __init__(self, text: str = "synthetic", *, hz: float | None = 30.0, frames: int | None = None) -> None:
        match = re.fullmatch(r"synthetic(?::(\d+)x(\d+))?", text)
        size = (int(match[2]), int(match[1])) if match and match[1] else (1080, 1920)
        if match is None or not (64 <= size[0] <= 4320 and 16 * _BITS <= size[1] <= 7680):
            raise ValueError(f"source {text}: write synthetic:WIDTHxHEIGHT, {16 * _BITS}x64 to 7680x4320")
        self.name, self.hz, self.size, self.count = text, hz, size, frames
        self._next = 0
        self._scene: tuple[np.ndarray, np.ndarray] | None = None

    def open(self) -> None:
        self._next = 0
        self._scene = self._scene or _scene(self.size)

    def read(self) -> SourceFrame | None:
        if self.count is not None and self._next >= self.count:
            return None
        k = self._next
        self._next += 1
        return SourceFrame(self.frame(k), int(k * 1e9 / (self.hz or 30.0)))

    def close(self) -> None: ...

    def frame(self, k: int) -> np.ndarray:
        """Frame `k`, uint8 [H, W, 3]."""
        image, _ = self._scene = self._scene or _scene(self.size)
        pixels = self._crop(image, k).copy()
        window, inside = _tool(self.size, k)
        region = pixels[window]
        region[inside] = (176, 178, 186)
        bits = (k >> np.arange(_BITS)) & 1
        squares = np.repeat(np.where(bits, 255, 0).astype(np.uint8), _SQUARE)
        pixels[:_SQUARE, : len(squares)] = squares[None, :, None]
        return pixels

    def label(self, k: int) -> np.ndarray:
        """Class indices of frame `k`, uint8 [H, W]."""
        _, label = self._scene = self._scene or _scene(self.size)
        out = self._crop(label, k).copy()
        window, inside = _tool(self.size, k)
        out[window][inside] = 2
        return out

    def _crop(self, scene_image: np.ndarray, k: int) -> np.ndarray:
        margin = int(_SWAY * self.size[0])
        top = round(margin * (1 + np.sin(0.05 * k)))
        left = round(margin * (1 + np.cos(0.037 * k)))
        return scene_image[top : top + self.size[0], left : left + self.size[1]]


def frame_number_of(pixels: np.ndarray) -> int:
    """The frame number that is encoded in the pixels."""
    squares = pixels[_SQUARE // 2, _SQUARE // 2 : _BITS * _SQUARE : _SQUARE, 0] > 127
    return int((squares * (1 << np.arange(_BITS))).sum())


def _scene(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Tissue and organ, larger than the frame by the camera movement: uint8 [H', W', 3] and labels uint8 [H', W']."""
    margin = 2 * int(_SWAY * size[0])
    height, width = size[0] + margin, size[1] + margin
    rng = np.random.default_rng(0)
    grain = rng.integers(-40, 40, (height // 12, width // 12, 3)).astype(np.float32).mean(axis=2)
    grain = np.asarray(Image.fromarray(grain).resize((width, height), Image.Resampling.BICUBIC))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    v, u = (y - 0.45 * height) / (0.30 * size[0]), (x - 0.42 * width) / (0.26 * size[1])
    turn = np.arctan2(v, u)
    organ = np.hypot(v, u) < 1 + 0.12 * np.sin(3 * turn) + 0.05 * np.cos(7 * turn)
    tissue, flesh = np.array((168, 104, 88), np.float32), np.array((108, 42, 36), np.float32)
    colour = np.where(organ[..., None], flesh, tissue) * (1 + grain[..., None] / 160)
    light = 1.15 - 0.35 * np.hypot(y / height - 0.5, x / width - 0.5)
    image = np.clip(colour * light[..., None] + rng.normal(0, 3, (height, width, 1)), 0, 255)
    return image.astype(np.uint8), organ.astype(np.uint8)


def _tool(size: tuple[int, int], k: int) -> tuple[tuple[slice, slice], np.ndarray]:
    """The window that contains the instrument, and a bool mask of the instrument in that window."""
    reach, thick = int(0.45 * size[0]), 0.022 * size[0]
    tip_y, tip_x = (0.55 + 0.1 * np.sin(0.11 * k)) * size[0], (0.55 + 0.12 * np.sin(0.07 * k + 1)) * size[1]
    top, left = int(tip_y), int(tip_x)
    window = (slice(top, min(top + reach, size[0])), slice(left, min(left + reach, size[1])))
    y, x = np.ogrid[window[0].start : window[0].stop, window[1].start : window[1].stop]
    across = np.abs((y - tip_y) - (x - tip_x) * 0.8) / 1.28
    return window, across < thick
