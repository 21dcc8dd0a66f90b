"""CCT: cross-consistency training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import dice_ce, mse, probabilities
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations import AttentionDrop, FeatureDropout, FeatureNoise, FeatureTransform
from edgemt.learning.published_settings import SSL4MIS, PublishedSettings
from edgemt.learning.roles import Networks
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class CCT(Method):
    """A decoder that reads disturbed features should say what it says of the clean ones.

    The three disturbances of the port of SSL4MIS, at its weight.

    Target: the student's own softmax of the clean features.

    Differs: in SSL4MIS each disturbance has a decoder of its own, labels teach all of them and the clean prediction is
    taught too; here one decoder reads every version of what was encoded once, labels teach the clean reading, and the
    clean prediction is a target, as in the authors' code (which has 22 auxiliary decoders and weight 30, for natural
    images).
    """

    heads: ClassVar[tuple[Head, ...]] = ("disturb",)
    release: ClassVar[PublishedSettings | None] = SSL4MIS
    family: ClassVar[str] = "several decoders"
    citation: ClassVar[str] = "Ouali et al., CVPR 2020, Semi-supervised segmentation with cross-consistency training"
    ramp: SigmoidRampUp = field(default_factory=SigmoidRampUp)
    noise: FeatureNoise = field(default_factory=FeatureNoise)
    dropout: FeatureDropout = field(default_factory=lambda: FeatureDropout(rate=0.3, channels=False))
    drop: AttentionDrop = field(default_factory=AttentionDrop)

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        ways: tuple[FeatureTransform, ...] = (self.noise, self.dropout, self.drop)

        def disturb(feature: Tensor) -> Tensor:
            free = feature[batch.count :]
            return torch.cat([feature, *(way(free, step.generator) for way in ways)])

        if not len(batch.unlabelled):
            return LossTerms(supervised=dice_ce(nets.student(batch.labelled).logits, batch.label))
        said = nets.student(batch.image, disturb=disturb).logits.split([len(batch.image), *[len(batch.unlabelled)] * 3])
        clean = probabilities(said[0][batch.count :].detach())
        gaps = [mse(probabilities(logits), clean).mean() for logits in said[1:]]
        return LossTerms(
            supervised=dice_ce(said[0][: batch.count], batch.label),
            consistency=self.ramp(step) * torch.stack(gaps).mean(),
        )
