"""Patch swapping."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from edgemt.contract import Output
from edgemt.learning.perturbations.intensity import GaussianNoise
from edgemt.methods import METHODS
from edgemt.testing.tiny_training import TinyTrainer, random_batch


def test_patch_swap_brings_the_label_of_a_patch():
    """A student that says what it sees agrees with labels and teacher alike, wherever the patches come from."""

    class Echo(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return Output(self.scale * x)

    stage = TinyTrainer(replace(METHODS["patch_swap"], noise=GaussianNoise(std=0.0)), classes=2, total=1, index=1)
    stage.nets["student"] = stage.nets["teacher"] = Echo()
    b = random_batch(classes=2)
    sure = torch.sign(b.image[:, :1]) * 6
    image = torch.cat([-sure, sure], 1)
    _, terms = next(stage.optimiser_steps(replace(b, image=image, label=(sure[: b.count, 0] > 0).long())))
    assert float(terms["consistency"].detach()) < 1e-6
    _, terms = next(stage.optimiser_steps(replace(b, image=image, label=(sure[: b.count, 0] < 0).long())))
    assert float(terms["consistency"].detach()) > 0.02
