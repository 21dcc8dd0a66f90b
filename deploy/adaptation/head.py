"""The last 1x1 convolution of a student, and a change of it that is fitted on the device.

    logits = W f + b + V [f, mean of f over surrounding 1, 2, 3] + v,   mask = argmax of the upsampled logits

W and b are those of the shipped classifier, f are the decoder's last features, the output `features` of the graph. The
change V, v also has the means of the features over three squares around a pixel: they tell where in the scene a pixel
is, which the features of one pixel do not. With V = 0 and v = 0 the head is the shipped classifier; INT8 graphs round
W, so their mask may differ at its edge.

Only differences to the logit of class 0 are computed, and means are taken of them and not of the features, which is the
same as both are linear.

Shapes: C classes, D features, M 1 + number of surroundings, h w size of the feature maps, H W size of the mask.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deploy.package.package import Package
from edgemt.io.atomic import write_text
from edgemt.io.opencv import require_opencv

HEAD_FILE = "head.json"  # of a package whose graphs have the output `features`
MAX_PARAMETERS = 5000
SURROUNDINGS = (1 / 16, 3 / 16, 3 / 8)  # sides of the squares, as parts of the shorter side of the feature maps


class Scores(NamedTuple):
    """Logits of the classes from 1 on, less that of class 0, float32 [C - 1, h, w]."""

    shipped: np.ndarray
    changed: np.ndarray


@dataclass(frozen=True, eq=False)
class ClassifierHead:
    """The shipped classifier with a change: `weight` [C, D], `bias` [C], `change` [C, M D + 1] of both, float64.

    Raises ValueError for more than MAX_PARAMETERS numbers, for shapes that do not fit and for numbers that are not
    finite.
    """

    weight: np.ndarray
    bias: np.ndarray
    size: tuple[int, int]  # H W of the mask
    change: np.ndarray

    def __post_init__(self) -> None:
        classes, features = self.weight.shape
        widths = [scales * features + 1 for scales in range(1, len(SURROUNDINGS) + 2)]
        fits = self.bias.shape == (classes,) and self.change.shape in [(classes, width) for width in widths]
        if not fits or classes < 2:
            raise ValueError(f"{HEAD_FILE}: weight {self.weight.shape} and bias {self.bias.shape} do not fit")
        if self.change.size > MAX_PARAMETERS:
            raise ValueError(
                f"{HEAD_FILE}: {self.change.size} parameters, at most {MAX_PARAMETERS} are adapted; "
                "take a student with a narrower decoder"
            )
        if not all(np.isfinite(values).all() for values in (self.weight, self.bias, self.change)):
            raise ValueError(f"{HEAD_FILE}: has numbers that are not finite; export the features again")

    @property
    def classes(self) -> int:
        return len(self.bias)

    @property
    def parameters(self) -> int:
        """How many numbers a fit may change."""
        return int(self.change.size)

    def changed(self, change: np.ndarray) -> ClassifierHead:
        """The same classifier with another change [C, M D + 1]."""
        return ClassifierHead(self.weight, self.bias, self.size, change)

    def shipped(self) -> ClassifierHead:
        """The same classifier without a change."""
        return self.changed(np.zeros_like(self.change))

    def inputs(self, features: np.ndarray) -> np.ndarray:
        """Features [D, h, w] -> what the change is multiplied by, less the 1 of the bias: float32 [M D, h, w]."""
        self._check(features)
        planes = [np.ascontiguousarray(plane, np.float32) for plane in features]
        sides = self._sides(features)
        return np.stack(planes + [_mean(plane, side) for side in sides for plane in planes])

    def scores(self, features: np.ndarray) -> Scores:
        """Features [D, h, w] -> the logits without and with the change, against class 0."""
        self._check(features)
        depth, height, width = features.shape
        weight, bias = self._float32()
        rows = (weight @ features.reshape(depth, -1)).reshape(-1, self.classes - 1, height, width)
        rows[:2] += bias
        for part, side in zip(rows[2:], self._sides(features), strict=True):
            for total, plane in zip(rows[1], part, strict=True):
                total += _mean(plane, side)
        return Scores(rows[0], rows[1])

    def mask(self, features: np.ndarray) -> np.ndarray:
        """Features [D, h, w] -> class indices uint8 [H, W]."""
        return self.classified(self.scores(features).changed)

    def classified(self, scores: np.ndarray) -> np.ndarray:
        """Logits against class 0 [C - 1, h, w] -> class indices uint8 [H, W] of the upsampled ones."""
        best = upsampled(scores[0], self.size)
        index = (best > 0).view(np.uint8)
        for value, plane in enumerate(scores[1:], start=2):
            best = np.maximum(best, 0, out=best) if value == 2 else best
            score = upsampled(plane, self.size)
            np.copyto(index, value, where=score > best)
            np.maximum(best, score, out=best)
        return index

    def _check(self, features: np.ndarray) -> None:
        if len(features) != self.weight.shape[1]:
            raise ValueError(f"features: {len(features)} maps, {HEAD_FILE} has weights for {self.weight.shape[1]}")

    def _sides(self, features: np.ndarray) -> list[int]:
        """Sides of the squares in pixels of the features, odd."""
        surroundings = SURROUNDINGS[: self.change.shape[1] // self.weight.shape[1] - 1]
        return [max(3, 2 * (round(part * min(features.shape[1:])) // 2) + 1) for part in surroundings]

    def _float32(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows [(M + 1) (C - 1), D] against class 0: shipped, changed, and those of means; bias [2, C - 1, 1, 1]."""
        cached = self.__dict__.get("_cached")
        if cached is None:
            depth = self.weight.shape[1]
            parts = [self.change[:, start : start + depth] for start in range(0, self.change.shape[1] - 1, depth)]
            rows = [self.weight, self.weight + parts[0], *parts[1:]]
            weight = np.concatenate([row[1:] - row[0] for row in rows]).astype(np.float32)
            bias = np.stack([row[1:] - row[0] for row in (self.bias, self.bias + self.change[:, -1])])
            cached = weight, bias.astype(np.float32)[:, :, None, None]
            object.__setattr__(self, "_cached", cached)
        return cached


