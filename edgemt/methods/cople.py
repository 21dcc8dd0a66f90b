"""COPLE-Net: noise-robust Dice and an adaptive teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from edgemt.contract import Batch, Step
from edgemt.learning.ema import Ema, LossGatedEma
from edgemt.learning.losses import mse, noise_robust_dice, onehot, probabilities, weighted_mean
from edgemt.learning.method import LossTerms
from edgemt.learning.pseudo_labels import predict_probabilities
from edgemt.learning.roles import Memory, Networks, Role
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class COPLENet(StudentTeacher):
    """Inspired by COPLE-Net: noise-robust Dice, and an adaptive teacher that discounts outlier losses.

    L = L_NR(p_l, y_l) + ramp(t) 0.5 [sum(B (p_l - q_l)^2) / sum(B) + mean(B) MSE(p_u, q_u)], L_NR `noise_robust_dice`
    and B the labelled voxels where the teacher q is closer to the label than the student p.

    Target: the average's softmax; the average moves little after a step whose loss is an outlier.

    Differs: the loss is the release's (gamma 1.5); its training loop was never released and the paper was not
    readable, so the thresholds of teacher and student are ours: the average takes less from a student whose loss
    is high among the last hundred (`LossGatedEma`). Left out: its network.
    """

    inspired: ClassVar[bool] = True
    family: ClassVar[str] = "label noise"
    citation: ClassVar[str] = "Wang et al., TMI 2020, A noise-robust framework for COVID-19 lesions (COPLE-Net)"
    ema: Ema = field(default_factory=lambda: LossGatedEma(record="record"))
    power: float = 1.5  # gamma

    def roles(self) -> dict[str, Role]:
        return {**super().roles(), "record": Memory(size=100, features=1, classes=1)}

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        p = probabilities(nets.student(batch.image).logits)
        target = predict_probabilities(nets.teacher, self.noise(batch.image, step.generator))
        student, teacher = p[: batch.count], target[: batch.count]
        truth = onehot(batch.label, p.shape[1])
        supervised = noise_robust_dice(student, truth, gamma=self.power)
        nets.record.push(supervised.detach().view(1, 1), label=0)
        better = (mse(teacher, truth) < mse(student.detach(), truth)).to(p.dtype)
        consistency_loss = weighted_mean(mse(student, teacher), better)
        consistency_loss = consistency_loss + better.mean() * mse(p[batch.count :], target[batch.count :]).mean()
        terms = LossTerms(supervised=supervised, consistency=self.ramp(step) * 0.5 * consistency_loss)
        terms.notes["accepted"] = better.mean()
        return terms
