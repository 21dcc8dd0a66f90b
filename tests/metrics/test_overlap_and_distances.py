"""Numbers that can be worked out by hand, MedPy's and MONAI's."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from edgemt.metrics.overlap import Scores, compare, confusion
from edgemt.metrics.surface_distance import DISTANCE, bounding_box, surface, surface_scores

OVERLAP = ("dice", "jaccard", "accuracy", "recall", "specificity", "volumetric_similarity")
SURFACE = (*DISTANCE, "nsd")


def _square(top: int, left: int, *, side: int = 4, frame: int = 16) -> np.ndarray:
    mask = np.zeros((frame, frame), np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def test_a_shifted_square_has_the_scores_of_a_shifted_square() -> None:
    (row,) = compare(_square(4, 6), _square(4, 4), classes=2)  # 8 of 16 pixels shared
    assert row["dice"] == 0.5 and row["jaccard"] == pytest.approx(1 / 3) and row["recall"] == 0.5
    assert row["accuracy"] == 1 - 16 / 256 and row["specificity"] == 1 - 8 / 240
    assert row["volumetric_similarity"] == 1 and row["hausdorff"] == 2


def test_volumetric_similarity_sees_size_alone() -> None:
    (row,) = compare(_square(0, 0, side=4), _square(10, 10, side=2), classes=2)
    assert row["dice"] == 0 and row["volumetric_similarity"] == pytest.approx(1 - 12 / 20)


def test_a_perfect_mask_is_perfect() -> None:
    (row,) = compare(_square(3, 3), _square(3, 3), classes=2)
    assert all(row[name] == 1 for name in (*OVERLAP, "nsd")) and all(row[name] == 0 for name in DISTANCE)


def test_two_empty_masks_are_not_counted_and_a_missed_organ_is_no_success() -> None:
    empty, there = np.zeros((16, 16), np.uint8), _square(4, 4)
    nothing, missed, invented = (
        compare(p, t, classes=2)[0] for p, t in ((empty, empty), (empty, there), (there, empty))
    )
    assert math.isnan(nothing["dice"]) and nothing["both_empty"] == 1
    assert missed["dice"] == 0 and missed["nsd"] == 0 and missed["missed"] == 1
    assert all(math.isnan(row[name]) for row in (nothing, missed, invented) for name in DISTANCE)
    assert math.isnan(nothing["nsd"]) and invented["nsd"] == 0
    assert invented["dice"] == 0 and invented["invented"] == 1
    assert math.isnan(invented["recall"])


def test_a_score_sheet_leaves_out_what_is_undefined_and_says_how_often() -> None:
    empty, there = np.zeros((16, 16), np.uint8), _square(4, 4)
    pairs = {"hit": (there, there), "missed": (empty, there), "none": (empty, empty)}
    cases = [{"name": name, "organ": compare(p, t, classes=2)[0]} for name, (p, t) in pairs.items()]
    scores = Scores(("organ",), cases)
    organ = scores.per_class["organ"]
    assert scores.dice == 0.5 and organ["counted"] == 2
    assert (organ["both_empty"], organ["missed"], organ["invented"]) == (1, 1, 0)
    assert organ["hd95"] == 0 and scores.mean("hd95") == 0
    text = json.dumps(scores.to_json(), allow_nan=False)
    assert json.loads(text)["cases"][2]["organ"]["dice"] is None


def test_the_mean_is_over_classes_of_the_mean_over_cases() -> None:
    cases = [
        {"name": "1", "a": {"dice": 1.0}, "b": {"dice": math.nan}},
        {"name": "2", "a": {"dice": 0.0}, "b": {"dice": 1.0}},
    ]
    for case in cases:
        for name in ("a", "b"):
            case[name] |= {"both_empty": 0.0, "missed": 0.0, "invented": 0.0}  # type: ignore[operator]
    assert Scores(("a", "b"), cases).dice == 0.75


def test_renaming_classes_permutes_the_scores() -> None:
    rng = np.random.default_rng(0)
    p, t = rng.integers(0, 3, (2, 24, 24))
    swap = np.array([0, 2, 1])
    assert compare(p, t, classes=3, dice_only=True) == compare(swap[p], swap[t], classes=3, dice_only=True)[::-1]


def test_spacing_gives_the_same_distances_in_millimetres_beside_those_in_voxels() -> None:
    a, b = _square(4, 4).astype(bool), _square(7, 4).astype(bool)
    scores = surface_scores(a, b, spacing_mm=(0.5, 9.0))
    assert scores["hausdorff"] == 3 and scores["hausdorff_mm"] == pytest.approx(1.5)
    assert set(scores) == {*SURFACE, *(f"{name}_mm" for name in SURFACE)} and set(surface_scores(a, b)) == set(SURFACE)
    even = surface_scores(a, b, spacing_mm=(0.625, 0.625))
    assert all(even[f"{name}_mm"] == pytest.approx(0.625 * even[name]) for name in DISTANCE)


def test_surface_dice_is_the_share_of_both_surfaces_within_the_tolerance() -> None:
    a, b = _square(4, 4).astype(bool), _square(7, 4).astype(bool)  # 12 surface pixels each, 4 in the shared row
    shares = [surface_scores(a, b, tolerance=t)["nsd"] for t in (0, 1, 2, 3)]
    assert shares == [8 / 24, 12 / 24, 16 / 24, 1]  # four, two, two and four pixels of either ring, row by row
    assert surface_scores(a, b, spacing_mm=(0.5, 9.0), tolerance=1.5)["nsd_mm"] == 1
    with pytest.raises(ValueError, match="tolerance must not be negative"):
        surface_scores(a, b, tolerance=-1)


def test_the_three_average_and_percentile_conventions_are_told_apart() -> None:
    truth = _square(2, 2, side=4, frame=40).astype(bool)
    both = truth | _square(30, 30, side=2, frame=40).astype(bool)  # a false second piece, 4 pixels far away
    said, reversed_ = surface_scores(both, truth), surface_scores(truth, both)
    assert reversed_["asd"] == 0 and said["asd"] > 0  # one direction: from the prediction's surface
    assert said["assd"] == pytest.approx(reversed_["assd"]) == pytest.approx(said["asd"] * 16 / 28)
    assert said["hd95"] == reversed_["hd95"] < said["hd95_directed"] == reversed_["hd95_directed"]


SHAPES = [(40, 33), (20, 18, 9)]


def _pairs(shape: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Organ-like pieces, some on the rim of the frame, that share most of their surface; and plain noise."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(1)
    pairs = []
    for part in (0.5, 0.1, 2.0):
        noise = [gaussian_filter(rng.normal(size=shape), 2.5) for _ in range(2)]
        pairs.append((noise[0] > 0.02, noise[0] + part * noise[1] > 0.02))
    far = np.zeros((2, *shape), bool)
    far[0][(slice(0, 2),) * len(shape)], far[1][(slice(-3, None),) * len(shape)] = True, True
    return [*pairs, (rng.random(shape) > 0.5, rng.random(shape) > 0.9), (far[0], far[1])]


def _spacings(shape: tuple[int, ...]) -> list[tuple[float, ...]]:
    return [(0.625,) * len(shape), (1.0, 1.3, 2.5)[: len(shape)]]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("voxels_a_point", [0, 10**9], ids=["search tree", "distance transform"])
def test_distances_are_those_of_measuring_every_pair_of_surface_voxels(
    shape: tuple[int, ...], voxels_a_point: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scipy.ndimage import binary_erosion
    from scipy.spatial.distance import cdist

    monkeypatch.setattr("edgemt.metrics.surface_distance.VOXELS_A_POINT", voxels_a_point)
    for a, b in _pairs(shape):
        for spacing in _spacings(shape):
            points = [np.argwhere(m ^ binary_erosion(m)) * np.array(spacing) for m in (a, b)]
            apart = cdist(*points)
            forth, back = apart.min(axis=1), apart.min(axis=0)
            pooled = np.concatenate([forth, back])
            found = surface_scores(a, b, spacing_mm=spacing, tolerance=1.9)
            assert found["hausdorff_mm"] == pytest.approx(pooled.max())
            assert found["hd95_mm"] == pytest.approx(np.percentile(pooled, 95))
            assert found["asd_mm"] == pytest.approx(forth.mean()) and found["assd_mm"] == pytest.approx(pooled.mean())
            assert found["nsd_mm"] == pytest.approx((pooled <= 1.9).mean())


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_are_those_of_medpy(shape: tuple[int, ...]) -> None:
    binary = pytest.importorskip("medpy.metric.binary")
    theirs = {"hausdorff": binary.hd, "hd95": binary.hd95, "asd": binary.asd, "assd": binary.assd}
    for a, b in _pairs(shape):
        for spacing in _spacings(shape):
            found = surface_scores(a, b, spacing_mm=spacing)
            for name, function in theirs.items():
                assert found[name] == pytest.approx(function(a, b), rel=1e-5), name
                assert found[f"{name}_mm"] == pytest.approx(function(a, b, voxelspacing=spacing), rel=1e-5), name
        row = compare(a.astype(np.uint8), b.astype(np.uint8), classes=2)[0]
        assert row["dice"] == pytest.approx(binary.dc(a, b)) and row["jaccard"] == pytest.approx(binary.jc(a, b))
        assert row["specificity"] == pytest.approx(binary.specificity(a, b))


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_and_dice_are_those_of_monai(shape: tuple[int, ...]) -> None:
    torch, monai = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    for a, b in _pairs(shape):
        one, two = (torch.from_numpy(np.stack([~m, m])[None]).float() for m in (a, b))
        for spacing in _spacings(shape):
            keys = {"include_background": False, "spacing": spacing}
            theirs = {
                "hausdorff_mm": monai.compute_hausdorff_distance(one, two, **keys),
                "hd95_directed_mm": monai.compute_hausdorff_distance(one, two, percentile=95, **keys),
                "asd_mm": monai.compute_average_surface_distance(one, two, **keys),
                "assd_mm": monai.compute_average_surface_distance(one, two, symmetric=True, **keys),
                "nsd_mm": monai.compute_surface_dice(one, two, class_thresholds=[1.9], **keys),
            }
            found = compare(a.astype(np.uint8), b.astype(np.uint8), classes=2, spacing_mm=spacing, tolerance=1.9)[0]
            assert found["dice"] == pytest.approx(float(monai.compute_dice(one, two, include_background=False)))
            for name, value in theirs.items():
                assert found[name] == pytest.approx(float(value), rel=1e-5), name


def test_the_surface_is_what_an_erosion_takes_away_and_the_rim_belongs_to_it() -> None:
    from scipy.ndimage import binary_erosion

    mask = np.random.default_rng(3).random((9, 8, 7)) > 0.2
    assert np.array_equal(surface(mask), mask ^ binary_erosion(mask))
    assert surface(np.ones((5, 4), bool)).sum() == 14  # all but the 3 x 2 inside


def test_a_bounding_box_holds_the_mask_and_no_more() -> None:
    mask = np.zeros((6, 7, 8), bool)
    mask[1, 2:5, 7] = True
    assert bounding_box(mask) == (slice(1, 2), slice(2, 5), slice(7, 8))
    assert mask[bounding_box(mask)].all() and np.zeros((3, 3), bool)[bounding_box(np.zeros((3, 3), bool))].size == 0


def test_a_large_background_counts_as_much_as_if_it_had_been_looked_at() -> None:
    p, t = _square(4, 6, frame=64), _square(4, 4, frame=64) * 2
    table = confusion(p, t, classes=3)
    assert table.sum() == 64 * 64 and table[0, 0] == 64 * 64 - 24
    assert (table[2, 1], table[2, 0], table[0, 1]) == (8, 8, 8)


def test_millimetres_of_some_cases_are_averaged_over_those() -> None:
    there, shifted = _square(4, 4), _square(4, 6)
    rows = [compare(shifted, there, classes=2, spacing_mm=mm)[0] for mm in (None, (0.5, 0.5))]
    organ = Scores(("organ",), [{"name": str(i), "organ": row} for i, row in enumerate(rows)]).per_class["organ"]
    assert organ["hausdorff"] == 2 and organ["hausdorff_mm"] == 1


def test_a_spacing_that_is_none_is_refused() -> None:
    for wrong in ((1.0,), (1.0, 0.0), (1.0, math.nan)):
        with pytest.raises(ValueError, match="spacing_mm: needs 2 numbers above 0"):
            compare(_square(4, 4), _square(4, 4), classes=2, spacing_mm=wrong)


def test_a_value_beyond_the_classes_and_a_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="value above 1"):
        confusion(np.full((4, 4), 2), np.zeros((4, 4), np.uint8), classes=2)
    with pytest.raises(ValueError, match="differ in shape"):
        confusion(np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8), classes=2)
