"""MS-MT: multi-scale mean teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import dice_ce, mse, probabilities
from edgemt.learning.method import LossTerms, every_scale
from edgemt.learning.roles import Networks
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class MSMT(StudentTeacher):
    """Inspired by MS-MT: supervision and mean-teacher consistency at every scale of the decoder.

    L = mean_s dice_ce(s_l, y_l) + ramp(t) mean_s MSE(p_s, q_s), p_s and q_s the softmax of scale s of student and
    average.

    Target: the average's softmax at each scale, trusted everywhere.

    Differs: of the paper only the abstract was readable: deep supervision and consistency at several scales, all
    with equal weights here. Its translation between modalities beforehand (CUT) is not part of a training step.
    """

    inspired: ClassVar[bool] = True
    heads: ClassVar[tuple[Head, ...]] = ("scales",)
    family: ClassVar[str] = "consistency"
    citation: ClassVar[str] = "Zhao et al., crossMoDA 2022, MS-MT: Multi-scale mean teacher"

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        student_out, count = nets.student(batch.image), batch.count
        with torch.no_grad():
            teacher_out = nets.teacher(self.noise(batch.unlabelled, step.generator))
        scales = list(zip(every_scale(student_out), every_scale(teacher_out), strict=True))
        consistency_losses = [
            mse(probabilities(student[count:]), probabilities(teacher)).mean() for student, teacher in scales
        ]
        return LossTerms(
            supervised=torch.stack([dice_ce(student[:count], batch.label) for student, _ in scales]).mean(),
            consistency=self.ramp(step) * torch.stack(consistency_losses).mean(),
        )
