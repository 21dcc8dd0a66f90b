"""URPC: the released formula."""

from __future__ import annotations

from dataclasses import replace

import torch
from method_samples import FULL, ConstantOutput, losses_of, random_logits

from edgemt.learning.losses import dice_ce
from edgemt.methods import METHODS
from edgemt.testing.tiny_training import random_batch


def test_urpc_loss_is_the_released_formula():
    b = random_batch(labelled=1, unlabelled=2)
    scales = [random_logits(3, seed=k) for k in range(4)]
    terms = losses_of(replace(METHODS["urpc"], ramp=FULL), ConstantOutput(*scales), b)
    p = [s[1:].softmax(1) for s in scales]
    middle = sum(p) / 4
    want = 0.0
    for one in p:
        uncertainty = (middle * (middle.log() - one.log())).sum(1, keepdim=True)
        weight = torch.exp(-uncertainty)
        want += ((middle - one) ** 2 * weight).mean() / (weight.mean() + 1e-8) + uncertainty.mean()
    torch.testing.assert_close(terms["consistency"], want / 4, rtol=1e-4, atol=1e-6)
    known = sum(dice_ce(s[:1], b.label) for s in scales) / 4
    torch.testing.assert_close(terms["supervised"], known)
