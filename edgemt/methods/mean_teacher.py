"""Mean teacher, and the variants that differ by target rule and mixing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from edgemt.contract import Batch, Step
from edgemt.learning.ema import Ema
from edgemt.learning.losses import Distance, consistency_loss, dice_ce
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations.mixing import CutMixBox, cutmix, mixup, sample_mixup_lambda
from edgemt.learning.published_settings import SSL4MIS, PublishedSettings
from edgemt.learning.roles import Networks, Role, Trainable
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.student_teacher import student_view, two_streams
from edgemt.learning.targets import SoftTarget, UncertaintyMasked


@dataclass(frozen=True)
class MeanTeacher(Method):
    """Mean teacher: the student matches its own average on unlabelled images.

    L = dice_ce(x_l, y_l) + ramp(t) d(p(x'), q; w), target q and weight w by the `target` rule, d by `distance`. The
    student gets x' = x_u, or the strong view with `strong`; with `mix` "cutmix" or "mixup" image, target and weight get
    the same mixing (mixup: `ICT`).

    Target: the average's softmax of a weak or noisy view, trusted everywhere.

    Differs: as in the port of SSL4MIS (noise on the teacher's input, as strong as there in deviations of the image;
    consistency on unlabelled rows; weight 0.1), but batch-norm statistics are averaged with the weights, the ramp is a
    fraction of the run, 0.4 of it unless set otherwise, where theirs is all of it, and the teacher is delivered. The
    authors themselves advise a larger weight (C to C^2).
    """

    delivers: ClassVar[str] = "teacher"
    takes_overlapping: ClassVar[bool] = True
    release: ClassVar[PublishedSettings | None] = SSL4MIS
    family: ClassVar[str] = "mean teacher"
    citation: ClassVar[str] = "Tarvainen & Valpola, NeurIPS 2017, Mean teachers are better role models"
    target: SoftTarget = field(default_factory=SoftTarget)
    distance: Distance = "mse"
    ramp: SigmoidRampUp = field(default_factory=SigmoidRampUp)
    ema: Ema = field(default_factory=Ema)
    strong: bool = False
    mix: Literal["none", "cutmix", "mixup"] = "none"
    box: CutMixBox = field(default_factory=CutMixBox)
    separate_streams: bool = False  # separate forward passes of labelled and unlabelled rows: separate batch statistics
    image_dice: bool = False  # Dice of each image in place of that of the batch

    def published(self) -> PublishedSettings | None:
        """Of the plain mean teacher and UA-MT: no release has the other targets, strong views or CutMix."""
        modified = type(self.target) not in (SoftTarget, UncertaintyMasked) or self.strong or self.mix == "cutmix"
        return None if modified else self.release

    def variant_note(self) -> str:
        if self.separate_streams:
            return "CutMix, separate streams." if self.mix == "cutmix" else "Separate streams."
        return "Strong views, CutMix." if self.mix == "cutmix" else ""

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "teacher": self.ema}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        if not len(batch.unlabelled):
            logits = nets.student(batch.labelled).logits
            return LossTerms(supervised=dice_ce(logits, batch.label, per_image=self.image_dice))
        view = student_view(batch, strong=self.strong)
        probability, weight = self.target(nets.teacher, batch.unlabelled, step)
        if self.mix == "cutmix":
            box = self.box.sample(view, step.generator)
            view, probability = cutmix(box, view), cutmix(box, probability)
            weight = None if weight is None else cutmix(box, weight)
        elif self.mix == "mixup":
            lam = sample_mixup_lambda(view, step.generator)
            view, probability = mixup(lam, view), mixup(lam, probability)
            weight = None if weight is None else mixup(lam, weight)
        labelled, unlabelled = two_streams(nets.student, batch.labelled, view, separate=self.separate_streams)
        loss = consistency_loss(self.distance, unlabelled, probability, weight=weight, per_image=self.image_dice)
        supervised = dice_ce(labelled, batch.label, per_image=self.image_dice)
        terms = LossTerms(supervised=supervised, consistency=self.ramp(step) * loss)
        if weight is not None:
            terms.notes["accepted"] = weight.mean()
        return terms
