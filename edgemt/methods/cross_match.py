"""CrossMatch: image and feature perturbations of two strengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from edgemt.contract import Batch, Step
from edgemt.learning.losses import (
    dice_ce,
)
from edgemt.learning.method import LossTerms
from edgemt.learning.perturbations.features import RowwiseChannelDropout
from edgemt.learning.perturbations.mixing import cutmix
from edgemt.learning.roles import Networks
from edgemt.learning.student_teacher import student_view
from edgemt.methods.unimatch import UniMatch, confident_pseudo_label, cutmix_pseudo_label


@dataclass(frozen=True)
class CrossMatch(UniMatch):
    """CrossMatch: two strong views, and self-distillation from clean features to dropped ones.

    With y the confident label of the weak view, a_w and a_s the predictions with weakly (or strongly) dropped channels
    of the weak and of the second strong view: L = dice_ce(x_l, y_l) + strong [d(p_s1, y) + d(p_s2, y)]
    + features [(1 - eta) mean(d(a_w, y), d(a_s, y)) + eta mean(d(a_s, label of a_w))].

    Follows the LA script: channels dropped at 0.25 and 0.75; Dice; strong views 0.25 each; eta 0.3.

    Target: the student's own hard labels of the weak view, clean and with dropped channels, above a threshold.

    Differs: the release multiplies a rising threshold by ln 2 and so passes almost everything; here the threshold is
    `confidence` as it stands. Views, CutMix and what is delivered are as in `unimatch`.
    """

    citation: ClassVar[str] = "Zhao et al., IEEE JBHI 2024, CrossMatch: perturbation strategies and distillation"
    confidence: float = 0.75
    features: float = 1.0
    drop: float = 0.5  # the mean of the two rates
    gap: float = 0.5  # between them
    eta: float = 0.3

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        count, rows, weak = batch.count, len(batch.unlabelled), batch.unlabelled
        if not rows:
            return LossTerms(supervised=dice_ce(nets.student(batch.labelled).logits, batch.label))
        box1, box2 = (self.box.sample(weak, step.generator) for _ in range(2))
        strong2 = cutmix(box2, self.jitter(weak, step.generator))
        views = torch.cat([weak, strong2])
        strong1 = cutmix(box1, student_view(batch, strong=True))
        # Clean features, then the same two views with weakly and with strongly dropped channels.
        image = torch.cat([batch.labelled, strong1, views, views, views])
        logits = nets.student(image, disturb=self.channel_dropout(count + 3 * rows, 2 * rows, step)).logits
        strong1_logits, weak_logits, strong2_logits, *dropped = logits[count:].chunk(7)
        label = confident_pseudo_label(weak_logits, confidence=self.confidence)
        label1, label2 = cutmix_pseudo_label(box1, label), cutmix_pseudo_label(box2, label)
        strong_loss = self.pseudo_loss(strong1_logits, label1) + self.pseudo_loss(strong2_logits, label2)
        from_clean, from_dropped = [], []
        for dropped_weak, dropped_strong in (dropped[:2], dropped[2:]):
            from_clean += [self.pseudo_loss(dropped_weak, label), self.pseudo_loss(dropped_strong, label2)]
            dropped_label = confident_pseudo_label(dropped_weak, confidence=self.confidence)
            from_dropped += [self.pseudo_loss(dropped_strong, cutmix_pseudo_label(box2, dropped_label))]
        distillation = (1.0 - self.eta) * torch.stack(from_clean).mean() + self.eta * torch.stack(from_dropped).mean()
        terms = LossTerms(
            supervised=dice_ce(logits[:count], batch.label),
            strong=self.strong * strong_loss,
            features=self.features * distillation,
        )
        terms.notes["accepted"] = label[1].mean()
        return terms

    def channel_dropout(self, start: int, rows: int, step: Step) -> Callable[[Tensor], Tensor]:
        """Channel dropout of the lower rate in `rows` rows from `start`, of the higher rate in as many after them."""
        low, high = self.drop - self.gap / 2, self.drop + self.gap / 2
        weakly = RowwiseChannelDropout(low, start, start + rows, step.generator)
        strongly = RowwiseChannelDropout(high, start + rows, start + 2 * rows, step.generator)
        return lambda x: strongly(weakly(x))
