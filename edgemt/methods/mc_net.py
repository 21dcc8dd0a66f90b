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
    """MC-Net: two decoders of one encoder learn from each other's sharpened predictions, on all images.

    With p_i the softmax of decoder i and q_j = sharpen(p_j, T) without gradient:
    L = sum_i dice_ce(i_l, y_l) + ramp(t) sum_{i != j} MSE(p_i, q_j).

    Follows the release: one further decoder, all rows, weight 1, T 0.1; the first decoder is delivered.

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
        logits = every_decoder(out)
        supervised = [dice_ce(one[: batch.count], batch.label) for one in logits]
        p = [probabilities(one) for one in logits]
        q = [sharpen(one, temperature=self.temperature) for one in p]
        mutual = [mse(p[i], q[j]).mean() for i, j in permutations(range(len(p)), 2)]
        return LossTerms(supervised=torch.stack(supervised).sum(), mutual=self.ramp(step) * torch.stack(mutual).sum())


@dataclass(frozen=True)
class MCNetPlus(MCNet):
    """MC-Net+: MC-Net with a third decoder, upsampling by nearest neighbours; six pairs of predictions.

    Target: each other decoder's sharpened softmax, trusted everywhere.

    Differs: as with two decoders: targets carry no gradient, sharpening is renormalised over classes, and labels are
    learnt with Dice and cross-entropy.
    """

    heads: ClassVar[tuple[Head, ...]] = ("decoder2", "decoder3")
    citation: ClassVar[str] = "Wu et al., Medical Image Analysis 2022, Mutual consistency learning (MC-Net+)"
