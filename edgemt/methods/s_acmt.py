"""S-ACMT: AC-MT with SAM as a second teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from edgemt.contract import Batch, Step
from edgemt.learning.losses import dice_ce, mse, probabilities, weighted_mean
from edgemt.learning.method import LossTerms
from edgemt.learning.pseudo_labels import predict_probabilities
from edgemt.learning.published_settings import PublishedSettings
from edgemt.learning.roles import Frozen, Networks, Role
from edgemt.learning.sam_guidance import PromptableTeacherOptions
from edgemt.methods.ac_mt import ACMT


@dataclass(frozen=True)
class SACMT(ACMT):
    """Inspired by S-ACMT: on ambiguous voxels the student follows its average and, if confident, SAM.

    With the mask M of a selector and SAM's probabilities s with weight w: L = dice_ce(x_l, y_l)
    + ramp(t) [sum(M (p - q)^2) / sum(M) + weight sum(M w (p - s)^2) / sum(M w)].

    As `ac_mt`, with SAM (or a small promptable network that the run trains on its labelled images) as a second, frozen
    teacher. It gets prompts for each class in the mean teacher's prediction: box, points and mask.

    Target: the average's softmax of a noisy view, and SAM's mask, both on voxels where the student's entropy is high;
    SAM's counts where its predicted IoU is at least `min_predicted_iou` and, with `agree`, its class is that of the
    average.

    Differs: of S-ACMT only a survey's sentence is known; how SAM is prompted and when its mask counts is our own.
    """

    inspired: ClassVar[bool] = True
    release: ClassVar[PublishedSettings | None] = None  # no code of it is public
    family: ClassVar[str] = "promptable teacher"
    citation: ClassVar[str] = (
        "Inspired by S-ACMT (survey); AC-MT: Xu et al., MedIA 2023; SAM: Kirillov et al., ICCV 2023"
    )
    second: PromptableTeacherOptions = field(default_factory=PromptableTeacherOptions)
    agree: bool = True
    weight: float = 1.0  # of SAM's term relative to the mean teacher's

    def roles(self) -> dict[str, Role]:
        return {**super().roles(), "sam": Frozen("promptable")}

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        logits = nets.student(batch.image).logits
        target = predict_probabilities(nets.teacher, self.noise(batch.unlabelled, step.generator))
        sam_probs, trusted = self.second.pseudo_label(nets.sam, batch, target, step)
        if self.agree:
            trusted = trusted * (sam_probs.argmax(1) == target.argmax(1)).unsqueeze(1)
        p = probabilities(logits[batch.count :])
        mask = self.select(nets, batch.unlabelled, p.detach(), step).to(p.dtype)
        terms = LossTerms(supervised=dice_ce(logits[: batch.count], batch.label))
        terms["consistency"] = self.ramp(step) * weighted_mean(mse(p, target), mask)
        terms["sam"] = self.ramp(step) * self.weight * weighted_mean(mse(p, sam_probs), mask * trusted)
        terms.notes["accepted"] = (mask * trusted).mean()
        return terms
