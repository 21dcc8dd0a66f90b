"""SASSNet: shape-aware adversarial training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F

from edgemt.contract import Batch, Head, Step
from edgemt.learning.auxiliary_tasks import discriminator, two_tasks
from edgemt.learning.method import LossTerms, Method, OptimiserStep
from edgemt.learning.published_settings import VOLUMES, PublishedSettings
from edgemt.learning.roles import Networks, Role, Trainable, evaluating
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class SASSNet(Method):
    """Distances of unlabelled images should look like those of labelled ones to a judge of both.

    Follows the release: distance weight 0.3, adversarial weight 0.01 as for 16 labels, 0.015 for 8; the discriminator,
    its optimiser and the treatment of intensity are those of `dan`.

    Target: the discriminator's word "labelled".

    Differs: the two-turn form of `dan`: the discriminator sees the predictions of this step's one forward pass. The
    ramp is the first 0.4 of the run where theirs is all of it.
    """

    heads: ClassVar[tuple[Head, ...]] = ("sdf",)
    alike: ClassVar[bool] = True
    release: ClassVar[PublishedSettings | None] = VOLUMES
    family: ClassVar[str] = "adversarial"
    citation: ClassVar[str] = "Li et al., MICCAI 2020, Shape-aware semi-supervised 3D semantic segmentation"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=0.01))
    shape: float = 0.3
    rate: float = 1e-4  # of the discriminator

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "discriminator": discriminator(self.rate)}

    def steps(self, nets: Networks, batch: Batch, step: Step) -> Iterator[OptimiserStep]:
        out = nets.student(batch.image)
        terms = two_tasks(out, batch, shape=self.shape)
        if not len(batch.unlabelled):
            yield ("student",), terms
            return
        # A judge takes a map a class: the background, which has no distance, gets one of zeros.
        seen = F.pad(out.sdf, (0, 0) * (out.sdf.ndim - 2) + (1, 0))
        with evaluating(nets.discriminator):
            judged = nets.discriminator(seen[batch.count :], batch.unlabelled)
        fooled = F.cross_entropy(judged, torch.ones(len(judged), dtype=torch.int64, device=judged.device))
        yield ("student",), LossTerms(**terms, adversarial=self.ramp(step) * fooled)
        judged = nets.discriminator(seen.detach(), batch.image)
        truth = (torch.arange(len(judged), device=judged.device) < batch.count).long()
        yield ("discriminator",), LossTerms(discriminator=F.cross_entropy(judged, truth))
