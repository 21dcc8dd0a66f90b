"""Dilation by a disc against distances that are computed in another way."""

from __future__ import annotations

import numpy as np
import pytest

from edgemt.io import contour_bands
from edgemt.io.contour_bands import SLACK, dilated, eroded
from edgemt.io.disc_dilation import dilate_by_disc
from edgemt.io.distances import by_axes


def regions() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:61, :83]
    ring = np.asarray(((y - 30) ** 2 + (x - 40) ** 2 <= 24**2) & ((y - 28) ** 2 + (x - 40) ** 2 > 9**2))
    rims = np.zeros((40, 33), bool)
    rims[[0, 39], :5] = rims[20, [0, 32]] = True
    return [ring, rng.random((37, 53)) < 0.01, rng.random((20, 9)) < 0.3, rims, np.ones((5, 4), bool), rims[:1]]


@pytest.mark.parametrize("radius", [0.0, 1.0, 2.3, 7.5, 25.71, 70.0])
def test_dilation_by_a_disc_is_the_set_within_its_radius(radius: float) -> None:
    for region in regions():
        distances = by_axes(region, spacing=(1.0, 1.0))
        assert np.array_equal(dilate_by_disc(region, radius + SLACK), distances <= radius + SLACK)
    assert not dilate_by_disc(np.zeros((4, 6), bool), radius).any()


@pytest.mark.parametrize("margin", [0.0, 1.0, 4.2, 25.71])
def test_regions_are_those_of_the_distance_transform(margin: float, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = [(dilated(region, margin), eroded(region, margin)) for region in regions()]
    monkeypatch.setattr(contour_bands, "_MAX_DISC", -1.0)
    for region, (outer, inner) in zip(regions(), quick, strict=True):
        assert np.array_equal(outer, dilated(region, margin))
        assert np.array_equal(inner, eroded(region, margin))
