"""CMMT-Net: adversarial noise."""

from __future__ import annotations

import torch
from method_samples import seeded_generator
from torch import nn

from edgemt.learning.losses import dice, probabilities
from edgemt.methods import METHODS
from edgemt.methods.cmmt import two_heads
from edgemt.testing.tiny_training import TinyTrainer, random_batch


def test_cmmt_adversarial_noise_costs_more_than_random_noise():
    stage = TinyTrainer(METHODS["cmmt"], total=1, index=1)
    for module in stage.nets.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    b = random_batch()
    _, terms = next(stage.optimiser_steps(b))
    chance = torch.randn(b.unlabelled.shape, generator=seeded_generator(3))
    chance = 10.0 * nn.functional.normalize(chance.flatten(1), dim=1).view_as(chance)
    with torch.no_grad():
        own, pushed = (two_heads(stage.nets.student, x) for x in (b.unlabelled, b.unlabelled + chance))
        random = [dice(probabilities(q), probabilities(p)) for p, q in zip(own, pushed, strict=True)]
    assert float(terms["push"].detach()) > 1.2 * float(torch.stack(random).mean())
