"""Dual teacher, and three teachers: weight averages of different decay."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from edgemt.contract import Batch, Step
from edgemt.learning.losses import dice_ce, kl, mse, probabilities, weighted_mean
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations import GaussianNoise
from edgemt.learning.pseudo_labels import entropy_weighted_mean, predict_probabilities
from edgemt.learning.roles import Ema, Networks, Role, Trainable
from edgemt.learning.schedules import SigmoidRampUp

TEACHERS = ("teacher", "tutor", "elder", "sage")


def teacher_agreement(looks: Tensor) -> tuple[Tensor, Tensor]:
    """[T, N, C, *space] -> what the guides say together, and a weight [N, 1, *space] that falls as they part.

    The weight is e^-KL, from each guide to what they say together, where all name the same class, and 0 elsewhere.
    """
    target = entropy_weighted_mean(looks)
    apart = torch.stack([kl(target.clamp_min(1e-8).log(), look) for look in looks]).mean(0)
    labels = looks.argmax(2)
    same = torch.stack([a == b for a, b in pairwise(labels)]).all(0).unsqueeze(1)
    return target, same * (-apart).exp()


@dataclass(frozen=True)
class DualTeacher(Method):
    """Inspired by the dual teacher: two averages, of short and of long memory, trusted where they agree.

    Target: what both averages say together, trusted by e^-KL where they name the same class.

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
        guides = {name: Ema(decay=decay) for name, decay in zip(TEACHERS, self.decays, strict=False)}
        return {"student": Trainable(), **guides}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        logits = nets.student(batch.image).logits
        terms = LossTerms(supervised=dice_ce(logits[: batch.count], batch.label))
        if len(batch.unlabelled):
            guides = TEACHERS[: len(self.decays)]
            looks = [predict_probabilities(nets[name], self.noise(batch.unlabelled, step.generator)) for name in guides]
            target, weight = teacher_agreement(torch.stack(looks))
            gap = weighted_mean(mse(probabilities(logits[batch.count :]), target), weight)
            terms["consistency"] = self.ramp(step) * gap
            terms.notes["accepted"] = weight.mean()
        return terms


@dataclass(frozen=True)
class ThreeTeachers(DualTeacher):
    """Inspired by three teachers: averages of short, middle and long memory vote, each as it is certain.

    Target: what the three averages say together, trusted by e^-KL where they name the same class.

    Differs: only the survey's sentence is known: three teachers guide one student. What sets them apart, decay and
    noise here, is our choice.
    """

    citation: ClassVar[str] = "Qiu et al., three teachers, as the survey names it"
    decays: tuple[float, ...] = (0.9, 0.99, 0.999)
