"""Target rules: affine consistency, adaptive threshold."""

from __future__ import annotations

import torch
from method_samples import SPACES, ConstantTeacher, at, places, probs_of_voxels
from torch import nn

from edgemt.contract import Output
from edgemt.learning.perturbations.intensity import GaussianNoise
from edgemt.learning.perturbations.spatial import Affine, warp
from edgemt.learning.targets import AdaptiveThreshold, AffineConsistent


@SPACES
def test_affine_consistent_target_transforms_predictions_back(size):
    """A teacher that looks at single voxels says the same of a turned view, turned back, where it is trusted."""

    class Pointwise(nn.Module):
        def forward(self, x):
            return Output(torch.cat([x, -x], 1))

    slope = places(tuple(3 * n for n in size)).sum(1, keepdim=True).repeat(2, 1, *[1] * len(size))
    p, weight = AffineConsistent(noise=GaussianNoise(std=0.0))(Pointwise(), slope, at(0.5))
    want = torch.cat([slope, -slope], 1).softmax(1)
    assert 0.5 < float(weight.mean()) < 1.0
    gap = float((weight * (p - want).abs()).amax())
    not_put_back = warp(Affine().sample(slope, at(0.5).generator), want)
    assert gap < 0.05, "half a voxel at the rim"
    assert float((weight * (not_put_back - want).abs()).amax()) > 4 * gap
    torch.testing.assert_close(p.sum(1), torch.ones_like(p[:, 0]))


def test_adaptive_threshold_rises_from_mean_to_outliers_of_each_class():
    p = probs_of_voxels((0.99, 0.01), (0.95, 0.05), (0.6, 0.4), (0.4, 0.6), (0.3, 0.7))
    rule = AdaptiveThreshold(noise=GaussianNoise(std=0.0))
    weights = [
        rule(ConstantTeacher(p[0]), torch.zeros(1, 1, 1, 5), at(t)).weight.flatten().tolist() for t in (0.0, 1.0)
    ]
    assert weights[0] == [1, 1, 0, 0, 1], "a doubtful class has a bar of its own"
    assert weights[1] == [1, 1, 1, 1, 1]
