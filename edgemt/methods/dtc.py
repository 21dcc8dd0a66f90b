"""DTC: dual-task consistency."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from edgemt.contract import Batch, Head, Step
from edgemt.learning.auxiliary_tasks import mask_of, two_tasks
from edgemt.learning.losses import mse, probabilities
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.published_settings import VOLUMES, PublishedSettings
from edgemt.learning.roles import Networks
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class DTC(Method):
    """The mask that follows from predicted distances and the predicted mask should agree, on every image.

    Follows the release: steepness 1500, weight 1, distance weight 0.3, all rows. So steep, the gradient reaches the
    distances only within a fraction of a voxel of the predicted surface; 50 to 200 is a fair thing to try.

    Target: the student's own mask, by its other head.

    Differs: classes have one distance map each and labels are learnt with Dice and cross-entropy, where the release
    has one class and Dice alone. The ramp is the first 0.4 of the run where theirs is all of it.
    """

    heads: ClassVar[tuple[Head, ...]] = ("sdf",)
    release: ClassVar[PublishedSettings | None] = VOLUMES
    family: ClassVar[str] = "several tasks"
    citation: ClassVar[str] = "Luo et al., AAAI 2021, Semi-supervised segmentation through dual-task consistency"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=1.0))
    shape: float = 0.3
    steepness: float = 1500.0

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        out = nets.student(batch.image)
        gap = mse(mask_of(out.sdf, steepness=self.steepness), probabilities(out.logits)[:, 1:]).mean()
        return LossTerms(**two_tasks(out, batch, shape=self.shape), consistency=self.ramp(step) * gap)
