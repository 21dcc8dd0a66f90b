"""MC-Net and MC-Net+: pairs of decoders."""

from __future__ import annotations

from dataclasses import replace

import torch
from method_samples import FULL, ConstantOutput, losses_of, random_logits

from edgemt.learning.pseudo_labels import sharpen
from edgemt.methods import METHODS
from edgemt.testing.tiny_training import random_batch


def test_mc_net_targets_are_sharpened_and_detached():
    """MC-Net's release lets the gradient of one decoder's loss into the other, through its sharpened target."""
    b, one, two = random_batch(), random_logits(5), random_logits(5, seed=1)
    terms = losses_of(replace(METHODS["mc_net"], ramp=FULL), ConstantOutput(one, two), b)
    (slope,) = torch.autograd.grad(terms["mutual"], one)
    alone = one.detach().requires_grad_()
    q = sharpen(two.softmax(1), temperature=0.1)
    (want,) = torch.autograd.grad((alone.softmax(1) - q).square().mean(), alone)
    torch.testing.assert_close(slope, want)
    released = (one.softmax(1) - q).square().mean()
    attached = (two.softmax(1) - (one.softmax(1).log() / 0.1).softmax(1)).square().mean()
    (wrong,) = torch.autograd.grad(released + attached, one)
    assert not torch.allclose(slope, wrong, rtol=1e-2)
    torch.testing.assert_close(q.sum(1), torch.ones_like(q[:, 0])), "sharpened targets are probabilities"


def test_mc_net_plus_has_six_pairs():
    b, every = random_batch(), [random_logits(5, seed=k) for k in range(3)]
    terms = losses_of(replace(METHODS["mc_net_plus"], ramp=FULL), ConstantOutput(*every), b)
    q = [sharpen(x.softmax(1), temperature=0.1) for x in every]
    want = sum((every[i].softmax(1) - q[j]).square().mean() for i in range(3) for j in range(3) if i != j)
    torch.testing.assert_close(terms["mutual"], want)
