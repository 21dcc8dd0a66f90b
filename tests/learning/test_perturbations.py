"""Perturbations keep shapes, take their chance from the generator, and do what they say."""

from __future__ import annotations

import pytest
import torch

from edgemt.learning.perturbations.features import vat_perturbation
from edgemt.learning.perturbations.intensity import GaussianNoise, blur, gamma, shadow
from edgemt.learning.perturbations.mixing import CutMixBox, cutmix, mixup, sample_mixup_lambda

DIMS = pytest.mark.parametrize("size", [(16, 12), (12, 10, 8)])


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=chance(9))


@DIMS
def test_noise_is_clipped_and_repeats_with_its_generator(size):
    x = some(3, 2, *size)
    noisy = GaussianNoise(std=0.1, clip=0.2)(x, chance())
    assert 0.05 < float((noisy - x).std()) < 0.15
    assert float((noisy - x).abs().max()) <= 0.2 + 1e-6
    assert torch.equal(noisy, GaussianNoise(std=0.1, clip=0.2)(x, chance()))
    assert not torch.equal(noisy, GaussianNoise(std=0.1, clip=0.2)(x, chance(1)))


@DIMS
def test_a_box_is_one_block_a_row_with_sides_in_its_range(size):
    x = some(40, 1, *size)
    inside = CutMixBox(low=0.25, high=0.75, chance=1.0).sample(x, chance())
    assert inside.shape == (40, 1, *size)
    for row in inside[:, 0]:
        at = row.nonzero()
        sides = at.amax(0) - at.amin(0) + 1
        assert int(row.sum()) == int(sides.prod()), "not one block"
        for side, whole in zip(sides.tolist(), size, strict=True):
            assert 0.25 * whole - 1 <= side <= 0.75 * whole + 1
    assert len({tuple(row.flatten().tolist()) for row in inside}) > 30


def test_the_share_of_rows_with_a_box_is_its_chance():
    x = some(400, 1, 8, 8)
    hit = CutMixBox(chance=0.3).sample(x, chance()).flatten(1).any(1).float().mean()
    assert 0.2 < float(hit) < 0.4
    assert not CutMixBox(chance=0.0).sample(x, chance()).any()


@DIMS
def test_cutmix_takes_the_box_from_the_next_row(size):
    x = some(3, 2, *size)
    inside = CutMixBox(chance=1.0).sample(x, chance())
    mixed = cutmix(inside, x)
    wide = inside.expand_as(x)
    assert torch.equal(mixed[~wide], x[~wide])
    assert torch.equal(mixed[wide], x.roll(1, 0)[wide])


@DIMS
def test_mixup_is_a_mixture_with_shares_of_a_beta(size):
    x = some(200, 1, *size)
    share = sample_mixup_lambda(x, chance(), alpha=0.2)
    assert share.shape == (200, 1, *[1] * len(size))
    assert share.min() >= 0 and share.max() <= 1
    assert 0.4 < float(share.mean()) < 0.6
    assert float(((share < 0.1) | (share > 0.9)).float().mean()) > 0.5
    torch.testing.assert_close(mixup(share, x), share * x + (1 - share) * x.roll(1, 0))


@DIMS
def test_gamma_keeps_range_and_order_and_bends_the_middle(size):
    x = some(2, 1, *size)
    assert torch.allclose(gamma(x, torch.ones(2)), x, atol=1e-4)
    dark = gamma(x, torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(dark.amax(), x.amax())
    assert (dark <= x + 1e-5).all()


@DIMS
def test_blur_keeps_a_constant_and_calms_noise(size):
    assert torch.allclose(blur(torch.full((1, 2, *size), 3.0), sigma=1.0), torch.tensor(3.0))
    x = some(1, 1, *size)
    assert blur(x, sigma=1.0).std() < 0.6 * x.std()
    assert blur(x, sigma=0.0) is x


@DIMS
def test_a_shadow_darkens_its_box_only(size):
    x = some(2, 2, *size)
    inside = CutMixBox(chance=1.0).sample(x, chance())
    dark, wide = shadow(x, inside), inside.expand_as(x)
    assert torch.equal(dark[~wide], x[~wide])
    assert (dark[wide] <= x[wide]).all() and dark[wide].mean() < x[wide].mean()


def test_an_adversarial_push_raises_the_loss_more_than_a_random_one_of_its_length():
    target = some(2, 1, 6, 6)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return (x * target).sum()

    x = torch.zeros(2, 1, 6, 6)
    push = vat_perturbation(loss, x, chance(), epsilon=3.0)
    torch.testing.assert_close(push.flatten(1).norm(dim=1), torch.full((2,), 3.0))
    assert float(loss(push)) > 0.99 * 3.0 * float(target.flatten(1).norm(dim=1).sum())
    assert not push.requires_grad
