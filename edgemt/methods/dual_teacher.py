"""Dual teacher, and three teachers: weight averages of different decay."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from edgemt.contract import Batch, Step
from edgemt.learning.ema import Ema
from edgemt.learning.losses import dice_ce, kl, mse, probabilities, weighted_mean
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations.intensity import GaussianNoise
from edgemt.learning.pseudo_labels import entropy_weighted_mean, predict_probabilities
from edgemt.learning.roles import Networks, Role, Trainable
from edgemt.learning.schedules import SigmoidRampUp

TEACHERS = ("teacher", "tutor", "elder", "sage")


def teacher_agreement(probs: Tensor) -> tuple[Tensor, Tensor]:
    """[T, N, C, *space] -> combined probabilities [N, C, *space], and a weight [N, 1, *space] for their agreement.

    The target is the entropy-weighted mean; the weight is e^-D where all teachers predict the same class and 0
    elsewhere, D the mean of KL(teacher || target).
    """
    target = entropy_weighted_mean(probs)
    divergence = torch.stack([kl(target.clamp_min(1e-8).log(), p) for p in probs]).mean(0)
    labels = probs.argmax(2)
    same = torch.stack([a == b for a, b in pairwise(labels)]).all(0).unsqueeze(1)
    return target, same * (-divergence).exp()


@dataclass(frozen=True)
class DualTeacher(Method):
    """Inspired by the dual teacher: two weight averages of different decay, trusted where they agree.

    L = dice_ce(x_l, y_l) + ramp(t) sum(w (p - q)^2) / sum(w), target q and weight w of `teacher_agreement`.

    Target: the entropy-weighted mean of both averages, weighted by e^-KL where they predict the same class.

    Differs: the paper's teachers learn from 2-D and from 2-D with 3-D context and share one 2-D student; its weights
    are not published. Here both live in the space of the student and differ by decay and noise; the context of
    neighbouring slices is left out.
    """

    delivers: ClassVar[str] = "teacher"
    family: ClassVar[str] = "several teachers"
    citation: ClassVar[str] = "Zou et al., Dual teacher: 2-D and 3-D context for semi-supervised segmentation"
    inspired: ClassVar[bool] = True
    decays: tuple[float, ...] = (0.99, 0.999)
    noise: GaussianNoise = field(default_factory=GaussianNoise)
    ramp: SigmoidRampUp = field(default_factory=SigmoidRampUp)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= len(self.decays) <= len(TEACHERS):
            raise ValueError(f"decays: {self.decays} makes {len(self.decays)} teachers; give 2 to {len(TEACHERS)}")

    def roles(self) -> dict[str, Role]:
        teachers = {name: Ema(decay=decay) for name, decay in zip(TEACHERS, self.decays, strict=False)}
        return {"student": Trainable(), **teachers}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        logits = nets.student(batch.image).logits
        terms = LossTerms(supervised=dice_ce(logits[: batch.count], batch.label))
        if len(batch.unlabelled):
            teachers = TEACHERS[: len(self.decays)]
            probs = [
                predict_probabilities(nets[name], self.noise(batch.unlabelled, step.generator)) for name in teachers
            ]
            target, weight = teacher_agreement(torch.stack(probs))
            loss = weighted_mean(mse(probabilities(logits[batch.count :]), target), weight)
            terms["consistency"] = self.ramp(step) * loss
            terms.notes["accepted"] = weight.mean()
        return terms


@dataclass(frozen=True)
class ThreeTeachers(DualTeacher):
    """Inspired by three teachers: weight averages of short, medium and long memory, weighted by entropy.

    As `DualTeacher`, with three averages.

    Target: the entropy-weighted mean of three averages, weighted by e^-KL where they predict the same class.

    Differs: only the survey's sentence is known: three teachers guide one student. That they differ by decay and noise
    is our choice.
    """

    citation: ClassVar[str] = "Qiu et al., three teachers, as the survey names it"
    decays: tuple[float, ...] = (0.9, 0.99, 0.999)
