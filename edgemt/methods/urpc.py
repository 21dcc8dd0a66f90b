"""URPC: uncertainty-rectified pyramid consistency."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import dice_ce, kl, mse, probabilities, weighted_mean
from edgemt.learning.method import LossTerms, Method, every_scale
from edgemt.learning.perturbations import AttentionDrop, FeatureDropout, FeatureNoise, FeatureTransform
from edgemt.learning.published_settings import SSL4MIS, PublishedSettings
from edgemt.learning.roles import Networks
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class URPC(Method):
    """Predictions of every scale agree with their mean, less so where a scale's KL from it shows doubt.

    Follows the release in SSL4MIS: the mean is no fixed target, and the doubt itself is minimised. The coarser heads
    read disturbed maps, coarsest first: for slices single places dropped at 0.5, the most active places silenced,
    multiplicative noise; for volumes channels dropped at 0.5, 0.3 and 0.2.

    Target: the mean softmax of all scales, trusted by e^-KL of each from it.

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

    def disturbed(self, level: int, feature: Tensor, generator: torch.Generator | None) -> Tensor:
        """A map of the decoder, level 0 the coarsest, as its head reads it; levels beyond the third are left clean."""
        slices: tuple[FeatureTransform, ...] = (self.dropout, self.drop, self.noise)
        volumes = tuple(FeatureDropout(rate=rate) for rate in self.rates)
        ways = slices if feature.ndim == 4 else volumes
        return ways[level](feature, generator) if level < len(ways) else feature

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        def disturb(level: int, feature: Tensor) -> Tensor:
            return self.disturbed(level, feature, step.generator)

        out = nets.student(batch.image, disturb_scales=disturb)
        scales = every_scale(out)
        known = [dice_ce(logits[: batch.count], batch.label) for logits in scales]
        terms = LossTerms(supervised=torch.stack(known).mean())
        if len(batch.unlabelled):
            every = [probabilities(logits[batch.count :]) for logits in scales]
            middle, gaps = torch.stack(every).mean(0), []
            for p in every:
                doubt = kl(p.clamp_min(1e-8).log(), middle)
                gaps.append(weighted_mean(mse(p, middle), torch.exp(-doubt)) + doubt.mean())
            terms["consistency"] = self.ramp(step) * torch.stack(gaps).mean()
        return terms
