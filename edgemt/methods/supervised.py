"""Baselines: supervised training, and entropy minimisation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from edgemt.contract import Batch, Step
from edgemt.learning.ema import Ema
from edgemt.learning.losses import dice_ce, entropy, largest_entropy, probabilities
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.published_settings import SSL4MIS, PublishedSettings
from edgemt.learning.roles import Networks, Role, Trainable
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class Supervised(Method):
    """Supervised baseline on labelled images only; with all labels it is the upper bound of the methods.

    L = 0.5 (cross-entropy + Dice)(x_l, y_l). It delivers the student's average, as mean-teacher methods do, so that the
    gain of a method comes from the unlabelled images alone.

    Target: none, unlabelled images are not used.

    Differs: cross-entropy is added to the soft Dice, half and half, as in SSL4MIS.
    """

    delivers: ClassVar[str] = "average"
    uses_unlabelled: ClassVar[bool] = False
    takes_overlapping: ClassVar[bool] = True
    release: ClassVar[PublishedSettings | None] = SSL4MIS
    family: ClassVar[str] = "supervised"
    citation: ClassVar[str] = "Milletari et al., 3DV 2016, V-Net (soft Dice); with cross-entropy, half and half"
    ema: Ema = field(default_factory=lambda: Ema(mode="eval"))
    image_dice: bool = False  # Dice of each image in place of that of the batch

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "average": self.ema}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        logits = nets.student(batch.labelled).logits
        return LossTerms(supervised=dice_ce(logits, batch.label, per_image=self.image_dice))


@dataclass(frozen=True)
class EntropyMinimisation(Method):
    """Entropy minimisation: the student's predictions on unlabelled images are trained to be confident.

    L = dice_ce(x_l, y_l) + ramp(t) mean(H(p_u)) / ln C.

    Target: none; the entropy of the student's own softmax, as a fraction of ln C, the most that C classes can have.

    Differs: the release works on natural images between domains; this follows the port of SSL4MIS (weight 0.1, ramped
    up), unlabelled rows only.
    """

    takes_overlapping: ClassVar[bool] = True
    release: ClassVar[PublishedSettings | None] = SSL4MIS
    family: ClassVar[str] = "supervised"
    citation: ClassVar[str] = "Grandvalet & Bengio, NeurIPS 2004; Vu et al., CVPR 2019, ADVENT"
    ramp: SigmoidRampUp = field(default_factory=SigmoidRampUp)

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        logits = nets.student(batch.image).logits
        terms = LossTerms(supervised=dice_ce(logits[: batch.count], batch.label))
        if len(batch.unlabelled):
            relative_entropy = entropy(probabilities(logits[batch.count :])).mean() / largest_entropy(logits.shape[1])
            terms["entropy"] = self.ramp(step) * relative_entropy
        return terms
