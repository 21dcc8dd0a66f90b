"""Margins with a guarantee: exact on discs, covered as often as the theory states, refused where it states nothing."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from edgemt.contour_margins import ContourMargins, graph_digest, margins_of
from edgemt.io import distances
from edgemt.io.contour_bands import bands, dilated, eroded
from edgemt.io.distances import by_axes, distance_to
from edgemt.io.images import fit_label
from edgemt.metrics import conformal
from edgemt.model_card import ModelCard

MARGINS = ContourMargins(0.1, 0.0, "px", {"organ": 4.0, "tool": 2.5}, {"organ": 3.0, "tool": None}, 50, 50, "list")


def disc(radius: float, *, size: int = 96, centre: tuple[float, float] = (48, 48)) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return np.asarray((y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2)


def scores_of(prediction: np.ndarray, truth: np.ndarray, tolerance: float = 0.0) -> tuple[float, float]:
    found = conformal.case_scores(prediction.astype(int), truth.astype(int), classes=2, tolerance=tolerance)
    return float(found[0, 0]), float(found[0, 1])


def test_scores_of_discs_are_the_difference_of_their_radii() -> None:
    outer, inner = scores_of(disc(20), disc(27))
    every = [math.dist(p, q) for p in np.argwhere(disc(27) & ~disc(26)) for q in np.argwhere(disc(20) & ~disc(19))]
    per_pixel = np.array(every).reshape((disc(27) & ~disc(26)).sum(), -1).min(1)
    assert outer == pytest.approx(per_pixel.max(), abs=1e-4)
    assert outer == pytest.approx(7, abs=0.75)
    assert inner == 0
    outer, inner = scores_of(disc(27), disc(20))
    assert outer == 0
    assert inner == pytest.approx(7, abs=1.0)  # depth is measured to the first pixel outside the larger disc


def test_a_score_is_the_smallest_margin_that_holds() -> None:
    draw = np.random.default_rng(3)
    for _ in range(10):
        a, b = (disc(draw.uniform(8, 20), centre=tuple(draw.uniform(36, 60, 2))) for _ in range(2))
        outer, inner = scores_of(a, b)
        assert not (b & ~dilated(a, outer)).any()
        assert not (eroded(a, inner) & ~b).any()
        if outer:
            assert (b & ~dilated(a, outer - 0.01)).any()
        if inner:
            assert (eroded(a, inner - 0.01) & ~b).any()


def test_a_tolerance_leaves_out_that_share_and_no_more() -> None:
    a, b = disc(20), disc(30, centre=(48, 52))
    outer, inner = scores_of(a, b, 0.05)
    assert (b & ~dilated(a, outer)).sum() <= 0.05 * b.sum() < (b & ~dilated(a, outer - 0.01)).sum()
    assert inner == 0
    _, inner = scores_of(b, a, 0.05)
    assert (eroded(b, inner) & ~a).sum() <= 0.05 * b.sum() < (eroded(b, inner - 0.01) & ~a).sum()


def test_empty_masks() -> None:
    nothing, organ = np.zeros((96, 96), bool), disc(10)
    assert scores_of(nothing, nothing) == (0, 0)
    assert scores_of(nothing, organ) == (math.inf, 0)
    outer, inner = scores_of(organ, nothing)
    assert outer == 0
    assert not eroded(organ, inner).any()
    assert scores_of(np.ones((96, 96), bool), organ)[1] == math.inf  # no background to erode from


def test_a_small_mask_is_scored_at_the_size_of_its_truth() -> None:
    small, truth = disc(12, size=48, centre=(24, 24)), disc(30)[:90]
    outer, _ = scores_of(small, truth)
    assert not (truth & (fit_label(dilated(small, outer), size=truth.shape) == 0)).any()
    assert (truth & (fit_label(dilated(small, outer - 0.01), size=truth.shape) == 0)).any()


def test_distances_are_the_same_with_every_library(monkeypatch: pytest.MonkeyPatch) -> None:
    region = disc(9, size=40, centre=(17, 22)) | disc(3, size=40, centre=(35, 4))
    by_numpy = by_axes(region, spacing=(1.0, 1.0))
    assert np.allclose(distance_to(region), by_numpy, atol=1e-4)
    monkeypatch.setattr(distances, "find_opencv", lambda: None)
    assert np.allclose(distance_to(region), by_numpy)
    volume = np.stack([region, region & False, disc(5, size=40, centre=(20, 20))])
    assert np.allclose(distance_to(volume, spacing=(8.0, 1.5, 1.5)), by_axes(volume, spacing=(8.0, 1.5, 1.5)))


def test_coverage_over_200_splits_lies_in_the_beta_binomial_band() -> None:
    stats = pytest.importorskip("scipy.stats")
    n, m, alpha, splits = 60, 40, 0.1, 200
    scores = np.random.default_rng(0).gamma(2.0, 3.0, size=(splits, n + m))
    coverage = np.array([
        (row[n:] <= conformal.conformal_quantile(row[:n], alpha)).mean() for row in scores
    ])  # fmt: skip
    k = conformal.quantile_rank(n, alpha)
    law = stats.betabinom(m, k, n + 1 - k)
    assert abs(coverage.mean() - k / (n + 1)) < 4 * law.std() / m / splits**0.5
    low, high = law.ppf(0.025) / m, law.ppf(0.975) / m
    inside = ((coverage >= low) & (coverage <= high)).mean()
    assert inside >= 0.9
    assert coverage.std() == pytest.approx(law.std() / m, rel=0.2)


def test_mean_coverage_is_the_stated_one() -> None:
    scores = np.sort(np.random.default_rng(0).random((20_000, 30)), axis=1)
    new = np.random.default_rng(1).random(20_000)
    k = conformal.quantile_rank(30, 0.1)
    assert (new <= scores[:, k - 1]).mean() == pytest.approx(k / 31, abs=0.007)
    assert k / 31 >= 0.9
    assert conformal.conformal_quantile(scores[0][::-1], 0.1) == scores[0, k - 1]


def test_splits_of_one_list_cover_as_often_as_stated() -> None:
    coverage, margins = conformal.random_split_coverage(np.random.default_rng(1).random(100), alpha=0.1, calibration=50)
    assert coverage.shape == margins.shape == (200,)
    assert coverage.mean() == pytest.approx(46 / 51, abs=0.02)


@pytest.mark.parametrize(("alpha", "needed"), [(0.1, 9), (0.05, 19), (0.2, 4), (0.5, 1)])
def test_too_few_patients_are_refused_with_the_number_needed(alpha: float, needed: int) -> None:
    assert conformal.required_patients(alpha) == needed
    assert conformal.conformal_quantile(np.arange(needed), alpha) == needed - 1
    with pytest.raises(ValueError, match=f"needs {needed} calibration patients, {needed - 1} are there"):
        conformal.conformal_quantile(np.arange(needed - 1), alpha)


def test_one_score_a_patient_the_worst() -> None:
    scores = np.array([[[1.0, 0]], [[3, 0]], [[2, 5]]])
    assert conformal.worst_of_patient(scores, ["b", "a", "b"]).tolist() == [[[2, 5]], [[3, 0]]]


def test_missed_cases_make_the_margin_infinite_and_no_claim() -> None:
    scores = np.stack([np.full((20, 1), math.inf), np.zeros((20, 1))], axis=-1)
    scores[:15, 0, 0] = 1.0
    margins = conformal.fit_margins(scores, alpha=0.1)
    assert margins[0, 0] == math.inf
    assert margins[0, 1] == 0
    assert not conformal.covered(scores, margins)[:, 0, 0].any()


def test_regions_of_several_classes_overlap_outside_and_not_inside() -> None:
    mask = np.where(disc(20), 1, 0) + np.where(disc(8), 1, 0)
    organ, tool = bands(mask, MARGINS, classes=("background", "organ", "tool"))
    assert (organ.value, tool.value, tool.inner) == (1, 2, None)
    assert organ.outer is not None
    assert organ.inner is not None
    assert (organ.outer & (mask == 2)).any()
    assert not (organ.inner & (mask != 1)).any()
    assert not (organ.outer & ~dilated(mask == 1, 4.0)).any()


def test_a_mask_at_the_rim_of_the_frame_is_not_eroded_from_there() -> None:
    region = np.zeros((40, 40), bool)
    region[:20] = True
    assert eroded(region, 3.0)[0].all()
    assert not eroded(region, 3.0)[17].any()
    assert np.array_equal(dilated(region, 2.0), np.arange(40)[:, None] * np.ones(40) < 22)


def test_margins_in_mm_need_a_voxel_size() -> None:
    volume = np.zeros((3, 20, 20), int)
    volume[1, 8:12, 8:12] = 1
    margins = replace(MARGINS, unit="mm", outer={"organ": 8.0})
    with pytest.raises(ValueError, match="voxel size"):
        bands(volume, margins, classes=("background", "organ"))
    (band,) = bands(volume, margins, classes=("background", "organ"), spacing_mm=(8.0, 2.0, 2.0))
    assert band.outer is not None
    assert band.outer[0, 9, 9]
    assert not band.outer[0, 7, 9]
    assert band.outer[1, 4, 9]
    assert not band.outer[1, 3, 9]


def test_a_card_keeps_its_margins_and_one_without_is_as_before() -> None:
    card = ModelCard(classes=("background", "organ", "tool"), contours={"model.onnx": MARGINS})
    assert ModelCard.from_json(card.to_json()) == card
    assert "contours" not in json.loads(replace(card, contours={}).to_json())
    for change in ({"alpha": 2}, {"unit": "inch"}, {"patients": "many"}, {"outer": {"organ": -1}}, {"more": 1}):
        raw = json.loads(card.to_json())
        raw["contours"]["model.onnx"] |= change
        with pytest.raises(ValueError, match="not a readable card"):
            ModelCard.from_json(json.dumps(raw))


def test_margins_hold_for_the_file_that_they_were_fitted_for() -> None:
    files = {"model.onnx": "a", "net.xml": "b", "net.bin": "c"}
    assert graph_digest("net.xml", files) == "bc"
    contours = {"net.xml": replace(MARGINS, graph="bc")}
    assert margins_of(contours, files, file="net.xml")[0] is contours["net.xml"]
    assert "no margins for model.onnx" in margins_of(contours, files, file="model.onnx")[1]
    assert "of another net.xml" in margins_of(contours, {**files, "net.bin": "d"}, file="net.xml")[1]
    assert "in at least 90 of 100 patients like the 50 calibrated" in MARGINS.claim()
