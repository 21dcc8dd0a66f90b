"""COPLE-Net: noise-robust Dice and an adaptive teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from edgemt.contract import Batch, Step
from edgemt.learning.losses import mse, noise_robust_dice, onehot, probabilities, weighted_mean
from edgemt.learning.method import LossTerms
from edgemt.learning.pseudo_labels import predict_probabilities
from edgemt.learning.roles import Ema, LossGatedEma, Memory, Networks, Role
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class COPLENet(StudentTeacher):
    """Inspired by COPLE: a Dice that bears wrong labels, a teacher wary of bad steps, followed if better.

    On labelled rows the student follows where the teacher is nearer to the label, on the others everywhere, times the
    share of such voxels.

    Target: the average's softmax; the average takes little from a student whose loss stands out.

    Differs: the loss is the release's (gamma 1.5); its training loop was never released and the paper was not
    readable, so the thresholds of teacher and student are ours: the average takes less from a student whose loss
    stands out among the last hundred (`LossGatedEma`). Left out: its network.
    """

    inspired: ClassVar[bool] = True
    family: ClassVar[str] = "label noise"
    citation: ClassVar[str] = "Wang et al., TMI 2020, A noise-robust framework for COVID-19 lesions (COPLE-Net)"
    ema: Ema = field(default_factory=lambda: LossGatedEma(record="record"))
    power: float = 1.5

    def roles(self) -> dict[str, Role]:
        return {**super().roles(), "record": Memory(size=100, features=1, classes=1)}

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        p = probabilities(nets.student(batch.image).logits)
        target = predict_probabilities(nets.teacher, self.noise(batch.image, step.generator))
        mine, theirs = p[: batch.count], target[: batch.count]
        truth = onehot(batch.label, p.shape[1])
        supervised = noise_robust_dice(mine, truth, gamma=self.power)
        nets.record.push(supervised.detach().view(1, 1), label=0)
        better = (mse(theirs, truth) < mse(mine.detach(), truth)).to(p.dtype)
        gap = weighted_mean(mse(mine, theirs), better)
        gap = gap + better.mean() * mse(p[batch.count :], target[batch.count :]).mean()
        terms = LossTerms(supervised=supervised, consistency=self.ramp(step) * 0.5 * gap)
        terms.notes["accepted"] = better.mean()
        return terms
