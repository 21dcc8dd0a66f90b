"""Fit of the change of a head to confirmed masks: convex, so that equal corrections give equal heads, in numpy.

    minimise over V   sum_i a_i CE(y_i, softmax(z_i + V x_i)) + pull / 2 * |V S|^2

x_i are the features of a pixel and a 1 for the bias, z_i the logits of the shipped head, y_i the share of each class in
the pixel, S the root mean square of each feature. Every corrected frame has the total weight 1 / n; the golden frames
have `replay` together, with the masks of the shipped model, so that a change that is not needed there costs. The pull
towards the shipped head, V = 0, is the proximal term of FedProx (Li et al. 2020, arXiv 1812.06127) on one device.

The softmax has a curvature of at most 1/2, so one fixed bound of the Hessian serves all steps (Boehning 1992, Ann.
Inst. Statist. Math. 44), accelerated as Nesterov does it.

Shapes: C classes, D features, h w size of the feature maps, H W size of the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploy.adaptation.head import ClassifierHead, label_shares
from deploy.adaptation.limits import FitOptions

_MAX_PIXELS = 4096  # of all frames together: more do not change a head of a few hundred numbers


@dataclass(frozen=True, eq=False)
class Example:
    """A frame with the mask that it should have."""

    features: np.ndarray  # float32 [D, h, w]
    mask: np.ndarray  # uint8 [H, W]


def fit_head(
    shipped: ClassifierHead, corrections: Sequence[Example], *, golden: Sequence[Example] = (),
    options: FitOptions = FitOptions(),  # noqa: B008
) -> ClassifierHead:  # fmt: skip
    """The shipped head with the change that fits the corrections. Raises ValueError without corrections."""
    if not corrections:
        raise ValueError("adapt: no correction to fit to; confirm a mask first")
    golden = golden if options.replay > 0 else ()
    rows = [_pixels(shipped, example, at_most=_MAX_PIXELS // (len(corrections) + len(golden))) for example in
            (*corrections, *golden)]  # fmt: skip
    weights = [1 / len(corrections)] * len(corrections) + [options.replay / max(len(golden), 1)] * len(golden)
    x, y, z = (np.concatenate([row[part] for row in rows], axis=1) for part in range(3))
    weight = np.concatenate(
        [np.full(row[0].shape[1], w / row[0].shape[1]) for w, row in zip(weights, rows, strict=True)]
    )
    scale = np.sqrt((x**2 * weight).sum(1) / weight.sum())
    scale = np.maximum(scale, 1e-3 * max(float(scale.max()), 1e-6))  # a dead feature stays where it is
    x = x / scale[:, None]
    weighted = x * weight
    bound = np.linalg.inv(0.5 * weighted @ x.T + options.pull * np.eye(len(x)))
    change = before = np.zeros((shipped.classes, len(x)))
    for step in range(options.steps):
        ahead = change + step / (step + 3) * (change - before)
        gradient = (_softmax(z + ahead @ x) - y) @ weighted.T + options.pull * ahead
        before, change = change, ahead - gradient @ bound
    return shipped.changed(change / scale)


def _pixels(shipped: ClassifierHead, example: Example, *, at_most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features and 1 [D + 1, n], shares [C, n] and shipped logits [C, n] of evenly drawn pixels; the same each time."""
    depth, height, width = example.features.shape
    x = np.concatenate([example.features.reshape(depth, -1), np.ones((1, height * width))]).astype(np.float64)
    y = label_shares(example.mask, (height, width), classes=shipped.classes).reshape(shipped.classes, -1)
    if x.shape[1] > at_most:
        chosen = np.sort(np.random.default_rng(0).choice(x.shape[1], at_most, replace=False))
        x, y = x[:, chosen], y[:, chosen]
    return x, y, np.concatenate([shipped.weight, shipped.bias[:, None]], axis=1) @ x


def _softmax(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits - logits.max(0))
    return np.asarray(grown / grown.sum(0))
