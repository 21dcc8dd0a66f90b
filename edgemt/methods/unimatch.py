"""UniMatch: weak-to-strong consistency with feature perturbation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from edgemt.contract import Batch, Head, Step
from edgemt.learning.ema import Ema
from edgemt.learning.losses import (
    Distance,
    consistency_loss,
    dice_ce,
    probabilities,
)
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations.features import RowwiseChannelDropout
from edgemt.learning.perturbations.intensity import IntensityJitter
from edgemt.learning.perturbations.mixing import CutMixBox, cutmix
from edgemt.learning.pseudo_labels import argmax_one_hot
from edgemt.learning.published_settings import IN_UNIT_RANGE, PublishedSettings
from edgemt.learning.roles import Networks, Role, Trainable
from edgemt.learning.student_teacher import student_view

PseudoLabel = tuple[Tensor, Tensor]  # one-hot labels [U, C, *space] and their weight [U, 1, *space]


def confident_pseudo_label(logits: Tensor, *, confidence: float) -> PseudoLabel:
    """One-hot labels [U, C, *space], and 1 where their probability is at least `confidence`; no gradient."""
    p = probabilities(logits.detach())
    return argmax_one_hot(p), (p.amax(1, keepdim=True) >= confidence).to(p.dtype)


def cutmix_pseudo_label(box: Tensor, label: PseudoLabel) -> PseudoLabel:
    """The labels and weights of images that were mixed by `box`."""
    return cutmix(box, label[0]), cutmix(box, label[1])


@dataclass(frozen=True)
class UniMatch(Method):
    """UniMatch: confident labels of the weak view train two strong views and one with dropped channels.

    With y = argmax p_w where max p_w >= confidence: L = dice_ce(x_l, y_l) + strong [d(p_s1, y) + d(p_s2, y)]
    + features d(p_fp, y), p_s1 and p_s2 of strong views under CutMix (y cut by the same box), p_fp of the weak view
    with channel dropout between encoder and decoder.

    Follows the release for ACDC: confidence 0.95, Dice, weights 0.25, 0.25 and 0.5, half the channels dropped, CutMix
    from other unlabelled images, brightness and contrast of the second strong view from 0.5 to 1.5 in four images of
    five. At 0.95 the threshold filters little where most voxels are background: 98 % of the voxels of heart slices
    passed while Dice was 0.45. The term `accepted` in the log is that fraction, and a run that ends above 95 % warns.

    Target: the student's own hard labels of the weak view, above a threshold.

    Differs: the whole loss is not halved. The first strong view is the batch's, with its own ranges; the second has no
    blur; CutMix takes the other image from the same batch; one forward serves all views; an average of the student is
    delivered, as for the supervised control.
    """

    heads: ClassVar[tuple[Head, ...]] = ("disturb",)
    delivers: ClassVar[str] = "average"
    release: ClassVar[PublishedSettings | None] = IN_UNIT_RANGE
    family: ClassVar[str] = "weak to strong"
    citation: ClassVar[str] = "Yang et al., CVPR 2023, Revisiting weak-to-strong consistency in segmentation (UniMatch)"
    confidence: float = 0.95
    distance: Distance = "dice"
    strong: float = 0.25  # weight of each strong view
    features: float = 0.5  # weight of the view with dropped channels
    drop: float = 0.5  # fraction of the channels that is dropped
    jitter: IntensityJitter = field(default_factory=IntensityJitter)
    box: CutMixBox = field(default_factory=CutMixBox)
    ema: Ema = field(default_factory=lambda: Ema(mode="eval"))

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "average": self.ema}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        count, rows, weak = batch.count, len(batch.unlabelled), batch.unlabelled
        if not rows:
            return LossTerms(supervised=dice_ce(nets.student(batch.labelled).logits, batch.label))
        boxes = [self.box.sample(weak, step.generator) for _ in range(2)]
        views = zip(boxes, (student_view(batch, strong=True), self.jitter(weak, step.generator)), strict=True)
        image = torch.cat([batch.image, weak, *(cutmix(box, view) for box, view in views)])
        dropout = RowwiseChannelDropout(self.drop, count + rows, count + 2 * rows, step.generator)
        # Bound, as an engine searches a dataclass that it is given for tensors.
        logits = nets.student(image, disturb=dropout.__call__).logits
        weak_logits, dropped_logits, *strong_logits = logits[count:].chunk(4)
        label = confident_pseudo_label(weak_logits, confidence=self.confidence)
        strong_losses = [
            self.pseudo_loss(one, cutmix_pseudo_label(box, label))
            for one, box in zip(strong_logits, boxes, strict=True)
        ]
        terms = LossTerms(
            supervised=dice_ce(logits[:count], batch.label),
            strong=self.strong * torch.stack(strong_losses).sum(),
            features=self.features * self.pseudo_loss(dropped_logits, label),
        )
        terms.notes["accepted"] = label[1].mean()
        return terms

    def pseudo_loss(self, logits: Tensor, label: PseudoLabel) -> Tensor:
        """Scalar: `distance` of the logits from the labels, where these count."""
        return consistency_loss(self.distance, logits, label[0], weight=label[1])
