"""Hybrid dual mean teacher: two student-teacher pairs with double uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import (
    dice_ce,
    entropy,
    mse,
    probabilities,
)
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations import GaussianNoise
from edgemt.learning.pseudo_labels import entropy_weighted_mean, signed_distance
from edgemt.learning.roles import Ema, Networks, Role, Trainable
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.student_teacher import STUDENT_PAIR


@dataclass(frozen=True)
class HybridDualMeanTeacher(Method):
    """Hybrid dual mean teacher, in one space: two pairs of student and teacher, one also hears the other.

    Each has a mask and a signed-distance head.

    Target: several noisy looks of the teacher(s), joined by e^-entropy; masks count by 1 - entropy, distances by
    e^-variance.

    Differs: in the paper the second pair sees slices, and the first takes its probabilities as input and its features
    besides; here both see the same image and meet in the target. The squared error between a distance and that of its
    own mask (0.1) is left out. The release scales the student's distance by 2 and not the teacher's; here they are
    alike.
    """

    heads: ClassVar[tuple[Head, ...]] = ("sdf",)
    delivers: ClassVar[str] = "teacher"
    family: ClassVar[str] = "several students"
    citation: ClassVar[str] = "Zhu et al., Hybrid dual mean-teacher network with double-uncertainty guidance"
    passes: int = 4
    noise: GaussianNoise = field(default_factory=lambda: GaussianNoise(std=0.02, clip=0.1))
    shape: float = 1.0  # of the signed distances on labelled rows
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(length=1.0))
    decay: float = 0.99

    def roles(self) -> dict[str, Role]:
        teachers = [Ema(of=(who,), decay=self.decay) for who in STUDENT_PAIR]
        return {"student": Trainable(), "peer": Trainable(init=1), "teacher": teachers[0], "tutor": teachers[1]}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        terms, count, rows = LossTerms(), batch.count, len(batch.unlabelled)
        out = {who: nets[who](batch.image) for who in STUDENT_PAIR}
        truth = signed_distance(batch.label, classes=out["student"].logits.shape[1])
        names = ("teacher", "tutor") if rows else ()
        heard = [self.looks(nets[name], batch.unlabelled, step) for name in names]
        for who in STUDENT_PAIR:
            logits, sdf = out[who].logits, out[who].sdf
            shape = mse(sdf[:count], truth).mean()
            terms[f"supervised_{who}"] = dice_ce(logits[:count], batch.label) + self.shape * shape
            if rows:
                told = heard if who == "student" else heard[1:]
                p, distances = (torch.cat([each[kind] for each in told]) for kind in (0, 1))
                target = entropy_weighted_mean(p)
                sure = 1.0 - entropy(target) / math.log(target.shape[1])
                gap = (sure * mse(probabilities(logits[count:]), target)).mean()
                steady = (-distances.var(0, unbiased=False)).exp() * (sdf[count:] - distances.mean(0)).square()
                terms[f"consistency_{who}"] = self.ramp(step) * (gap + steady.mean())
        return terms

    @torch.no_grad()
    def looks(self, teacher: nn.Module, image: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Masks [T, U, C, *space] and signed distances [T, U, C - 1, *space] of noisy looks, in one forward."""
        out = teacher(self.noise(image.repeat(self.passes, *[1] * (image.ndim - 1)), step.generator))
        apart = (self.passes, len(image))
        return probabilities(out.logits).unflatten(0, apart), out.sdf.unflatten(0, apart)
