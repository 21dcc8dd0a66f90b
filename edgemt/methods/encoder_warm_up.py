"""Pre-training of an encoder on the features of a frozen encoder, without labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from edgemt.contract import Batch, Step
from edgemt.learning.feature_term import FeatureTerm
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.roles import Frozen, Networks, Role, Trainable


@dataclass(frozen=True)
class EncoderWarmUp(Method):
    """Train an encoder from scratch to match the feature maps of a frozen encoder on every image; labels are not used.

    The player "student" is an encoder alone: image -> maps, finest first.
    """

    citation: ClassVar[str] = "Romero et al., ICLR 2015, FitNets (the hint stage before distillation)"
    feature: FeatureTerm = field(default_factory=lambda: FeatureTerm("fitnet"))

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), self.feature.source: Frozen(self.feature.source), **self.feature.roles()}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        teacher = None
        if self.feature.source == "teacher":
            with torch.no_grad():
                teacher = nets.teacher(batch.image)
        maps = self.feature.target_maps(nets, batch.image, teacher)
        space = batch.image.shape[2:]
        return LossTerms(feature=self.feature.loss(nets, nets.student(batch.image), maps, space=space))
