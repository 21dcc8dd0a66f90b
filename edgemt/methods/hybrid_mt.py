"""Hybrid dual mean teacher: two student-teacher pairs with double uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgemt.contract import Batch, Head, Step
from edgemt.learning.ema import Ema
from edgemt.learning.losses import (
    dice_ce,
    entropy,
    mse,
    probabilities,
)
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations.intensity import GaussianNoise
from edgemt.learning.pseudo_labels import entropy_weighted_mean, signed_distance
from edgemt.learning.roles import Networks, Role, Trainable
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.student_teacher import STUDENT_PAIR


@dataclass(frozen=True)
class HybridDualMeanTeacher(Method):
    """Hybrid dual mean teacher: two student-teacher pairs; the first student follows both teachers.

    With q the entropy-weighted mean of T noisy predictions of the teacher(s) and d their signed distances:
    L = dice_ce(x_l, y_l) + shape MSE(sdf_l, SDF(y_l)) + ramp(t) [mean((1 - H(q) / ln C) (p - q)^2)
    + mean(e^-var(d) (sdf - mean(d))^2)].

    Target: several noisy predictions of the teacher(s), combined by e^-entropy; masks are weighted by 1 - entropy,
    distances by e^-variance.

    Differs: in the paper the second pair takes slices, and the first takes its probabilities as input and its features
    besides; here both take the same image and meet in the target. The squared error between a distance and that of its
    own mask (0.1) is left out. The release scales the student's distance by 2 and not the teacher's; here both have the
    same scale.
    """

    heads: ClassVar[tuple[Head, ...]] = ("sdf",)
    delivers: ClassVar[str] = "teacher"
    family: ClassVar[str] = "several students"
    citation: ClassVar[str] = "Zhu et al., Hybrid dual mean-teacher network with double-uncertainty guidance"
    passes: int = 4
    noise: GaussianNoise = field(default_factory=lambda: GaussianNoise(std=0.02, clip=0.1))
    shape: float = 1.0  # weight of the signed distances of labelled rows
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(length=1.0))
    decay: float = 0.99

    def roles(self) -> dict[str, Role]:
        teachers = [Ema(of=(student,), decay=self.decay) for student in STUDENT_PAIR]
        return {"student": Trainable(), "peer": Trainable(init=1), "teacher": teachers[0], "tutor": teachers[1]}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        terms, count, rows = LossTerms(), batch.count, len(batch.unlabelled)
        out = {name: nets[name](batch.image) for name in STUDENT_PAIR}
        truth = signed_distance(batch.label, classes=out["student"].logits.shape[1])
        teachers = ("teacher", "tutor") if rows else ()
        predictions = [self.predict(nets[teacher], batch.unlabelled, step) for teacher in teachers]
        for name in STUDENT_PAIR:
            logits, sdf = out[name].logits, out[name].sdf
            sdf_loss = mse(sdf[:count], truth).mean()
            terms[f"supervised_{name}"] = dice_ce(logits[:count], batch.label) + self.shape * sdf_loss
            if rows:
                used = predictions if name == "student" else predictions[1:]
                probs, distances = (torch.cat([each[kind] for each in used]) for kind in (0, 1))
                target = entropy_weighted_mean(probs)
                confidence = 1.0 - entropy(target) / math.log(target.shape[1])
                mask_loss = (confidence * mse(probabilities(logits[count:]), target)).mean()
                sdf_error = (-distances.var(0, unbiased=False)).exp() * (sdf[count:] - distances.mean(0)).square()
                terms[f"consistency_{name}"] = self.ramp(step) * (mask_loss + sdf_error.mean())
        return terms

    @torch.no_grad()
    def predict(self, teacher: nn.Module, image: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Probabilities [T, U, C, *space] and distances [T, U, C - 1, *space] of T noisy views, in one forward pass."""
        out = teacher(self.noise(image.repeat(self.passes, *[1] * (image.ndim - 1)), step.generator))
        shape = (self.passes, len(image))
        return probabilities(out.logits).unflatten(0, shape), out.sdf.unflatten(0, shape)
