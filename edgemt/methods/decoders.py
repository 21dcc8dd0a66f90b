"""One encoder, several readings of it: coarser scales, disturbed features, decoders that resample otherwise.

Shapes: N batch, L labelled, U unlabelled, C classes, *space 2 or 3 axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import permutations
from typing import ClassVar

import torch
from torch import Tensor

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import dice_ce, kl, mse, probabilities, weighted_mean
from edgemt.learning.method import Method, Terms, every_decoder, every_scale
from edgemt.learning.perturbations import FeatureDrop, FeatureDropout, FeatureNoise
from edgemt.learning.pseudo_labels import sharpen
from edgemt.learning.roles import Players
from edgemt.learning.schedules import Ramp
from edgemt.methods.as_published import CONSTANT, SSL4MIS, Published

Feature = Callable[[Tensor, torch.Generator | None], Tensor]


@dataclass(frozen=True)
class PyramidConsistency(Method):
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
    release: ClassVar[Published | None] = SSL4MIS
    citation: ClassVar[str] = "Luo et al., MICCAI 2021, Uncertainty rectified pyramid consistency"
    ramp: Ramp = field(default_factory=Ramp)
    dropout: FeatureDropout = field(default_factory=lambda: FeatureDropout(rate=0.5, channels=False))
    drop: FeatureDrop = field(default_factory=FeatureDrop)
    noise: FeatureNoise = field(default_factory=FeatureNoise)
    rates: tuple[float, ...] = (0.5, 0.3, 0.2)  # of channels dropped in volumes, coarsest level first

    def disturbed(self, level: int, feature: Tensor, generator: torch.Generator | None) -> Tensor:
        """A map of the decoder, level 0 the coarsest, as its head reads it; levels beyond the third are left clean."""
        slices: tuple[Feature, ...] = (self.dropout, self.drop, self.noise)
        volumes = tuple(FeatureDropout(rate=rate) for rate in self.rates)
        ways = slices if feature.ndim == 4 else volumes
        return ways[level](feature, generator) if level < len(ways) else feature

    def losses(self, nets: Players, batch: Batch, step: Step) -> Terms:
        def disturb(level: int, feature: Tensor) -> Tensor:
            return self.disturbed(level, feature, step.generator)

        out = nets.student(batch.image, disturb_scales=disturb)
        scales = every_scale(out)
        known = [dice_ce(logits[: batch.count], batch.label) for logits in scales]
        terms = Terms(supervised=torch.stack(known).mean())
        if len(batch.unlabelled):
            every = [probabilities(logits[batch.count :]) for logits in scales]
            middle, gaps = torch.stack(every).mean(0), []
            for p in every:
                doubt = kl(p.clamp_min(1e-8).log(), middle)
                gaps.append(weighted_mean(mse(p, middle), torch.exp(-doubt)) + doubt.mean())
            terms["consistency"] = self.ramp(step) * torch.stack(gaps).mean()
        return terms


@dataclass(frozen=True)
class CrossConsistency(Method):
    """A decoder that reads disturbed features should say what it says of the clean ones.

    The three disturbances of the port of SSL4MIS, at its weight.

    Target: the student's own softmax of the clean features.

    Differs: in SSL4MIS each disturbance has a decoder of its own, labels teach all of them and the clean prediction is
    taught too; here one decoder reads every version of what was encoded once, labels teach the clean reading, and the
    clean prediction is a target, as in the authors' code (which has 22 auxiliary decoders and weight 30, for natural
    images).
    """

    heads: ClassVar[tuple[Head, ...]] = ("disturb",)
    release: ClassVar[Published | None] = SSL4MIS
    citation: ClassVar[str] = "Ouali et al., CVPR 2020, Semi-supervised segmentation with cross-consistency training"
    ramp: Ramp = field(default_factory=Ramp)
    noise: FeatureNoise = field(default_factory=FeatureNoise)
    dropout: FeatureDropout = field(default_factory=lambda: FeatureDropout(rate=0.3, channels=False))
    drop: FeatureDrop = field(default_factory=FeatureDrop)

    def losses(self, nets: Players, batch: Batch, step: Step) -> Terms:
        ways: tuple[Feature, ...] = (self.noise, self.dropout, self.drop)

        def disturb(feature: Tensor) -> Tensor:
            free = feature[batch.count :]
            return torch.cat([feature, *(way(free, step.generator) for way in ways)])

        if not len(batch.unlabelled):
            return Terms(supervised=dice_ce(nets.student(batch.labelled).logits, batch.label))
        said = nets.student(batch.image, disturb=disturb).logits.split([len(batch.image), *[len(batch.unlabelled)] * 3])
        clean = probabilities(said[0][batch.count :].detach())
        gaps = [mse(probabilities(logits), clean).mean() for logits in said[1:]]
        return Terms(
            supervised=dice_ce(said[0][: batch.count], batch.label),
            consistency=self.ramp(step) * torch.stack(gaps).mean(),
        )


@dataclass(frozen=True)
class MutualDecoders(Method):
    """MC-Net: decoders of one encoder learn from each other's sharpened predictions, on every image.

    Follows the release: one further decoder, all rows, weight 1, temperature 0.1, and the first decoder is what is
    kept.

    Target: the other decoder's sharpened softmax, trusted everywhere.

    Differs: targets carry no gradient, sharpening is renormalised over classes, and labels are learnt with Dice and
    cross-entropy.
    """

    heads: ClassVar[tuple[Head, ...]] = ("decoder2",)
    release: ClassVar[Published | None] = CONSTANT
    citation: ClassVar[str] = "Wu et al., MICCAI 2021, Semi-supervised left atrium segmentation with mutual consistency"
    ramp: Ramp = field(default_factory=lambda: Ramp(top=1.0))
    temperature: float = 0.1

    def losses(self, nets: Players, batch: Batch, step: Step) -> Terms:
        out = nets.student(batch.image)
        every = every_decoder(out)
        known = [dice_ce(logits[: batch.count], batch.label) for logits in every]
        p = [probabilities(logits) for logits in every]
        q = [sharpen(said, temperature=self.temperature) for said in p]
        gaps = [mse(p[i], q[j]).mean() for i, j in permutations(range(len(p)), 2)]
        return Terms(supervised=torch.stack(known).sum(), mutual=self.ramp(step) * torch.stack(gaps).sum())


@dataclass(frozen=True)
class MutualThreeDecoders(MutualDecoders):
    """MC-Net with a third decoder, which resamples by nearest neighbours: six pairs learn from each other.

    Target: each other decoder's sharpened softmax, trusted everywhere.

    Differs: as with two decoders: targets carry no gradient, sharpening is renormalised over classes, and labels are
    learnt with Dice and cross-entropy.
    """

    heads: ClassVar[tuple[Head, ...]] = ("decoder2", "decoder3")
    citation: ClassVar[str] = "Wu et al., Medical Image Analysis 2022, Mutual consistency learning (MC-Net+)"
