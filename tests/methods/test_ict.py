"""ICT: mixtures."""

from __future__ import annotations

from dataclasses import replace

from method_samples import FULL, seeded_generator
from torch import Tensor, nn

from edgemt.contract import Output, Step
from edgemt.learning.roles import Networks
from edgemt.methods import METHODS
from edgemt.testing.tiny_training import random_batch


def test_ict_compares_prediction_of_mixture_with_mixture_of_predictions():
    """A student and a teacher that say what they see agree at every mixture, and at none when only images are mixed."""

    class Linear(nn.Module):
        def forward(self, x: Tensor) -> Output:
            return Output(x.clamp_min(1e-6).log())

    b = random_batch(classes=2, strong=False)
    b = replace(b, image=b.image.softmax(1))
    nets = Networks({"student": Linear(), "teacher": Linear()})
    method = replace(METHODS["ict"], ramp=FULL)
    assert float(method.losses(nets, b, Step(1, 1, seeded_generator()))["consistency"]) < 1e-8
    assert METHODS["mean_teacher"].mix == "none" and method.target.noise.std == 0.0
