"""Contours with a guarantee: margins from split-conformal calibration. numpy alone, no torch.

For a prediction M, a truth Y of one class and a tolerated share t, with exact Euclidean distances d:

    outer score   s = min { r >= 0 : |Y without D_r| <= t |Y| },   D_r = {p : d(p, M) <= r}           (dilation)
    inner score   s = min { r >= 0 : |I_r without Y| <= t |M| },   I_r = {p in M : d(p, not M) > r}   (erosion)
    margin        q = the ceil((n + 1)(1 - alpha))-th smallest of n scores

Guarantee: if the patients calibrated on and a new patient are exchangeable (drawn in the same way, none of them used
for training, for choosing the model or for choosing alpha), then P(s_new <= q) >= 1 - alpha: in a new patient the outer
line leaves out at most t of the true area with probability 1 - alpha, and so does the inner line hold at most t |M| of
false area. It is marginal: over the draw of both the calibration patients and the new one, not for each patient, nor
for a subgroup. Both lines hold together with probability 1 - 2 alpha at least; alpha 0.05 gives 0.9 for the pair.
Without ties the coverage that one calibration list gives is Beta(k, n + 1 - k) distributed, k = ceil((n+1)(1-alpha)).

Outer margin: Mossina, Friedrich, "Conformal Prediction for Image Segmentation Using Morphological Prediction Sets",
MICCAI 2025, arXiv 2503.05618; t = 1 - their coverage ratio. Inner margin: the same, "Controlling False Positives in
Image Segmentation via Conformal Prediction", arXiv 2511.15406, its variant by erosion. They count steps of a
structuring element; here r is the radius of a disc, or of a ball in a volume. The false area is counted as a share of
the prediction and not of what is left of it, so that the share falls with r and the score is well defined.

Classes are calibrated one by one, so it makes no difference whether they overlap: the claim is one of each class, not
of all classes together.

One score a patient: the worst (largest) of its images, so that images of one patient, which resemble each other, count
as one draw. Then with probability 1 - alpha all images of a new patient are covered, and so is any one of them.

Empty masks: a truth that is missed altogether has an infinite outer score; an infinite quantile is no margin and the
line is not drawn. An empty truth is covered by anything (outer score 0), and a prediction in its place has to be eroded
away (inner score: its largest depth). Both empty: 0 and 0.

Shapes: *space 2 or 3 axes, n patients, C classes without the background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgemt.contract import IGNORE
from edgemt.io.class_regions import in_class
from edgemt.io.contour_bands import SLACK
from edgemt.io.distances import distance_to


def required_patients(alpha: float) -> int:
    """The fewest patients for which the margin at `alpha` is one of the scores: ceil(1 / alpha) - 1.

    Raises ValueError unless 0 < alpha < 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: must lie between 0 and 1, is {alpha}; 0.1 means 90 of 100 patients")
    return math.ceil(1 / alpha - 1e-9) - 1


def quantile_rank(n: int, alpha: float) -> int:
    """Which of n sorted scores is the margin: ceil((n + 1)(1 - alpha)).

    Raises ValueError, naming how many patients are needed, where that exceeds n.
    """
    needed = required_patients(alpha)
    if n < needed:
        raise ValueError(
            f"contours: no claim at alpha {alpha:g}: it needs {needed} calibration patients, {n} are there; add "
            f"patients or take a larger alpha ({1 / (n + 1):.2g} or more)"
        )
    return math.ceil((n + 1) * (1 - alpha) - 1e-9)


def conformal_quantile(scores: np.ndarray, alpha: float) -> float:
    """The margin of scores [n]; infinite where too many of them are. Raises ValueError as `quantile_rank` does."""
    return float(np.sort(np.asarray(scores, float))[quantile_rank(len(scores), alpha) - 1])


def outer_score(outside: np.ndarray, truth: np.ndarray, *, tolerance: float = 0.0) -> float:
    """Smallest dilation of the prediction that covers the truth but for a share `tolerance` of it.

    `outside` [*space]: distance of each voxel to the prediction (`distance_to`), `truth` bool [*space].
    """
    missed = np.sort(outside[truth])[::-1]
    return float(missed[int(tolerance * missed.size)]) if missed.size else 0.0


