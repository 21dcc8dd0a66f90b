"""URPC: uncertainty-rectified pyramid consistency."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import dice_ce, kl, mse, probabilities, weighted_mean
from edgemt.learning.method import LossTerms, Method, every_scale
from edgemt.learning.perturbations.features import AttentionDrop, FeatureDropout, FeatureNoise, FeatureTransform
from edgemt.learning.published_settings import SSL4MIS, PublishedSettings
from edgemt.learning.roles import Networks
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class URPC(Method):
    """URPC: predictions of all decoder scales must agree with their mean, weighted by uncertainty.

    With p_s the softmax of scale s, p_mean their mean and D_s = KL(p_mean || p_s):
    L = mean_s dice_ce(s_l, y_l) + ramp(t) mean_s [sum(e^-D_s (p_s - p_mean)^2) / sum(e^-D_s) + mean(D_s)].

    Follows the release in SSL4MIS: gradients pass through p_mean, and D itself is minimised. The coarser heads get
    perturbed feature maps, coarsest first: for slices dropout of single places at 0.5, attention drop, multiplicative
    noise; for volumes channel dropout at 0.5, 0.3 and 0.2.

    Target: the mean softmax of all scales, weighted by e^-KL of each from it.

    Differs: the scales are the decoder's own levels, with 1x1 heads and linear upsampling; labels are learnt with Dice
    and cross-entropy, mean over scales. The release's network of volumes drops those channels on the decoder's way up
    too, and a tenth before the finest head; here the way up and the finest prediction stay clean, as in its slices.
    """

    heads: ClassVar[tuple[Head, ...]] = ("scales",)
    release: ClassVar[PublishedSettings | None] = SSL4MIS
    family: ClassVar[str] = "several decoders"
    citation: ClassVar[str] = "Luo et al., MICCAI 2021, Uncertainty rectified pyramid consistency"
    ramp: SigmoidRampUp = field(default_factory=SigmoidRampUp)
    dropout: FeatureDropout = field(default_factory=lambda: FeatureDropout(rate=0.5, channels=False))
    drop: AttentionDrop = field(default_factory=AttentionDrop)
    noise: FeatureNoise = field(default_factory=FeatureNoise)
    rates: tuple[float, ...] = (0.5, 0.3, 0.2)  # of channels dropped in volumes, coarsest level first

    def perturb(self, level: int, feature: Tensor, generator: torch.Generator | None) -> Tensor:
        """The input of the head of `level` (0 is the coarsest): its map, perturbed; unchanged from level 3 on."""
        slices: tuple[FeatureTransform, ...] = (self.dropout, self.drop, self.noise)
        volumes = tuple(FeatureDropout(rate=rate) for rate in self.rates)
        transforms = slices if feature.ndim == 4 else volumes
        return transforms[level](feature, generator) if level < len(transforms) else feature

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        def disturb(level: int, feature: Tensor) -> Tensor:
            return self.perturb(level, feature, step.generator)

        out = nets.student(batch.image, disturb_scales=disturb)
        scales = every_scale(out)
        supervised = [dice_ce(logits[: batch.count], batch.label) for logits in scales]
        terms = LossTerms(supervised=torch.stack(supervised).mean())
        if len(batch.unlabelled):
            probs = [probabilities(logits[batch.count :]) for logits in scales]
            p_mean, consistency_losses = torch.stack(probs).mean(0), []
            for p in probs:
                uncertainty = kl(p.clamp_min(1e-8).log(), p_mean)
                consistency_losses.append(weighted_mean(mse(p, p_mean), torch.exp(-uncertainty)) + uncertainty.mean())
            terms["consistency"] = self.ramp(step) * torch.stack(consistency_losses).mean()
        return terms
