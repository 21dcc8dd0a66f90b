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
from edgemt.learning.perturbations import RowwiseChannelDropout, cutmix
from edgemt.learning.roles import Networks
from edgemt.learning.student_teacher import student_view
from edgemt.methods.unimatch import UniMatch, confident_pseudo_label, cutmix_pseudo_label


@dataclass(frozen=True)
class CrossMatch(UniMatch):
    """Two strong views, and weakly and strongly disturbed features that learn from the clean ones.

    Follows the LA script: channels dropped at 0.25 and 0.75; Dice; strong views 0.25 each; self-distillation 0.7 times
    the mean of four (the clean word to both disturbed ones, on the weak and on the second strong view) plus 0.3 times
    the mean of two (each disturbed word of the weak view to its like on the strong).

    Target: the student's own hard labels of the weak view, clean and disturbed, above a bar.

    Differs: the release multiplies a rising bar by ln 2 and so passes almost everything; here the bar is `confidence`
    as it stands. Views, CutMix and what is delivered are as in `unimatch`.
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
        first, second = (self.box.sample(weak, step.generator) for _ in range(2))
        jittered = cutmix(second, self.jitter(weak, step.generator))
        view = torch.cat([weak, jittered])
        image = torch.cat([batch.labelled, cutmix(first, student_view(batch, strong=True)), view, view, view])
        logits = nets.student(image, disturb=self.disturbed(count + 3 * rows, 2 * rows, step)).logits
        strong, said, mixed, *disturbed = logits[count:].chunk(7)
        label = confident_pseudo_label(said, confidence=self.confidence)
        moved = cutmix_pseudo_label(second, label)
        cost = self.apart(strong, cutmix_pseudo_label(first, label)) + self.apart(mixed, moved)
        told, like = [], []
        for of_weak, of_strong in (disturbed[:2], disturbed[2:]):
            told += [self.apart(of_weak, label), self.apart(of_strong, moved)]
            own = cutmix_pseudo_label(second, confident_pseudo_label(of_weak, confidence=self.confidence))
            like += [self.apart(of_strong, own)]
        distilled = (1.0 - self.eta) * torch.stack(told).mean() + self.eta * torch.stack(like).mean()
        supervised = dice_ce(logits[:count], batch.label)
        terms = LossTerms(supervised=supervised, strong=self.strong * cost, features=self.features * distilled)
        terms.notes["accepted"] = label[1].mean()
        return terms

    def disturbed(self, start: int, rows: int, step: Step) -> Callable[[Tensor], Tensor]:
        """Drops channels weakly in `rows` rows from `start` and strongly in as many behind them."""
        low, high = self.drop - self.gap / 2, self.drop + self.gap / 2
        weakly = RowwiseChannelDropout(low, start, start + rows, step.generator)
        strongly = RowwiseChannelDropout(high, start + rows, start + 2 * rows, step.generator)
        return lambda x: strongly(weakly(x))
