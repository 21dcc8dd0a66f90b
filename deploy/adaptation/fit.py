"""Fit of the change of a head to confirmed masks: convex, so that equal corrections give equal heads, in numpy.

    minimise over V   sum_i a_i CE(y_i, softmax(z_i + V x_i)) + pull / 2 * trace(V R V^T)

x_i are the inputs of a pixel (`ClassifierHead.inputs`), less their mean and divided by their deviation, and a 1 for the
bias, z_i the logits of the shipped head, y_i the share of each class in the pixel. Every corrected frame has the total
weight 1 / n; the golden frames have `replay` together, with the masks of the shipped model, so that a change that is
not needed there costs. R = (I + S) / 2, with the second moments S of x: half of the pull is on the weights, half on the
mean squared change of the logits, so that what these frames show in many inputs at once is not free. The pull towards
the shipped head, V = 0, is the proximal term of FedProx (Li et al. 2020, arXiv 1812.06127) on one device.

The softmax has a curvature of at most 1/2, so one fixed bound of the Hessian serves all steps (Boehning 1992, Ann.
Inst. Statist. Math. 44), accelerated as Nesterov does it.

Shapes: C classes, D features, M D inputs, h w size of the feature maps, H W size of the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploy.adaptation.head import ClassifierHead, label_shares
from deploy.adaptation.limits import FitOptions

_MAX_PIXELS = 3072  # of all frames together: more do not change a head of a few hundred numbers
Pixels = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Example:
    """A frame with the mask that it should have."""

    features: np.ndarray  # float32 [D, h, w]
    mask: np.ndarray  # uint8 [H, W]

    def pixels(self, shipped: ClassifierHead) -> Pixels:
        """Inputs [M D, n], shares of the classes [C, n] and shipped logits [C, n] of pixels in a random order.

        The order is the same each time. They are computed once for a shipped classifier, as fits without one of the
        corrections need them again and again.
        """
        cached = self.__dict__.get("_pixels")
        if cached is None or cached[0] is not shipped.weight:
            size = self.features.shape[1:]
            order = np.random.default_rng(0).permutation(size[0] * size[1])[:_MAX_PIXELS]
            x = shipped.inputs(self.features).reshape(-1, size[0] * size[1])[:, order]
            y = label_shares(self.mask, size, classes=shipped.classes).reshape(shipped.classes, -1)[:, order]
            z = shipped.weight @ x[: len(self.features)] + shipped.bias[:, None]
            cached = shipped.weight, (x, y.astype(np.float32), z.astype(np.float32))
            object.__setattr__(self, "_pixels", cached)
        return cached[1]


def fit_head(
    shipped: ClassifierHead, corrections: Sequence[Example], *, golden: Sequence[Example] = (),
    options: FitOptions = FitOptions(),  # noqa: B008
) -> ClassifierHead:  # fmt: skip
    """The shipped head with the change that fits the corrections. Raises ValueError without corrections."""
    if not corrections:
        raise ValueError("adapt: no correction to fit to; confirm a mask first")
    golden = golden if options.replay > 0 else ()
    at_most = _MAX_PIXELS // (len(corrections) + len(golden))
    rows = [[part[:, :at_most] for part in one.pixels(shipped)] for one in (*corrections, *golden)]
    weights = [1 / len(corrections)] * len(corrections) + [options.replay / max(len(golden), 1)] * len(golden)
    x, y, z = (np.concatenate([row[part] for row in rows], axis=1) for part in range(3))
    weight = np.concatenate(
        [np.full(row[0].shape[1], w / row[0].shape[1], np.float32) for w, row in zip(weights, rows, strict=True)]
    )
    x, mean, scale = _standard(x, weight)
    weighted = x * weight
    moments = weighted @ x.T
    pull = options.pull / 2 * (np.eye(len(x)) + moments / weight.sum())
    bound = np.linalg.inv(0.5 * moments + pull).astype(np.float32)
    pull = pull.astype(np.float32)
    change = before = np.zeros((shipped.classes, len(x)), np.float32)
    for step in range(options.steps):
        ahead = change + np.float32(step / (step + 3)) * (change - before)
        gradient = (_softmax(z + ahead @ x) - y) @ weighted.T + ahead @ pull
        before, change = change, ahead - gradient @ bound
    weights_of = change[:, :-1].astype(np.float64) / scale
    return shipped.changed(np.column_stack([weights_of, change[:, -1] - weights_of @ mean]))


def _standard(x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs [M D, n] less their mean and divided by their deviation, and a 1: [M D + 1, n]; mean; deviation."""
    part = weight / weight.sum()
    mean = x @ part
    x = x - mean[:, None]
    scale = np.sqrt((x**2) @ part)
    scale = np.maximum(scale, 1e-3 * max(float(scale.max()), 1e-6))  # a dead feature stays where it is
    return np.concatenate([x / scale[:, None], np.ones((1, x.shape[1]), np.float32)]), mean, scale


def _softmax(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits - logits.max(0))
    return np.asarray(grown / grown.sum(0))
