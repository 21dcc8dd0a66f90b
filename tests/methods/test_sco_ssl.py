"""SCO-SSL: shadows."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from edgemt.contract import Output
from edgemt.learning.perturbations.intensity import apply_shadow, shadow_mask
from edgemt.learning.perturbations.spatial import Affine
from edgemt.methods import METHODS
from edgemt.testing.tiny_training import TinyTrainer, random_batch


def test_sco_ssl_takes_shadows_from_neighbouring_rows():
    seen = {}

    class Watches(nn.Module):
        def __init__(self, who):
            super().__init__()
            self.who, self.scale = who, nn.Parameter(torch.ones(1))

        def forward(self, x, disturb=None):
            seen[self.who] = x
            assert (disturb is not None) == (self.who == "student")
            if disturb is not None:
                seen["maps"] = disturb(torch.ones(len(x), 4, *[n // 2 for n in x.shape[2:]]))
            return Output(self.scale * x[:, :2])

    method = replace(METHODS["sco_ssl"], affine=Affine(0.0, 0.0, 0.0))
    stage = TinyTrainer(method, classes=2, total=1, index=1)
    stage.nets["student"], stage.nets["teacher"] = Watches("student"), Watches("teacher")
    b = random_batch(classes=2, labelled=1, unlabelled=2)
    next(stage.optimiser_steps(b))
    dark = shadow_mask(b.image)
    torch.testing.assert_close(seen["student"], apply_shadow(b.image, dark[[1, 2, 0]]))
    torch.testing.assert_close(seen["teacher"], apply_shadow(b.image, dark[[2, 0, 1]]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen["maps"][:, 0], F.interpolate(dark[[1, 2, 0]], size=(6, 5))[:, 0])