def inner_score(depth: np.ndarray, truth: np.ndarray, *, tolerance: float = 0.0) -> float:
    """Smallest erosion after which at most `tolerance` of the prediction's area is false area that is left.

    `depth` [*space]: distance of each voxel to the nearest one outside the prediction; 0 outside it.
    """
    predicted = depth > 0
    false = np.sort(depth[predicted & ~truth])[::-1]
    allowed = int(tolerance * np.count_nonzero(predicted))
    return float(false[allowed]) if false.size > allowed else 0.0


def case_scores(
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    classes: int,
    tolerance: float = 0.0,
    spacing: Sequence[float] | None = None,
    overlapping: bool = False,
) -> np.ndarray:
    """Outer and inner score of each class of one case: float [C, 2].

    Both masks hold class indices, or bits of `overlapping` classes, each of which is scored by itself. `prediction` may
    be smaller than a 2-D `truth`: distances are then in pixels of the prediction, and truth is covered where the
    enlarged region covers it. Pixels that are `IGNORE` in the truth are neither missed nor false. `spacing`: length of
    a voxel an axis.
    """
    scores = np.zeros((classes - 1, 2))
    for value in range(1, classes):
        predicted, true = (in_class(mask, value, overlapping=overlapping) for mask in (prediction, truth))
        if predicted.any() or true.any():
            outside, depth = (
                _enlarged(distance_to(region, spacing=spacing), truth.shape) for region in (predicted, ~predicted)
            )
            scores[value - 1] = (
                outer_score(outside, true, tolerance=tolerance),
                inner_score(depth, true | (truth == IGNORE), tolerance=tolerance),
            )
    return scores


def _enlarged(distances: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[h, w] -> [H, W] by nearest neighbour, the same pixels as `edgemt.io.images.fit_label` takes."""
    if distances.shape == shape:
        return distances
    rows, columns = (
        np.floor((np.arange(length) + 0.5) * (own / length)).astype(int).clip(0, own - 1)
        for length, own in zip(shape, distances.shape, strict=True)
    )
    return np.asarray(distances[rows[:, None], columns[None]])


def worst_of_patient(scores: np.ndarray, patients: Sequence[str]) -> np.ndarray:
    """Scores of cases [N, ...] -> of patients [n, ...], the largest of each, in the order of first appearance."""
    names = list(dict.fromkeys(patients))
    rows = {name: [i for i, patient in enumerate(patients) if patient == name] for name in names}
    return np.stack([scores[rows[name]].max(axis=0) for name in names])


def fit_margins(scores: np.ndarray, *, alpha: float) -> np.ndarray:
    """Margins [C, 2] of the scores of patients [n, C, 2], rounded up to 0.0001; infinite where no line can be drawn.

    Raises ValueError where there are too few patients.
    """
    flat = scores.reshape(len(scores), -1)
    found = np.array([conformal_quantile(column, alpha) for column in flat.T]).reshape(scores.shape[1:])
    return np.asarray(np.ceil(found * 1e4 - 1e-6) / 1e4) + 0.0  # no negative zero


def covered(scores: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """Bool, the shape of `scores` [n, C, 2]: whether the line with the margins [C, 2] holds what it claims.

    An infinite margin is no claim: False.
    """
    return np.asarray((scores <= margins + SLACK) & np.isfinite(margins))


def random_split_coverage(
    scores: np.ndarray, *, alpha: float, calibration: int, splits: int = 200, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and margin of `splits` random splits of scores [n] into `calibration` and the rest: two arrays [splits].

    For exchangeable scores without ties the number of covered ones of m is beta-binomial(m, k, calibration + 1 - k).
    """
    draw = np.random.default_rng(seed)
    coverage, margins = np.empty(splits), np.empty(splits)
    for index in range(splits):
        order = draw.permutation(len(scores))
        margins[index] = conformal_quantile(scores[order[:calibration]], alpha)
        coverage[index] = float((scores[order[calibration:]] <= margins[index]).mean())
    return coverage, margins
