"""Label correction by confident learning."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from edgemt.contract import Batch, Step
from edgemt.learning.losses import dice_ce, entropy, mse, onehot, probabilities
from edgemt.learning.method import LossTerms
from edgemt.learning.pseudo_labels import argmax_one_hot, label_errors, mc_probabilities, predict_probabilities
from edgemt.learning.roles import Networks
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class LabelCorrection(StudentTeacher):
    """Inspired by confident-learning correction: labels that the teacher contradicts are moved its way.

    `amount` is how far (0.8 of the way, 1 is its hard form), less where the teacher doubts (`by_doubt`). The move
    ramps up, as a young teacher is wrong.

    Target: the average's softmax of a noisy view; labels are corrected by its mean of six looks.

    Differs: the survey's work (Huang et al.) was not readable; the nearest code, MTCL, is followed: errors by
    confident learning on the mean of six looks. There smoothed labels are cast to integers, so that only errors of the
    foreground are ever corrected; here they stay soft.
    """

    inspired: ClassVar[bool] = True
    family: ClassVar[str] = "label noise"
    citation: ClassVar[str] = "Huang et al. (survey); MTCL: Xu et al., TMI 2022, Anti-interference from noisy labels"
    amount: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=0.8, length=0.4))
    passes: int = 6
    by_doubt: bool = True

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        seen = mc_probabilities(nets.teacher, batch.labelled, self.noise, step.generator, num_passes=self.passes).mean(
            0
        )
        errors = label_errors(batch.label, seen).unsqueeze(1)
        move = self.amount(step) * errors.to(seen.dtype)
        if self.by_doubt:
            move = move * (1 - entropy(seen) / math.log(seen.shape[1]))
        label = torch.lerp(onehot(batch.label, seen.shape[1]).to(seen.dtype), argmax_one_hot(seen).to(seen.dtype), move)
        target = predict_probabilities(nets.teacher, self.noise(batch.unlabelled, step.generator))
        logits = nets.student(batch.image).logits
        terms = LossTerms(
            supervised=dice_ce(logits[: batch.count], label),
            consistency=self.ramp(step) * mse(probabilities(logits[batch.count :]), target).mean(),
        )
        terms.notes["corrected"] = errors.to(seen.dtype).mean()
        return terms
