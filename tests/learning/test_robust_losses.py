"""Noise-robust Dice, focal loss, soft IoU."""

from __future__ import annotations

import pytest
import torch

from edgemt.learning import losses
from edgemt.learning.losses import onehot


def test_noise_robust_dice_is_its_formula():
    p, q = torch.tensor([0.8, 0.3]).view(1, 1, 1, 2), torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    for power in (1.0, 1.5, 2.0):
        want = (0.2**power + 0.3**power) / (1.1 + 1.0)
        assert float(losses.noise_robust_dice(p, q, gamma=power)) == pytest.approx(want, rel=1e-4)
    p = p.clone().requires_grad_()
    losses.noise_robust_dice(p, p.detach()).backward()
    assert torch.isfinite(p.grad).all(), "a perfect voxel has a finite slope"


def test_noise_robust_dice_penalises_wrong_labels_less_with_lower_gamma():
    q = onehot(torch.tensor([[[1, 1, 1, 0]]]), 2)
    right = onehot(torch.tensor([[[1, 1, 0, 0]]]), 2) * 0.96 + 0.02  # the third label is wrong
    shares = []
    for power in (1.0, 2.0):
        p = right.clone().requires_grad_()
        losses.noise_robust_dice(p, q, gamma=power).backward()
        slope = p.grad.abs().sum(1).flatten()
        shares.append(float(slope[2] / slope.sum()))
    assert shares[0] < shares[1]


def test_focal_and_soft_iou_are_their_formulas():
    logits = torch.tensor([[0.0, 2.0], [1.0, 0.0]]).T.reshape(1, 2, 1, 2)
    label = torch.tensor([[[1, 0]]])
    truth = logits.softmax(1).gather(1, label.unsqueeze(1)).flatten()
    want = ((1 - truth) ** 2 * -truth.log()).mean()
    torch.testing.assert_close(losses.focal(logits, label), want)
    p = torch.tensor([0.5, 0.9, 0.1]).view(1, 1, 1, 3)
    p = torch.cat([1 - p, p], 1)
    q = onehot(torch.tensor([[[1, 1, 0]]]), 2)
    assert float(losses.soft_iou_loss(p, q)) == pytest.approx(1 - 1.4 / (0.5 + 1 + 0.9 + 1 + 0.1 - 1.4), abs=1e-4)
    other = torch.where(torch.tensor([True, True, False]), p, 1 - p)
    weight = torch.tensor([1.0, 1.0, 0.0]).view(1, 1, 1, 3)
    assert torch.equal(losses.soft_iou_loss(p, q, weight=weight), losses.soft_iou_loss(other, q, weight=weight))
