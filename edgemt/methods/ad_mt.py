"""AD-MT: alternate diverse teaching."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from edgemt.contract import Batch, Step
from edgemt.learning.ema import AlternatingEma, AlternationSchedule
from edgemt.learning.losses import Distance, consistency_loss, dice_ce, probabilities
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations.mixing import CutMixBox, cutmix
from edgemt.learning.pseudo_labels import argmax_one_hot, entropy_weighted_mean, predict_probabilities
from edgemt.learning.published_settings import POLYNOMIAL, PublishedSettings
from edgemt.learning.roles import Networks, Role, Trainable
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.student_teacher import student_view


@dataclass(frozen=True)
class ADMT(Method):
    """AD-MT: two averages updated in turn; where they conflict, the most confident prediction counts.

    L = dice_ce(x_l, y_l) + ramp(t) d(p(view), label; w), label and weight w by `combine`, d by `distance`. Each turn
    has its own view: strong intensities, or CutMix of the weak ones. Follows the released 3-D script (cross-entropy,
    confidence 0.8, weight 2, turns of 1 to 19 steps of 15000, mean 10); its 2-D script takes Dice, 0.95, and turns of
    up to 50 of 30000.

    Target: hard labels of both averages, combined by e^-entropy; in conflict the student's if its confidence is higher;
    above a threshold.

    Differs: turns of that fraction of a short run would last a step or two, and the averages move as one: the longest
    has ten steps at least, and the decay falls with it. The release compares a student that was not cut by CutMix with
    a target that was: here all are cut by the same boxes. It has one teacher in eval mode, by turns; here both are.
    """

    delivers: ClassVar[str] = "teacher"
    release: ClassVar[PublishedSettings | None] = POLYNOMIAL
    family: ClassVar[str] = "several teachers"
    citation: ClassVar[str] = "Zhao et al., ECCV 2024, Alternate diverse teaching for semi-supervised segmentation"
    turns: AlternationSchedule = field(
        default_factory=lambda: AlternationSchedule(longest=1 / 790, drawn=True, least=10)
    )
    decay: float = 0.99  # of a run whose turns last up to 19 steps, as released
    confidence: float = 0.8
    distance: Distance = "ce"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=2.0))
    box: CutMixBox = field(default_factory=lambda: CutMixBox(chance=1.0))

    def roles(self) -> dict[str, Role]:
        pair = [
            AlternatingEma(decay=self.decay, mode="eval", turns=self.turns, place=place, per=19) for place in (0, 1)
        ]
        return {"student": Trainable(), "teacher": pair[0], "tutor": pair[1]}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        count, rows = batch.count, len(batch.unlabelled)
        if not rows:
            return LossTerms(supervised=dice_ce(nets.student(batch.labelled).logits, batch.label))
        probs = torch.stack([predict_probabilities(nets[name], batch.unlabelled) for name in ("teacher", "tutor")])
        use_cutmix = self.turns(step) == 1
        box = self.box.sample(batch.unlabelled, step.generator)
        view = cutmix(box, batch.unlabelled) if use_cutmix else student_view(batch, strong=True)
        logits = nets.student(torch.cat([batch.image, view])).logits
        target, weight = self.combine(probs, probabilities(logits[count : count + rows].detach()))
        if use_cutmix:
            target, weight = cutmix(box, target), cutmix(box, weight)
        loss = consistency_loss(self.distance, logits[count + rows :], target, weight=weight)
        terms = LossTerms(supervised=dice_ce(logits[:count], batch.label), consistency=self.ramp(step) * loss)
        terms.notes["accepted"] = weight.mean()
        return terms

    def combine(self, probs: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
        """Hard labels [U, C, *space] of two teachers [2, U, C, *space] and the student, and their weight of 0 and 1."""
        p = entropy_weighted_mean(probs)
        conflict = (probs[0].argmax(1) != probs[1].argmax(1)).unsqueeze(1)
        p = torch.where(conflict & (student.amax(1, keepdim=True) > p.amax(1, keepdim=True)), student, p)
        return argmax_one_hot(p), (p.amax(1, keepdim=True) >= self.confidence).to(p.dtype)
