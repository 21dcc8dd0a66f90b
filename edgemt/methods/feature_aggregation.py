"""Mean teacher with several decoder depths and a signed-distance head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import dice_ce, mse, probabilities
from edgemt.learning.method import LossTerms, every_scale
from edgemt.learning.pseudo_labels import entropy_weighted_mean, signed_distance
from edgemt.learning.roles import Networks
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class FeatureAggregation(StudentTeacher):
    """Inspired by adaptive feature aggregation: every decoder scale follows the teacher's combined scales.

    q = sum_s w_s q_s, w = softmax over scales of -H(q_s), voxel by voxel. L = mean_s dice_ce(s_l, y_l)
    + shape MSE(sdf_l, SDF(y_l)) + ramp(t) [mean_s MSE(p_s, q) + MSE(sdf_u, teacher's sdf)].

    Target: the average's scales combined by certainty, and its signed distances.

    Differs: of the paper only a survey's sentence is known; weights are ours, that of the distance is DTC's.
    """

    inspired: ClassVar[bool] = True
    heads: ClassVar[tuple[Head, ...]] = ("sdf", "scales")
    family: ClassVar[str] = "several tasks"
    citation: ClassVar[str] = "Inspired by multi-task mean teachers with adaptive feature aggregation (survey)"
    shape: float = 0.3  # weight of the distance on labelled rows, as in DTC

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        out, count, weight = nets.student(batch.image), batch.count, self.ramp(step)
        with torch.no_grad():
            teacher_out = nets.teacher(self.noise(batch.unlabelled, step.generator))
            target = entropy_weighted_mean(torch.stack([probabilities(x) for x in every_scale(teacher_out)]))
        scales = every_scale(out)
        truth = signed_distance(batch.label, classes=target.shape[1])
        consistency_losses = [mse(probabilities(x[count:]), target).mean() for x in scales]
        return LossTerms(
            supervised=torch.stack([dice_ce(x[:count], batch.label) for x in scales]).mean(),
            distance=self.shape * (out.sdf[:count] - truth).square().mean(),
            consistency=weight * torch.stack(consistency_losses).mean(),
            far=weight * (out.sdf[count:] - teacher_out.sdf).square().mean(),
        )
