"""The last 1x1 convolution of a student, and a change of it that is fitted on the device.

    logits = (W + dW) f + b + db,   mask = argmax of the logits, upsampled bilinearly to the size of the frame

W and b are those of the shipped classifier, f are the decoder's last features, the output `features` of the graph.
With dW = 0 and db = 0 the head is the shipped classifier; INT8 graphs round W, so their mask may differ at its edge.

Shapes: C classes, D features, h w size of the feature maps, H W size of the mask.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from deploy.package.package import Package
from edgemt.io.atomic import write_text

HEAD_FILE = "head.json"  # of a package whose graphs have the output `features`
MAX_PARAMETERS = 5000


@dataclass(frozen=True, eq=False)
class ClassifierHead:
    """The shipped classifier with a change: `weight` [C, D], `bias` [C], `change` [C, D + 1] of both, float64.

    Raises ValueError for more than MAX_PARAMETERS numbers, for shapes that do not fit and for numbers that are not
    finite.
    """

    weight: np.ndarray
    bias: np.ndarray
    size: tuple[int, int]  # H W of the mask
    change: np.ndarray

    def __post_init__(self) -> None:
        classes, features = self.weight.shape
        if self.bias.shape != (classes,) or self.change.shape != (classes, features + 1) or classes < 2:
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
        """The same classifier with another change [C, D + 1]."""
        return ClassifierHead(self.weight, self.bias, self.size, change)

    def shipped(self) -> ClassifierHead:
        """The same classifier without a change."""
        return self.changed(np.zeros_like(self.change))

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Features [D, h, w] -> logits float32 [C, h, w]."""
        depth, height, width = features.shape
        if depth != self.weight.shape[1]:
            raise ValueError(f"features: {depth} maps, {HEAD_FILE} has weights for {self.weight.shape[1]}")
        weight, bias = self._float32()
        return (weight @ features.reshape(depth, -1) + bias).reshape(self.classes, height, width)

    def mask(self, features: np.ndarray) -> np.ndarray:
        """Features [D, h, w] -> class indices uint8 [H, W]."""
        logits = self.logits(features)
        if self.classes == 2:  # upsampling is linear: that of the difference alone tells which class is larger
            return (upsampled(logits[1] - logits[0], self.size) > 0).astype(np.uint8)
        best, index = upsampled(logits[0], self.size), np.zeros(self.size, np.uint8)
        for value, one in enumerate(logits[1:], start=1):
            score = upsampled(one, self.size)
            index[score > best] = value
            np.maximum(best, score, out=best)
        return index

    def unsure(self, features: np.ndarray) -> float:
        """Mean over pixels of 1 - max softmax, at the size of the features: 0 for a head that is sure everywhere."""
        logits = self.logits(features)
        return float((1 - 1 / np.exp(logits - logits.max(0)).sum(0)).mean())

    def _float32(self) -> tuple[np.ndarray, np.ndarray]:
        cached = self.__dict__.get("_cached")
        if cached is None:
            weight = (self.weight + self.change[:, :-1]).astype(np.float32)
            cached = weight, (self.bias + self.change[:, -1]).astype(np.float32)[:, None]
            object.__setattr__(self, "_cached", cached)
        return cached


def shipped_head(weight: np.ndarray, bias: np.ndarray, *, size: tuple[int, int]) -> ClassifierHead:
    """The shipped classifier, weight [C, D] and bias [C], without a change."""
    weight, bias = np.asarray(weight, np.float64), np.asarray(bias, np.float64)
    if weight.ndim != 2 or bias.ndim != 1:
        raise ValueError(f"{HEAD_FILE}: weight {weight.shape} and bias {bias.shape} do not fit")
    return ClassifierHead(weight, bias, size, np.zeros((weight.shape[0], weight.shape[1] + 1)))


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
    rows, columns = (_interpolation(full, coarse) for full, coarse in zip(size, plane.shape, strict=True))
    return rows @ plane @ columns.T


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
