"""Features of a frame: brightness, contrast, black and white share, colour, detail, edges, saturation.

They are computed from histograms, for speed, and all of them are in grey levels, so that any of them can be shown to
a user.

Shapes: N frames, H W size in pixels, K channels, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_OCTAVE = 255 / 9  # grey levels for each doubling of detail: steps of grey reach 2 ** 9
_STILL = 1  # steps of grey up to this count as no change


def frame_features(frames: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """uint8 [N, H, W, K] -> [N, D] features, all in grey levels, and their names."""
    return np.stack([_describe(frame) for frame in frames]), _names(frames.shape[-1])


def matching_features(frames: np.ndarray, names: Sequence[str]) -> np.ndarray | None:
    """uint8 [N, H, W, K] -> [N, D], the features called `names`; None where frames of K channels do not have them."""
    features, own = frame_features(frames)
    position = {name: at for at, name in enumerate(own)}
    channels = sum(name.startswith("brightness") for name in names)
    if channels != frames.shape[-1] or not set(names) <= set(own):
        return None
    return features[:, [position[name] for name in names]]


def _describe(frame: np.ndarray) -> np.ndarray:
    """uint8 [H, W, K] -> [D]."""
    planes = [np.ascontiguousarray(frame[..., k]) for k in range(frame.shape[-1])]
    levels = np.arange(256.0)
    histograms = [np.bincount(plane.ravel(), minlength=256) / plane.size for plane in planes]
    means = [float(histogram @ levels) for histogram in histograms]
    stds = [
        float(np.sqrt(np.maximum(histogram @ levels**2 - mean**2, 0)))
        for histogram, mean in zip(histograms, means, strict=True)
    ]
    dark, white = (
        [255 * float(histogram[part].sum()) for histogram in histograms] for part in (slice(8), slice(248, None))
    )
    colour = [means[0] - means[1], means[2] - means[1]] if len(planes) == 3 else []
    total = planes[0].astype(np.uint16)
    for plane in planes[1:]:
        total += plane
    grey = (total // len(planes)).astype(np.int16)
    tones = _quantiles(grey, (0.1, 0.5, 0.9))
    return np.array([*means, *stds, *dark, *white, *colour, *tones, *_texture(grey), *_saturation(planes)])


def _texture(grey: np.ndarray) -> list[float]:
    """int16 [H, W] -> mean step from pixel to pixel, share of still pixels, edges, and how detail grows with scale."""
    if min(grey.shape) < 8:
        return [0.0] * 6
    down, across = np.abs(np.diff(grey, axis=0)), np.abs(np.diff(grey, axis=1))
    detail = (float(down.mean()) + float(across.mean())) / 2
    steps = down[:, :-1] + across[:-1]
    still = 255 * float((steps <= _STILL).mean())
    edges = [_octaves(step) for step in _quantiles(steps, (0.9, 0.99))]
    fine, coarse = float(steps.mean()), _coarse_step(grey)
    return [detail, still, *edges, _octaves(fine), _octaves(coarse) - _octaves(fine)]


def _coarse_step(grey: np.ndarray) -> float:
    """The mean step between neighbouring means of 4 x 4 pixels."""
    rows, columns = (n // 4 * 4 for n in grey.shape)
    part = grey[:rows, :columns]
    down = (part[0::4] + part[1::4] + part[2::4] + part[3::4]).astype(np.int32)
    means = (down[:, 0::4] + down[:, 1::4] + down[:, 2::4] + down[:, 3::4]) / 16
    return float(np.abs(np.diff(means, axis=0)).mean() + np.abs(np.diff(means, axis=1)).mean())


def _saturation(planes: Sequence[np.ndarray]) -> list[float]:
    """Of three planes: mean, median and 90 % quantile of the range of a pixel (largest minus smallest channel)."""
    if len(planes) != 3:
        return []
    red, green, blue = planes
    channel_range = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return [float(channel_range.mean()), *_quantiles(channel_range, (0.5, 0.9))]


def _quantiles(values: np.ndarray, shares: Sequence[float]) -> list[float]:
    """Quantiles of small non-negative integers, from their histogram."""
    below = np.cumsum(np.bincount(values.ravel())) / values.size
    return [float(at) for at in np.searchsorted(below, shares)]


def _octaves(steps: float) -> float:
    """0 to 510 grey levels on a logarithmic scale of 0 to 255."""
    return float(_OCTAVE * np.log2(1 + steps))


def _names(channels: int) -> tuple[str, ...]:
    what = "slice" if channels == 5 else "channel"
    letters: Sequence[str] = ("",) if channels == 1 else [f" of {what} {k + 1}" for k in range(channels)]
    kinds = ("brightness", "contrast", "black share", "white share")
    three = channels == 3
    return (
        *(f"{kind}{letter}" for kind in kinds for letter in letters),
        *(("channel 1 over 2", "channel 3 over 2") if three else ()),
        *("dark level", "middle level", "bright level"),
        *("detail", "still share", "edges", "hard edges", "fine detail", "coarse over fine detail"),
        *(("saturation", "middle saturation", "strong saturation") if three else ()),
    )
