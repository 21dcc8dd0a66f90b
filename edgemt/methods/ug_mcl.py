"""UG-MCL: uncertainty-guided mutual consistency of classes and signed distances."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from edgemt.contract import Batch, Head, Step
from edgemt.learning.auxiliary_tasks import mask_from_sdf
from edgemt.learning.losses import cross_entropy, dice, entropy, mse, onehot, probabilities, weighted_mean
from edgemt.learning.method import LossTerms
from edgemt.learning.pseudo_labels import mc_probabilities
from edgemt.learning.roles import Networks
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class UGMCL(StudentTeacher):
    """UG-MCL: the student follows a certain teacher, and its distances tell the same masks as its classes.

    Follows the release: 0.5 (cross-entropy + Dice + Dice of the mask that the distance gives), half the masked MSE as
    in UA-MT, the squared gap between the two tasks, weights 0.1 rising over the whole run, all rows. Masks are
    sigmoid(-1500 distance): steep, so that slopes reach a few voxels near a border.

    Target: the average's softmax, where several looks of it are certain; and the student's other task.

    Differs: one distance a foreground class, where the release has one for the background too; the bar is a share of
    ln C, where it has ln 2.
    """

    heads: ClassVar[tuple[Head, ...]] = ("sdf",)
    family: ClassVar[str] = "several tasks"
    citation: ClassVar[str] = "Zhang et al., AIIM 2023, Uncertainty-guided mutual consistency learning (UG-MCL)"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(length=1.0))
    passes: int = 8
    bar: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=1.0, start=0.75, length=1.0))
    steepness: float = 1500.0

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        out, count, weight = nets.student(batch.image), batch.count, self.ramp(step)
        p = probabilities(out.logits)
        mask = mask_from_sdf(out.sdf, steepness=self.steepness)
        seen = mc_probabilities(nets.teacher, batch.image, self.noise, step.generator, num_passes=self.passes + 1)
        doubt = entropy(seen[1:].mean(0))
        certain = (doubt <= self.bar(step) * math.log(p.shape[1])).to(p.dtype)
        truth = onehot(batch.label, p.shape[1])
        shape = dice(mask[:count], truth[:, 1:], background=True)
        terms = LossTerms(
            supervised=0.5 * (cross_entropy(out.logits[:count], batch.label) + dice(p[:count], truth)),
            supervised_shape=0.5 * shape,
            consistency=weight * 0.5 * weighted_mean(mse(p, seen[0]), certain),
            tasks=weight * mse(mask, p[:, 1:]).mean(),
        )
        terms.notes["accepted"] = certain.mean()
        return terms
