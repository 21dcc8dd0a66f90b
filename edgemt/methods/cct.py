"""CCT: cross-consistency training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import dice_ce, mse, probabilities
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations.features import AttentionDrop, FeatureDropout, FeatureNoise, FeatureTransform
from edgemt.learning.published_settings import SSL4MIS, PublishedSettings
from edgemt.learning.roles import Networks
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class CCT(Method):
    """CCT: the decoder must give the same prediction for perturbed features as for the clean ones.

    L = dice_ce(x_l, y_l) + ramp(t) mean_k MSE(p(f_k(z_u)), p(z_u)), z the encoder's features and f_k the three
    perturbations (noise, dropout, attention drop) of the port of SSL4MIS, at its weight.

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
        transforms: tuple[FeatureTransform, ...] = (self.noise, self.dropout, self.drop)

        def disturb(feature: Tensor) -> Tensor:
            unlabelled = feature[batch.count :]
            return torch.cat([feature, *(transform(unlabelled, step.generator) for transform in transforms)])

        if not len(batch.unlabelled):
            return LossTerms(supervised=dice_ce(nets.student(batch.labelled).logits, batch.label))
        logits, *perturbed = nets.student(batch.image, disturb=disturb).logits.split(
            [len(batch.image), *[len(batch.unlabelled)] * len(transforms)]
        )
        target = probabilities(logits[batch.count :].detach())
        consistency_losses = [mse(probabilities(one), target).mean() for one in perturbed]
        return LossTerms(
            supervised=dice_ce(logits[: batch.count], batch.label),
            consistency=self.ramp(step) * torch.stack(consistency_losses).mean(),
        )
