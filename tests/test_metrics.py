"""Numbers that can be worked out by hand, and MONAI's."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from edgemt.metrics import DISTANCE, OVERLAP, Scores, compare, confusion, distances


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
    assert all(row[name] == 1 for name in OVERLAP) and all(row[name] == 0 for name in DISTANCE)


def test_two_empty_masks_are_not_counted_and_a_missed_organ_is_no_success() -> None:
    empty, there = np.zeros((16, 16), np.uint8), _square(4, 4)
    nothing, missed, invented = (
        compare(p, t, classes=2)[0] for p, t in ((empty, empty), (empty, there), (there, empty))
    )
    assert math.isnan(nothing["dice"]) and nothing["both_empty"] == 1
    assert missed["dice"] == 0 and math.isnan(missed["hd95"]) and math.isnan(missed["asd"]) and missed["missed"] == 1
    assert invented["dice"] == 0 and math.isnan(invented["hausdorff"]) and invented["invented"] == 1
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


def test_spacing_stretches_distances() -> None:
    a, b = _square(4, 4).astype(bool), _square(7, 4).astype(bool)
    assert distances(a, b)["hausdorff"] == 3
    assert distances(a, b, spacing=(0.5, 9.0))["hausdorff"] == pytest.approx(1.5)


@pytest.mark.parametrize("shape", [(40, 33), (20, 18, 9)])
def test_distances_and_dice_are_those_of_monai(shape: tuple[int, ...]) -> None:
    torch, monai = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(1)
    for trial in range(4):
        noise = [gaussian_filter(rng.normal(size=shape), 2.5) for _ in range(2)]
        a, b = noise[0] > 0.02, noise[0] + 0.5 * noise[1] > 0.02  # some touch the rim of the frame
        one, two = (torch.from_numpy(np.stack([~m, m])[None]).float() for m in (a, b))
        spacing = [1.0, 1.3, 2.5][: len(shape)] if trial % 2 else None
        keys = {"include_background": False, "spacing": spacing}
        found = compare(a.astype(np.uint8), b.astype(np.uint8), classes=2, spacing=spacing)[0]
        assert found["dice"] == pytest.approx(float(monai.compute_dice(one, two, include_background=False)))
        assert found["hausdorff"] == pytest.approx(float(monai.compute_hausdorff_distance(one, two, **keys)), rel=1e-5)
        hd95 = float(monai.compute_hausdorff_distance(one, two, percentile=95, **keys))
        assert found["hd95"] == pytest.approx(hd95, rel=1e-5)
        asd = float(monai.compute_average_surface_distance(one, two, symmetric=True, **keys))
        assert found["asd"] == pytest.approx(asd, rel=1e-5)


def test_a_value_beyond_the_classes_and_a_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="value above 1"):
        confusion(np.full((4, 4), 2), np.zeros((4, 4), np.uint8), classes=2)
    with pytest.raises(ValueError, match="differ in shape"):
        confusion(np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8), classes=2)
