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
    """Inspired by adaptive feature aggregation: each decoder depth follows the teacher's depths joined.

    The teacher's scales are put together voxel by voxel, each by how sure it is there (e^-H), and a second task, the
    signed distance, is learnt from labels and followed beside it.

    Target: the average's scales joined by certainty, and its signed distances.

    Differs: of the paper only a survey's sentence is known; weights are ours, that of the distance is DTC's.
    """

    inspired: ClassVar[bool] = True
    heads: ClassVar[tuple[Head, ...]] = ("sdf", "scales")
    family: ClassVar[str] = "several tasks"
    citation: ClassVar[str] = "Inspired by multi-task mean teachers with adaptive feature aggregation (survey)"
    shape: float = 0.3  # of the distance on labelled rows, as in DTC

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        out, count, weight = nets.student(batch.image), batch.count, self.ramp(step)
        with torch.no_grad():
            wise = nets.teacher(self.noise(batch.unlabelled, step.generator))
            target = entropy_weighted_mean(torch.stack([probabilities(x) for x in every_scale(wise)]))
        scales = every_scale(out)
        truth = signed_distance(batch.label, classes=target.shape[1])
        gaps = [mse(probabilities(x[count:]), target).mean() for x in scales]
        return LossTerms(
            supervised=torch.stack([dice_ce(x[:count], batch.label) for x in scales]).mean(),
            distance=self.shape * (out.sdf[:count] - truth).square().mean(),
            consistency=weight * torch.stack(gaps).mean(),
            far=weight * (out.sdf[count:] - wise.sdf).square().mean(),
        )
