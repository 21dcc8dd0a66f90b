"""Metrics of an uncertainty: how well it finds wrong pixels, and how far it is a probability. No torch.

Shapes: n pixels. `wrong` is boolean [n]; `uncertainty` is any score, larger where less sure; `probability` is that of
being wrong, 0 to 1.
"""

from __future__ import annotations

import math

import numpy as np

BINS = 15
PIXELS_A_FRAME = 10_000  # that `sample` takes at most


def auroc(wrong: np.ndarray, uncertainty: np.ndarray) -> float:
    """P(u_i > u_j) + P(u_i = u_j) / 2 for a wrong pixel i and a right pixel j: area under the ROC curve, 0.5 is chance.

    By ranks (Mann and Whitney, 1947; Hanley and McNeil, 1982); ties share their mean rank. NaN where all or no pixels
    are wrong.
    """
    wrong, uncertainty = _checked(wrong, uncertainty)
    _, inverse, counts = np.unique(uncertainty, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]  # mean rank of equal values, from 1
    positive = int(wrong.sum())
    negative = len(wrong) - positive
    if not positive or not negative:
        return math.nan
    return float((ranks[wrong].sum() - positive * (positive + 1) / 2) / (positive * negative))


def expected_calibration_error(wrong: np.ndarray, probability: np.ndarray, *, bins: int = BINS) -> float:
    """sum_b n_b / n |mean of wrong in b - mean of probability in b|, over `bins` bins of equal width. 0 is calibrated.

    Naeini et al., AAAI 2015; Guo et al., ICML 2017. Raises ValueError for values outside [0, 1].
    """
    wrong, probability = _checked(wrong, probability, unit_interval=True)
    index = np.minimum((probability * bins).astype(np.int64), bins - 1)
    gap = np.bincount(index, wrong, bins) - np.bincount(index, probability, bins)
    return float(np.abs(gap).sum() / len(wrong))


def brier(wrong: np.ndarray, probability: np.ndarray) -> float:
    """Mean (probability - wrong)^2, 0 is perfect. Brier, 1950. Raises ValueError for values outside [0, 1]."""
    wrong, probability = _checked(wrong, probability, unit_interval=True)
    return float(np.mean((probability - wrong) ** 2))


def aurc(wrong: np.ndarray, uncertainty: np.ndarray) -> float:
    """1/n sum_i r_i, r_i the share of wrong pixels among the i least uncertain ones: area under risk over coverage.

    Geifman et al., ICLR 2019 (arXiv 1805.08206). Among equal uncertainties the order is open: each counts with the mean
    risk of its group, so that the result does not depend on the order of the pixels.
    """
    wrong, uncertainty = _checked(wrong, uncertainty)
    _, inverse, counts = np.unique(uncertainty, return_inverse=True, return_counts=True)
    errors = np.bincount(inverse, wrong)
    expected = np.repeat(errors / counts, counts)
    return float(np.mean(np.cumsum(expected) / np.arange(1, len(wrong) + 1)))


def error_detection(
    wrong: np.ndarray, probability: np.ndarray, uncertainty: np.ndarray | None = None
) -> dict[str, float | None]:
    """All four metrics, the share of wrong pixels and the mean probability; `uncertainty` is ranked, if given.

    The AUROC is None where all or no pixels are wrong.
    """
    ranked = probability if uncertainty is None else uncertainty
    area = auroc(wrong, ranked)
    return {
        "auroc": None if math.isnan(area) else area,
        "ece": expected_calibration_error(wrong, probability),
        "brier": brier(wrong, probability),
        "aurc": aurc(wrong, ranked),
        "wrong": float(np.mean(wrong)),
        "mean_probability": float(np.mean(probability)),
        "pixels": int(np.size(wrong)),
    }


def sample(size: int, *, frame: int, limit: int = PIXELS_A_FRAME) -> np.ndarray:
    """int64: `limit` of `size` pixels of frame number `frame`, always the same ones; all where there are fewer."""
    if size <= limit:
        return np.arange(size)
    return np.sort(np.random.default_rng(frame).choice(size, limit, replace=False))


def _checked(wrong: np.ndarray, values: np.ndarray, *, unit_interval: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Both flat, the second in float64."""
    wrong, values = np.asarray(wrong).reshape(-1).astype(bool), np.asarray(values, np.float64).reshape(-1)
    if wrong.shape != values.shape or not len(wrong):
        raise ValueError(
            f"uncertainty: {len(values)} values for {len(wrong)} pixels; give one a pixel, and at least one"
        )
    if not np.isfinite(values).all():
        raise ValueError("uncertainty: holds NaN or infinite values; check the network that predicts it")
    if unit_interval and (values.min() < 0 or values.max() > 1):
        raise ValueError(
            f"uncertainty: {values.min():g} to {values.max():g} is no probability; give values from 0 to 1"
        )
    return wrong, values
