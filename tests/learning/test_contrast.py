"""Contrastive losses, by hand."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from method_samples import seeded_generator

from edgemt.learning import losses
from edgemt.learning.losses import focal_contrast


def test_pixel_contrast_by_hand():
    anchor, key = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    label = torch.tensor([0, 1, 0])
    alike = F.normalize(anchor, dim=1) @ F.normalize(key, dim=1).T / 0.5
    share = alike.softmax(1)
    zeros = [-(share[i, 0].log() + share[i, 2].log()) / 2 for i in (0, 2)]
    want = (zeros[0] + zeros[1] - share[1, 1].log()) / 3
    torch.testing.assert_close(losses.pixel_contrast(anchor, key, label, temperature=0.5), want)


def test_focal_contrast_of_three_places_by_hand():
    """Two alike places at a right angle to one of another class: share = e^(1/T) / (e^(1/T) + 1)."""
    features = torch.tensor([[[3.0, 1.0, 0.0], [0.0, 0.0, 2.0]]])
    share = math.exp(1 / 0.6) / (math.exp(1 / 0.6) + 1.0)
    want = -((1 - share) ** 2) * math.log(share)
    got = focal_contrast(features, torch.tensor([[0, 0, 1]]), temperature=0.6, gamma=2.0)
    torch.testing.assert_close(got, torch.tensor([[want, want, 0.0]]), rtol=1e-5, atol=1e-7)


def test_focal_contrast_without_positives_or_negatives_is_zero_with_finite_gradient():
    features = torch.randn(2, 4, 5, generator=seeded_generator(), requires_grad=True)
    label = torch.stack([torch.zeros(5), torch.arange(5)]).long()
    cost = focal_contrast(features, label)
    assert float(cost.detach().abs().max()) < 1e-6
    (slope,) = torch.autograd.grad(cost.sum(), features)
    assert torch.isfinite(slope).all()
