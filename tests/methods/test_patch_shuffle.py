"""Patch shuffling."""

from __future__ import annotations

from dataclasses import replace

import torch
from method_samples import seeded_generator
from torch import nn

from edgemt.contract import Output
from edgemt.learning.perturbations.intensity import GaussianNoise
from edgemt.methods import METHODS
from edgemt.methods.patch_shuffle import class_balanced_sample
from edgemt.testing.tiny_training import TinyTrainer, random_batch


def test_class_balanced_sample_is_even_and_without_replacement():
    label = torch.cat([torch.zeros(4000), torch.ones(40)]).long()
    drawn = class_balanced_sample(label, seeded_generator(), classes=2, count=60)
    assert len(drawn.unique()) == 60
    assert 18 <= int(label[drawn].sum()) <= 40


def test_patch_shuffle_shuffles_images_and_targets_in_the_same_order():
    class Echo(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return Output(self.scale * x, self.scale * x)

    stage = TinyTrainer(replace(METHODS["patch_shuffle"], noise=GaussianNoise(std=0.0)), classes=2, total=1, index=1)
    stage.nets["student"] = stage.nets["teacher"] = Echo()
    _, terms = next(stage.optimiser_steps(random_batch(classes=2)))
    assert float(terms["consistency"].detach()) < 1e-10
