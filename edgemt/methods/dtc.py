"""DTC: dual-task consistency.

Shapes: N batch, C classes, *space 2 or 3 axes; a signed distance [N, C - 1, *space] is negative inside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from edgemt.contract import Batch, Head, Step
from edgemt.learning.auxiliary_tasks import dual_task_losses, mask_from_sdf
from edgemt.learning.losses import mse, probabilities
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.published_settings import VOLUMES, PublishedSettings
from edgemt.learning.roles import Networks
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class DTC(Method):
    """DTC: the mask computed from predicted signed distances must match the predicted mask, on all images.

    L = dice_ce(x_l, y_l) + shape MSE(sdf_l, SDF(y_l)) + ramp(t) MSE(sigmoid(-k sdf), p_foreground).

    Follows the release: steepness k 1500, weight 1, weight of the distances 0.3, all rows. With this steepness the
    gradient of the distances is non-zero only within a fraction of a voxel of the predicted surface; 50 to 200 is worth
    trying.

    Target: the student's own mask, by its other head.

    Differs: classes have one distance map each and labels are learnt with Dice and cross-entropy, where the release
    has one class and Dice alone. The ramp is the first 0.4 of the run where theirs is all of it.
    """

    heads: ClassVar[tuple[Head, ...]] = ("sdf",)
    release: ClassVar[PublishedSettings | None] = VOLUMES
    family: ClassVar[str] = "several tasks"
    citation: ClassVar[str] = "Luo et al., AAAI 2021, Semi-supervised segmentation through dual-task consistency"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=1.0))
    shape: float = 0.3  # weight of the signed distances of labelled rows
    steepness: float = 1500.0

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        out = nets.student(batch.image)
        consistency_loss = mse(
            mask_from_sdf(out.sdf, steepness=self.steepness), probabilities(out.logits)[:, 1:]
        ).mean()
        return LossTerms(
            **dual_task_losses(out, batch, sdf_weight=self.shape), consistency=self.ramp(step) * consistency_loss
        )
