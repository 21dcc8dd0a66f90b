"""Pi-model: consistency of two noisy predictions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from edgemt.contract import Batch, Step
from edgemt.learning.losses import dice_ce, mse, probabilities
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations.intensity import GaussianNoise
from edgemt.learning.roles import Networks
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class PiModel(Method):
    """Pi-model: two noisy predictions of one network for an unlabelled image must agree.

    L = dice_ce(x_l, y_l) + ramp(t) MSE(p(x_u + n1), p(x_u + n2)); dropout differs as well, and both have a gradient.

    Target: the student's other noisy prediction; both are trained.

    Differs: the paper classifies small photographs with a weight of its own kind; here are the weight and the ramp
    that segmentation uses, on unlabelled rows only.
    """

    family: ClassVar[str] = "self-consistency"
    citation: ClassVar[str] = "Laine & Aila, ICLR 2017, Temporal ensembling for semi-supervised learning (pi-model)"
    noise: GaussianNoise = field(default_factory=GaussianNoise)
    ramp: SigmoidRampUp = field(default_factory=SigmoidRampUp)

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        views = [self.noise(batch.unlabelled, step.generator) for _ in range(2)]
        logits = nets.student(torch.cat([batch.labelled, *views])).logits
        terms = LossTerms(supervised=dice_ce(logits[: batch.count], batch.label))
        if len(batch.unlabelled):
            p1, p2 = probabilities(logits[batch.count :]).chunk(2)
            terms["consistency"] = self.ramp(step) * mse(p1, p2).mean()
        return terms
