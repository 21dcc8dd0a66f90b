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
    """Inspired by confident learning: labels that the teacher contradicts are moved to its class.

    With label errors E (`label_errors`) and the mean q of `passes` noisy predictions of the teacher:
    y' = y + a E (1 - H(q) / ln C) (argmax(q) - y), L = dice_ce(x_l, y') + ramp(t) MSE(p_u, q_u).

    a = `amount` is the fraction of the way from label to prediction (0.8; 1 is a hard replacement); it ramps up, as the
    teacher is wrong early in the run. The factor with the entropy is used with `by_doubt`.

    Target: the average's softmax of a noisy view; labels are corrected by its mean of six noisy predictions.

    Differs: the survey's work (Huang et al.) was not readable; the nearest code, MTCL, is followed: errors by
    confident learning on the mean of six predictions. There smoothed labels are cast to integers, so that only errors
    of the foreground are ever corrected; here they stay soft.
    """

    inspired: ClassVar[bool] = True
    family: ClassVar[str] = "label noise"
    citation: ClassVar[str] = "Huang et al. (survey); MTCL: Xu et al., TMI 2022, Anti-interference from noisy labels"
    amount: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=0.8, length=0.4))
    passes: int = 6
    by_doubt: bool = True  # less correction where the entropy of the teacher is high

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        q = mc_probabilities(nets.teacher, batch.labelled, self.noise, step.generator, num_passes=self.passes).mean(0)
        errors = label_errors(batch.label, q).unsqueeze(1)
        fraction = self.amount(step) * errors.to(q.dtype)
        if self.by_doubt:
            fraction = fraction * (1 - entropy(q) / math.log(q.shape[1]))
        label = torch.lerp(onehot(batch.label, q.shape[1]).to(q.dtype), argmax_one_hot(q).to(q.dtype), fraction)
        target = predict_probabilities(nets.teacher, self.noise(batch.unlabelled, step.generator))
        logits = nets.student(batch.image).logits
        terms = LossTerms(
            supervised=dice_ce(logits[: batch.count], label),
            consistency=self.ramp(step) * mse(probabilities(logits[batch.count :]), target).mean(),
        )
        terms.notes["corrected"] = errors.to(q.dtype).mean()
        return terms