def unsure(scores: np.ndarray) -> float:
    """Mean of 1 - max softmax over a grid of pixels: 0 for a head that is sure everywhere.

    `scores` are logits against class 0, [C - 1, h, w].
    """
    some = on_grid(scores)
    top = np.maximum(some.max(0), 0)
    total = np.exp(-top) + np.exp(some - top).sum(0)
    return float((1 - 1 / total).mean())


def on_grid(maps: np.ndarray) -> np.ndarray:
    """Every so-many-th row and column of [..., h, w], at least 16 of each where there are as many: for means."""
    step = max(1, min(maps.shape[-2:]) // 16)
    return maps[..., ::step, ::step]


def shipped_head(weight: np.ndarray, bias: np.ndarray, *, size: tuple[int, int]) -> ClassifierHead:
    """The shipped classifier, weight [C, D] and bias [C], without a change.

    A wide one has fewer surroundings, so that at most MAX_PARAMETERS numbers are changed.
    """
    weight, bias = np.asarray(weight, np.float64), np.asarray(bias, np.float64)
    if weight.ndim != 2 or bias.ndim != 1:
        raise ValueError(f"{HEAD_FILE}: weight {weight.shape} and bias {bias.shape} do not fit")
    classes, features = weight.shape
    fitting = [n for n in range(len(SURROUNDINGS) + 1, 0, -1) if classes * (n * features + 1) <= MAX_PARAMETERS]
    scales = fitting[0] if fitting else 1
    return ClassifierHead(weight, bias, size, np.zeros((classes, scales * features + 1)))


def write_head(folder: str | Path, *, weight: np.ndarray, bias: np.ndarray) -> None:
    """Write the classifier of the exported network into a package before `finalize`."""
    data = {"format": 1, "weight": weight.astype(float).tolist(), "bias": bias.astype(float).tolist()}
    write_text(Path(folder) / HEAD_FILE, json.dumps(data) + "\n")


def has_head(package: Package) -> bool:
    """Whether the graphs of a package have the output `features` and the package the classifier after it."""
    return HEAD_FILE in package.card.files


def read_head(package: Package) -> ClassifierHead:
    """The shipped classifier of a package. Raises ValueError, in one line, for a package without it."""
    if not has_head(package):
        raise ValueError(
            f"{package.folder}: its graphs have no output for the features; add it with "
            f"edgemt export {package.folder} --with-features"
        )
    try:
        data: dict[str, Any] = json.loads(package.read(HEAD_FILE))
        head = shipped_head(np.array(data["weight"], float), np.array(data["bias"], float), size=package.card.size)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{package.folder / HEAD_FILE}: not a classifier ({error}); export it again") from None
    if head.classes != len(package.card.classes):
        raise ValueError(f"{package.folder / HEAD_FILE}: has {head.classes} classes, the card others; export it again")
    return head


def upsampled(plane: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """[h, w] -> [H, W], bilinear with pixel centres at halves and edges repeated, as the exported graph does it."""
    cv2 = require_opencv("adapt")
    return np.asarray(cv2.resize(plane, (size[1], size[0]), interpolation=cv2.INTER_LINEAR))


def _mean(plane: np.ndarray, side: int) -> np.ndarray:
    """Mean over the square around each pixel of [h, w], edges repeated."""
    cv2 = require_opencv("adapt")
    return np.asarray(cv2.blur(plane, (side, side), borderType=cv2.BORDER_REPLICATE))


def label_shares(mask: np.ndarray, size: Sequence[int], *, classes: int) -> np.ndarray:
    """Mask uint8 [H, W] -> share of each class in each pixel of the features' size, float64 [C, h, w], sum 1."""
    rows, columns = (
        (weights / weights.sum(0)).T
        for weights in (_interpolation(full, coarse) for full, coarse in zip(mask.shape, size, strict=True))
    )
    shares = np.stack([rows @ (mask == value) @ columns.T for value in range(classes)]).astype(np.float64)
    return shares / shares.sum(0)


@lru_cache(maxsize=16)
def _interpolation(full: int, coarse: int) -> np.ndarray:
    """Weights float32 [full, coarse] of bilinear interpolation along one axis."""
    place = np.clip((np.arange(full) + 0.5) * coarse / full - 0.5, 0, coarse - 1)
    first = np.clip(place.astype(int), 0, max(coarse - 2, 0))
    weights = np.zeros((full, coarse), np.float32)
    part = (place - first).astype(np.float32)
    weights[np.arange(full), first] = 1 - part
    weights[np.arange(full), np.minimum(first + 1, coarse - 1)] += part
    return weights
