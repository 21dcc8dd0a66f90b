"""DAN: adversarial training with a discriminator of predictions.

Shapes: N batch, L labelled, U unlabelled, C classes, *space 2 or 3 axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F

from edgemt.contract import Batch, Step
from edgemt.learning.auxiliary_tasks import discriminator_role
from edgemt.learning.losses import dice_ce, probabilities
from edgemt.learning.method import LossTerms, Method, OptimiserStep
from edgemt.learning.published_settings import SSL4MIS, PublishedSettings
from edgemt.learning.roles import Networks, Role, Trainable, evaluating
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class DAN(Method):
    """DAN: predictions on unlabelled images are trained to pass a discriminator as labelled ones.

    Step of the student: L = dice_ce(x_l, y_l) + ramp(t) CE(D(p_u, x_u), 1). Step of the discriminator D:
    CE(D(p, x), 1 for labelled rows and 0 for others), with p without gradient.

    Follows SSL4MIS: weight 0.1 ramped up, Adam with a constant rate of 1e-4 and betas 0.9 and 0.99, no dropout in the
    discriminator during the step of the student. The engine builds kind "discriminator" (`Discriminator`). Intensity
    augmentation is applied to unlabelled rows as often as to labelled ones, or the discriminator would detect it.

    Target: the discriminator's class "labelled".

    Differs: the discriminator takes the predictions of this step's one forward pass, where the release makes a second
    one in eval mode; labels of the discriminator are right for any numbers of labelled and unlabelled rows.
    """

    matched_intensity: ClassVar[bool] = True
    release: ClassVar[PublishedSettings | None] = SSL4MIS
    family: ClassVar[str] = "adversarial"
    citation: ClassVar[str] = "Zhang et al., MICCAI 2017, Deep adversarial networks for biomedical segmentation"
    ramp: SigmoidRampUp = field(default_factory=SigmoidRampUp)
    rate: float = 1e-4  # learning rate of the discriminator

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "discriminator": discriminator_role(self.rate)}

    def steps(self, nets: Networks, batch: Batch, step: Step) -> Iterator[OptimiserStep]:
        count = batch.count
        if not len(batch.unlabelled):
            yield ("student",), LossTerms(supervised=dice_ce(nets.student(batch.labelled).logits, batch.label))
            return
        logits = nets.student(batch.image).logits
        p = probabilities(logits)
        with evaluating(nets.discriminator):
            scores = nets.discriminator(p[count:], batch.unlabelled)
        adversarial_loss = F.cross_entropy(scores, torch.ones(len(scores), dtype=torch.int64, device=p.device))
        yield (
            ("student",),
            LossTerms(
                supervised=dice_ce(logits[:count], batch.label),
                adversarial=self.ramp(step) * adversarial_loss,
            ),
        )
        scores = nets.discriminator(p.detach(), batch.image)
        is_labelled = (torch.arange(len(scores), device=p.device) < count).long()
        yield ("discriminator",), LossTerms(discriminator=F.cross_entropy(scores, is_labelled))
