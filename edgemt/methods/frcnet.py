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
from edgemt.learning.auxiliary_tasks import pooled
from edgemt.learning.losses import dice_ce, mse, probabilities
from edgemt.learning.method import LossTerms
from edgemt.learning.perturbations import GaussianNoise
from edgemt.learning.roles import Networks
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class FRCNet(StudentTeacher):
    """FRCNet: student and teacher agree in classes, frequencies of features, and which regions are alike.

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
    low: float = 0.25  # share of them, an axis, in the low band

    def compared(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        said = nets.student(batch.image)
        with torch.no_grad():
            wise = nets.teacher(self.noise(batch.image, step.generator))
        mine, theirs = said.features, wise.features
        alike = [mse(region_similarity(mine, v), region_similarity(theirs, v)).mean() for v in self.regions]
        weight = self.ramp(step)
        return LossTerms(
            supervised=dice_ce(said.logits[: batch.count], batch.label),
            consistency=weight * mse(probabilities(said.logits), probabilities(wise.logits)).mean(),
            frequency=weight * frequency_gap(mine, theirs, side=self.frequencies, low=self.low),
            regions=weight * torch.stack(alike).sum(),
        )


def region_similarity(features: Tensor, side: int) -> Tensor:
    """[N, V, V]: cosines between the mean features of regions."""
    unit = F.normalize(pooled(features, side).flatten(2), dim=1)
    return unit.transpose(1, 2) @ unit


def cosine_transform(x: Tensor) -> Tensor:
    """The orthonormal DCT-II of [N, F, *space] over *space*."""
    for axis, size in enumerate(x.shape[2:], 2):
        place = torch.arange(size, device=x.device, dtype=x.dtype)
        wave = torch.cos(math.pi / size * (place + 0.5) * place[:, None]) * math.sqrt(2 / size)
        wave[0] *= math.sqrt(0.5)
        x = (x.movedim(axis, -1) @ wave.T).movedim(-1, axis)
    return x


def frequency_gap(mine: Tensor, theirs: Tensor, *, side: int, low: float) -> Tensor:
    """Scalar: squared gap over energy, mean of the low and the high band of the cosine transform."""
    wave, target = (cosine_transform(pooled(x, side)) for x in (mine, theirs))
    edge = torch.zeros(wave.shape[2:], dtype=torch.bool, device=wave.device)
    edge[tuple(slice(max(1, round(low * size))) for size in edge.shape)] = True
    gap, energy = (wave - target).square(), target.square()
    bands = [(gap * band).sum() / (energy * band).sum().clamp_min(1e-6) for band in (edge, ~edge)]
    return torch.stack(bands).mean()
