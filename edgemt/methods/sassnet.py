"""SASSNet: shape-aware adversarial training on signed-distance maps.

Shapes: N batch, C classes, *space 2 or 3 axes; a signed distance [N, C - 1, *space] is negative inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F

from edgemt.contract import Batch, Head, Step
from edgemt.learning.auxiliary_tasks import discriminator_role, dual_task_losses
from edgemt.learning.method import LossTerms, Method, OptimiserStep
from edgemt.learning.published_settings import VOLUMES, PublishedSettings
from edgemt.learning.roles import Networks, Role, Trainable, evaluating
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class SASSNet(Method):
    """SASSNet: signed distances of unlabelled images are trained to pass a discriminator as labelled ones.

    Step of the student: L = dice_ce(x_l, y_l) + shape MSE(sdf_l, SDF(y_l)) + ramp(t) CE(D(sdf_u, x_u), 1). Step of the
    discriminator D: CE(D(sdf, x), 1 for labelled rows and 0 for others).

    Follows the release: weight of the distances 0.3, adversarial weight 0.01 as for 16 labels, 0.015 for 8; the
    discriminator, its optimiser and the intensity augmentation are those of `dan`.

    Target: the discriminator's class "labelled".

    Differs: the two-step form of `dan`: the discriminator takes the predictions of this step's one forward pass. The
    ramp is the first 0.4 of the run where theirs is all of it.
    """

    heads: ClassVar[tuple[Head, ...]] = ("sdf",)
    matched_intensity: ClassVar[bool] = True
    release: ClassVar[PublishedSettings | None] = VOLUMES
    family: ClassVar[str] = "adversarial"
    citation: ClassVar[str] = "Li et al., MICCAI 2020, Shape-aware semi-supervised 3D semantic segmentation"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=0.01))
    shape: float = 0.3  # weight of the signed distances of labelled rows
    rate: float = 1e-4  # learning rate of the discriminator

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "discriminator": discriminator_role(self.rate)}

    def steps(self, nets: Networks, batch: Batch, step: Step) -> Iterator[OptimiserStep]:
        out = nets.student(batch.image)
        terms = dual_task_losses(out, batch, sdf_weight=self.shape)
        if not len(batch.unlabelled):
            yield ("student",), terms
            return
        # The discriminator takes one map a class: the background, which has no distance, gets a map of zeros.
        sdf = F.pad(out.sdf, (0, 0) * (out.sdf.ndim - 2) + (1, 0))
        with evaluating(nets.discriminator):
            scores = nets.discriminator(sdf[batch.count :], batch.unlabelled)
        adversarial_loss = F.cross_entropy(scores, torch.ones(len(scores), dtype=torch.int64, device=scores.device))
        yield ("student",), LossTerms(**terms, adversarial=self.ramp(step) * adversarial_loss)
        scores = nets.discriminator(sdf.detach(), batch.image)
        is_labelled = (torch.arange(len(scores), device=scores.device) < batch.count).long()
        yield ("discriminator",), LossTerms(discriminator=F.cross_entropy(scores, is_labelled))
