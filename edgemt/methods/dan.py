"""DAN: adversarial training with a discriminator of predictions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F

from edgemt.contract import Batch, Step
from edgemt.learning.auxiliary_tasks import discriminator
from edgemt.learning.losses import dice_ce, probabilities
from edgemt.learning.method import LossTerms, Method, OptimiserStep
from edgemt.learning.published_settings import SSL4MIS, PublishedSettings
from edgemt.learning.roles import Networks, Role, Trainable, evaluating
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class DAN(Method):
    """DAN: unlabelled predictions should look like labelled ones to a judge of (softmax, image).

    Follows SSL4MIS (weight 0.1 ramped up; Adam at a constant 1e-4 with betas 0.9 and 0.99; labelled 1 and unlabelled 0;
    no dropout in the discriminator while the student learns). The engine builds kind "discriminator", see
    `Discriminator`. The intensity of unlabelled rows is changed as often as that of labelled ones, or the discriminator
    would see the difference.

    Target: the discriminator's word "labelled".

    Differs: the discriminator judges the predictions of this step's one forward pass, where the release makes a second
    one in eval mode; any numbers of labelled and unlabelled rows are right.
    """

    alike: ClassVar[bool] = True
    release: ClassVar[PublishedSettings | None] = SSL4MIS
    family: ClassVar[str] = "adversarial"
    citation: ClassVar[str] = "Zhang et al., MICCAI 2017, Deep adversarial networks for biomedical segmentation"
    ramp: SigmoidRampUp = field(default_factory=SigmoidRampUp)
    rate: float = 1e-4  # of the discriminator

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "discriminator": discriminator(self.rate)}

    def steps(self, nets: Networks, batch: Batch, step: Step) -> Iterator[OptimiserStep]:
        count = batch.count
        if not len(batch.unlabelled):
            yield ("student",), LossTerms(supervised=dice_ce(nets.student(batch.labelled).logits, batch.label))
            return
        logits = nets.student(batch.image).logits
        p = probabilities(logits)
        with evaluating(nets.discriminator):
            judged = nets.discriminator(p[count:], batch.unlabelled)
        fooled = F.cross_entropy(judged, torch.ones(len(judged), dtype=torch.int64, device=p.device))
        yield (
            ("student",),
            LossTerms(supervised=dice_ce(logits[:count], batch.label), adversarial=self.ramp(step) * fooled),
        )
        judged = nets.discriminator(p.detach(), batch.image)
        truth = (torch.arange(len(judged), device=p.device) < count).long()
        yield ("discriminator",), LossTerms(discriminator=F.cross_entropy(judged, truth))
