"""Affine transforms and warping."""

from __future__ import annotations

import torch
from method_samples import SPACES, places, random_tensor, seeded_generator

from edgemt.learning.perturbations.spatial import Affine, invert_affine, valid_region, warp


@SPACES
def test_identity_affine_returns_the_image_under_autocast(size):
    x = random_tensor(2, 3, *size)
    still = Affine(degrees=0.0, zoom=0.0, shift=0.0).sample(x, seeded_generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = warp(still, x)
    torch.testing.assert_close(seen, x, rtol=1e-4, atol=1e-4)
    assert valid_region(still, x).all()


def test_rotation_of_a_non_square_image_does_not_shear():
    """A cross, as long as wide in voxels, is the same cross after a quarter turn though the image is not square."""
    x = torch.zeros(1, 1, 13, 9)
    x[:, :, 6, 2:7] = 1.0
    x[:, :, 4:9, 4] = 2.0
    quarter = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])
    half = torch.tensor([13.0, 9.0])
    quarter[:, :, :2] *= half / half[:, None]
    seen = warp(quarter, x)
    assert torch.allclose(seen[0, 0, 6, 2:7], torch.tensor([2.0, 2.0, 2.0, 2.0, 2.0]), atol=1e-4)
    assert torch.allclose(seen[0, 0, [4, 8], 4], torch.ones(2), atol=1e-4)
    drawn = Affine(degrees=90.0, zoom=0.0, shift=0.0).sample(x, seeded_generator())[:, :, :2]
    rigid = drawn * half[:, None] / half
    torch.testing.assert_close(rigid @ rigid.transpose(1, 2), torch.eye(2)[None])


@SPACES
def test_invert_affine_undoes_warp(size):
    place = places(size).repeat(3, 1, *[1] * len(size))
    there = Affine(degrees=15.0, zoom=0.1, shift=0.1).sample(place, seeded_generator())
    back = invert_affine(there)
    inner = valid_region(there, place) & valid_region(back, place)
    inner &= (place.abs() < 0.5).all(1, keepdim=True)
    returned = warp(back, warp(there, place))
    assert inner.any()
    gap = ((returned - place).abs() * inner).amax()
    assert float(gap) < 1e-3, "coordinates are linear, so linear interpolation keeps them"
