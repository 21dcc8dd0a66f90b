"""MC-Net and MC-Net+: mutual consistency of decoders."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations
from typing import ClassVar

import torch

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import dice_ce, mse, probabilities
from edgemt.learning.method import LossTerms, Method, every_decoder
from edgemt.learning.pseudo_labels import sharpen
from edgemt.learning.published_settings import CONSTANT, PublishedSettings
from edgemt.learning.roles import Networks
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class MCNet(Method):
    """MC-Net: decoders of one encoder learn from each other's sharpened predictions, on every image.

    Follows the release: one further decoder, all rows, weight 1, temperature 0.1, and the first decoder is what is
    kept.

    Target: the other decoder's sharpened softmax, trusted everywhere.

    Differs: targets carry no gradient, sharpening is renormalised over classes, and labels are learnt with Dice and
    cross-entropy.
    """

    heads: ClassVar[tuple[Head, ...]] = ("decoder2",)
    release: ClassVar[PublishedSettings | None] = CONSTANT
    family: ClassVar[str] = "several decoders"
    citation: ClassVar[str] = "Wu et al., MICCAI 2021, Semi-supervised left atrium segmentation with mutual consistency"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=1.0))
    temperature: float = 0.1

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        out = nets.student(batch.image)
        every = every_decoder(out)
        known = [dice_ce(logits[: batch.count], batch.label) for logits in every]
        p = [probabilities(logits) for logits in every]
        q = [sharpen(said, temperature=self.temperature) for said in p]
        gaps = [mse(p[i], q[j]).mean() for i, j in permutations(range(len(p)), 2)]
        return LossTerms(supervised=torch.stack(known).sum(), mutual=self.ramp(step) * torch.stack(gaps).sum())


@dataclass(frozen=True)
class MCNetPlus(MCNet):
    """MC-Net with a third decoder, which resamples by nearest neighbours: six pairs learn from each other.

    Target: each other decoder's sharpened softmax, trusted everywhere.

    Differs: as with two decoders: targets carry no gradient, sharpening is renormalised over classes, and labels are
    learnt with Dice and cross-entropy.
    """

    heads: ClassVar[tuple[Head, ...]] = ("decoder2", "decoder3")
    citation: ClassVar[str] = "Wu et al., Medical Image Analysis 2022, Mutual consistency learning (MC-Net+)"
