"""Metrics of an uncertainty against scikit-learn where it is installed, and against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgemt.metrics.uncertainty import aurc, auroc, brier, error_detection, expected_calibration_error, sample

RNG = np.random.default_rng(3)
WRONG = RNG.random(3000) < 0.2
SCORE = np.round(0.3 * WRONG + RNG.random(3000), 2)  # with many ties


def test_auroc_counts_pairs_and_halves_ties() -> None:
    assert auroc(np.array([1, 0, 0]), np.array([0.5, 0.5, 0.1])) == 0.75
    assert auroc(np.array([1, 0]), np.array([0.0, 1.0])) == 0.0
    pairs = SCORE[WRONG][:, None] - SCORE[~WRONG][None]
    assert auroc(WRONG, SCORE) == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)
    assert math.isnan(auroc(np.zeros(4), np.arange(4.0)))


def test_auroc_and_brier_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    assert auroc(WRONG, SCORE) == pytest.approx(metrics.roc_auc_score(WRONG, SCORE))
    p = SCORE / SCORE.max()
    assert brier(WRONG, p) == pytest.approx(metrics.brier_score_loss(WRONG, p))


def test_calibration_error_is_the_weighted_gap_of_the_bins() -> None:
    wrong, p = np.array([1, 0, 0, 0, 1, 1]), np.array([0.2, 0.2, 0.2, 0.2, 1.0, 1.0])
    assert expected_calibration_error(wrong, p) == pytest.approx(4 / 6 * abs(0.25 - 0.2))
    drawn = np.random.default_rng(0).random(200_000)
    calibrated = np.random.default_rng(1).random(200_000) < drawn
    assert expected_calibration_error(calibrated, drawn) < 0.01
    assert expected_calibration_error(calibrated, drawn**2) == pytest.approx(1 / 6, abs=0.01)  # mean of u - u^2


def test_brier_is_the_mean_squared_error() -> None:
    assert brier(np.array([1, 0]), np.array([0.8, 0.4])) == pytest.approx((0.04 + 0.16) / 2)


def test_aurc_averages_the_risk_of_every_coverage_whatever_the_order_of_ties() -> None:
    wrong, u = np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.2, 0.3])
    assert aurc(wrong, u) == pytest.approx((0 + 0 + 1 / 3 + 2 / 4) / 4)
    assert aurc(wrong, np.ones(4)) == pytest.approx(0.5)
    order = np.random.default_rng(5).permutation(len(WRONG))
    assert aurc(WRONG, SCORE) == pytest.approx(aurc(WRONG[order], SCORE[order]))
    assert aurc(WRONG, WRONG.astype(float)) < aurc(WRONG, SCORE) < WRONG.mean()


def test_the_record_ranks_by_the_second_score_and_the_sample_is_always_the_same() -> None:
    p = np.full(len(WRONG), WRONG.mean())
    assert error_detection(np.zeros(4), np.full(4, 0.1))["auroc"] is None  # JSON has no NaN
    record = error_detection(WRONG, p, SCORE)
    assert record["auroc"] == auroc(WRONG, SCORE) and record["ece"] == pytest.approx(0, abs=1e-9)
    assert record["brier"] == pytest.approx(WRONG.mean() * (1 - WRONG.mean()))
    chosen = sample(90_000, frame=7)
    assert len(np.unique(chosen)) == 10_000 and (chosen == sample(90_000, frame=7)).all()
    assert (chosen != sample(90_000, frame=8)).any() and len(sample(50, frame=0)) == 50


@pytest.mark.parametrize("values", [[0.5, float("nan")], [0.5, 1.5], [0.5]])
def test_what_is_no_probability_of_each_pixel_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="uncertainty: "):
        brier(np.array([1, 0]), np.array(values))
