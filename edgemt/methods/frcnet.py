"""FRCNet: consistency of classes, feature frequencies and region similarities.

Shapes: N batch, F features, V regions, *space 2 or 3 axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemt.contract import Batch, Head, Step
from edgemt.learning.auxiliary_tasks import region_means
from edgemt.learning.losses import dice_ce, mse, probabilities
from edgemt.learning.method import LossTerms
from edgemt.learning.perturbations.intensity import GaussianNoise
from edgemt.learning.roles import Networks
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class FRCNet(StudentTeacher):
    """FRCNet: consistency of classes, of feature frequencies, and of similarities between regions.

    With features f of the student and g of the average: L = dice_ce(x_l, y_l) + ramp(t) [MSE(p, q)
    + `frequency_loss`(f, g) + sum_V MSE(S_V(f), S_V(g))], S_V the cosines between the mean features of V x V regions.

    Follows the release: all rows, no noise on the input, weight 0.1 rising over the whole run. Grids of regions are 8,
    6 and 4 an axis.

    Target: the average's softmax, features by frequency, and cosines between regions.

    Differs: it works on the last decoder map of any network. Left out: SegFormer with prompts, and the learnt
    attention over frequency bands. Plain cosine transforms keep distances, so without it a band's gap is relative to
    its energy. The release's grids are 32, 24 and 16 an axis in 2-D.
    """

    heads: ClassVar[tuple[Head, ...]] = ("features",)
    family: ClassVar[str] = "consistency"
    citation: ClassVar[str] = "He & Li, MICCAI 2024, FRCNet: Frequency and region consistency"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(length=1.0))
    noise: GaussianNoise = field(default_factory=lambda: GaussianNoise(std=0.0))
    regions: tuple[int, ...] = (8, 6, 4)
    frequencies: int = 32  # an axis, at most
    low: float = 0.25  # fraction of them, an axis, in the low band

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        student_out = nets.student(batch.image)
        with torch.no_grad():
            teacher_out = nets.teacher(self.noise(batch.image, step.generator))
        student, teacher = student_out.features, teacher_out.features
        region_losses = [mse(region_similarity(student, v), region_similarity(teacher, v)).mean() for v in self.regions]
        weight = self.ramp(step)
        return LossTerms(
            supervised=dice_ce(student_out.logits[: batch.count], batch.label),
            consistency=weight * mse(probabilities(student_out.logits), probabilities(teacher_out.logits)).mean(),
            frequency=weight * frequency_loss(student, teacher, side=self.frequencies, low=self.low),
            regions=weight * torch.stack(region_losses).sum(),
        )


def region_similarity(features: Tensor, side: int) -> Tensor:
    """[N, V, V]: cosines between the mean features of regions."""
    unit = F.normalize(region_means(features, side).flatten(2), dim=1)
    return unit.transpose(1, 2) @ unit


def cosine_transform(x: Tensor) -> Tensor:
    """The orthonormal DCT-II of [N, F, *space] over *space*."""
    for axis, size in enumerate(x.shape[2:], 2):
        index = torch.arange(size, device=x.device, dtype=x.dtype)
        basis = torch.cos(math.pi / size * (index + 0.5) * index[:, None]) * math.sqrt(2 / size)
        basis[0] *= math.sqrt(0.5)
        x = (x.movedim(axis, -1) @ basis.T).movedim(-1, axis)
    return x


def frequency_loss(student: Tensor, teacher: Tensor, *, side: int, low: float) -> Tensor:
    """Scalar: sum((F - G)^2) / sum(G^2), mean of the low and the high band; F and G are cosine transforms.

    student, teacher [N, F, *space] are reduced to at most `side` cells an axis; `low` is the fraction of frequencies,
    an axis, in the low band.
    """
    spectrum, target = (cosine_transform(region_means(x, side)) for x in (student, teacher))
    low_band = torch.zeros(spectrum.shape[2:], dtype=torch.bool, device=spectrum.device)
    low_band[tuple(slice(max(1, round(low * size))) for size in low_band.shape)] = True
    error, energy = (spectrum - target).square(), target.square()
    ratios = [(error * band).sum() / (energy * band).sum().clamp_min(1e-6) for band in (low_band, ~low_band)]
    return torch.stack(ratios).mean()
