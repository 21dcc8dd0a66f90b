"""The region that a display hatches: where the output `uncertainty` is above a probability, and wide enough."""

from __future__ import annotations

import numpy as np
import pytest

from edgemt.io.uncertain_region import check_threshold, hatched, hatching, uncertain_region


def values() -> np.ndarray:
    """p = 0.36 in a square of 16 pixels and in a line of 2 pixels, 0.04 in another square, else 0."""
    out = np.zeros((60, 80), np.uint8)
    out[10:26, 10:26] = out[40:42, 5:75] = 153
    out[10:26, 50:66] = 51
    return out


def test_the_region_is_where_the_probability_is_high_and_not_a_thin_rim() -> None:
    region = uncertain_region(values(), above=0.3)
    y, x = np.nonzero(region)
    assert (y.min(), y.max(), x.min(), x.max()) == (10, 25, 10, 25)
    assert region[12:24, 12:24].all()  # the corners are round
    assert uncertain_region(values(), above=0.04)[12:24, 52:64].all()
    assert uncertain_region(values(), above=0.36)[18, 18]
    assert not uncertain_region(values(), above=0.37).any()
    with pytest.raises(ValueError, match="uncertain_above: must be above 0 and at most 1, not 1.5"):
        check_threshold(1.5)


@pytest.mark.parametrize("size", [(60, 80), (720, 960)])
def test_the_hatching_is_white_beside_black_in_a_quarter_of_the_region(size: tuple[int, int]) -> None:
    region = uncertain_region(values())
    index, white = hatching(region, size=size)
    share = len(index) / (region.mean() * size[0] * size[1])
    assert share == pytest.approx(0.25, abs=0.03) and white.mean() == pytest.approx(0.5, abs=0.05)
    y, x = np.divmod(index, size[1])
    scale = size[0] / 60
    assert (10 * scale <= y).all() and (y < 26 * scale).all() and (10 * scale <= x).all() and (x < 26 * scale).all()


def test_a_picture_is_unchanged_outside_the_hatching() -> None:
    picture = np.full((60, 80), 100, np.uint8)
    drawn = hatched(picture, uncertain_region(values()))
    assert drawn.shape == (60, 80, 3) and set(np.unique(drawn)) == {0, 100, 255}
    assert (drawn[30:] == 100).all() and (drawn[:, 30:] == 100).all()
    assert (hatched(np.zeros((9, 9, 3), np.uint8), np.zeros((3, 3), bool)) == 0).all()
