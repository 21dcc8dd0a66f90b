"""Pi-model."""

from __future__ import annotations

from dataclasses import replace

import torch
from method_samples import FULL, losses_of
from torch import Tensor, nn

from edgemt.contract import Output
from edgemt.methods import METHODS
from edgemt.testing.tiny_training import random_batch


def test_pi_model_compares_two_noisy_views_and_trains_both():
    seen: list[Tensor] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Output:
            seen.append(x)
            return Output(x)

    b = random_batch(classes=2)
    terms = losses_of(replace(METHODS["pi_model"], ramp=FULL), Watched(), b)
    one, other = seen[0][2:].chunk(2)
    assert not torch.equal(one, other) and (one - other).abs().max() <= 0.4 + 1e-6
    want = (one.softmax(1) - other.softmax(1)).square().mean()
    torch.testing.assert_close(terms["consistency"], want)
