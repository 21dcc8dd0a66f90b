"""Grid of patches."""

from __future__ import annotations

import torch
from method_samples import SPACES, random_tensor, seeded_generator

from edgemt.learning.perturbations.mixing import PatchGrid


@SPACES
def test_shuffle_can_be_undone_by_the_inverse_order(size):
    cells, x = PatchGrid(side=3), random_tensor(2, 4, *size)
    order = cells.order(x, seeded_generator())
    moved = cells.shuffle(order, x)
    assert not torch.equal(moved, x)
    assert torch.equal(moved.flatten(2).sort(2).values, x.flatten(2).sort(2).values)
    assert torch.equal(cells.shuffle(order.argsort(1), moved), x)
    assert torch.equal(cells.shuffle(order, x[:, :1]), moved[:, :1]), "image and target move alike"


def test_shuffle_moves_whole_patches_and_leaves_the_rim():
    x = torch.arange(25.0).view(1, 1, 5, 5)
    swapped = PatchGrid(side=2).shuffle(torch.tensor([[3, 1, 2, 0]]), x)
    assert swapped[0, 0, :2, :2].tolist() == [[12.0, 13.0], [17.0, 18.0]]
    assert swapped[0, 0, 2:4, 2:4].tolist() == [[0.0, 1.0], [5.0, 6.0]]
    assert torch.equal(swapped[..., 4, :], x[..., 4, :])


@SPACES
def test_patch_grid_selects_half_of_the_patches_of_every_image(size):
    picked = PatchGrid(side=4).sample(random_tensor(5, 2, *size), seeded_generator())
    assert picked.shape == (5, 1, *size)
    assert (picked.float().mean((1, *range(2, picked.ndim))) - 0.5).abs().max() < 0.2
