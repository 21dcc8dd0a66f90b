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
from edgemt.renamed_fields import renamed_fields


@renamed_fields(entropy_threshold="bar")
@dataclass(frozen=True)
class UGMCL(StudentTeacher):
    """UG-MCL: mean teacher on voxels of low entropy, and agreement of the mask with the signed distances.

    With m = sigmoid(-1500 sdf) and the mask M of UA-MT: L = 0.5 (CE + Dice)(p_l, y_l) + 0.5 Dice(m_l, y_l)
    + ramp(t) [0.5 sum(M (p - q)^2) / sum(M) + MSE(m, p_foreground)], all rows.

    Follows the release: weight 0.1 rising over the whole run. The sigmoid is steep, so that gradients are non-zero only
    for voxels near a border.

    Target: the average's softmax where the entropy of its noisy predictions is low, and the student's other task.

    Differs: one distance a foreground class, where the release has one for the background too; the threshold is a
    fraction of ln C, where it has ln 2.
    """

    heads: ClassVar[tuple[Head, ...]] = ("sdf",)
    family: ClassVar[str] = "several tasks"
    citation: ClassVar[str] = "Zhang et al., AIIM 2023, Uncertainty-guided mutual consistency learning (UG-MCL)"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(length=1.0))
    passes: int = 8
    entropy_threshold: SigmoidRampUp = field(
        default_factory=lambda: SigmoidRampUp(top=1.0, start=0.75, length=1.0)
    )  # as a fraction of ln C
    steepness: float = 1500.0

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        out, count, weight = nets.student(batch.image), batch.count, self.ramp(step)
        p = probabilities(out.logits)
        mask = mask_from_sdf(out.sdf, steepness=self.steepness)
        probs = mc_probabilities(nets.teacher, batch.image, self.noise, step.generator, num_passes=self.passes + 1)
        uncertainty = entropy(probs[1:].mean(0))
        certain = (uncertainty <= self.entropy_threshold(step) * math.log(p.shape[1])).to(p.dtype)
        truth = onehot(batch.label, p.shape[1])
        sdf_loss = dice(mask[:count], truth[:, 1:], background=True)
        terms = LossTerms(
            supervised=0.5 * (cross_entropy(out.logits[:count], batch.label) + dice(p[:count], truth)),
            supervised_shape=0.5 * sdf_loss,
            consistency=weight * 0.5 * weighted_mean(mse(p, probs[0]), certain),
            tasks=weight * mse(mask, p[:, 1:]).mean(),
        )
        terms.notes["accepted"] = certain.mean()
        return terms
