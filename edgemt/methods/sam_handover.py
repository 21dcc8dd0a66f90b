"""SAM as the teacher early in the run, the mean teacher later."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from edgemt.contract import Batch, Step
from edgemt.learning.ema import Ema
from edgemt.learning.losses import Distance, consistency_loss, dice_ce
from edgemt.learning.method import LossTerms
from edgemt.learning.perturbations.intensity import GaussianNoise
from edgemt.learning.perturbations.mixing import CutMixBox, cutmix
from edgemt.learning.pseudo_labels import predict_probabilities
from edgemt.learning.roles import Frozen, Networks, Role
from edgemt.learning.sam_guidance import PromptableTeacherOptions
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.student_teacher import Mixing, StudentTeacher, student_view


@dataclass(frozen=True)
class SamHandover(StudentTeacher):
    """Inspired by SynFoC: the target moves from SAM to the mean teacher over the run.

    L = dice_ce(x_l, y_l) + ramp(t) d(p, (1 - r) s + r q), r = handover(t); s are SAM's probabilities, q the average's.

    Target: (1 - r) SAM + r average, soft, r rising by `handover` over the run; where SAM gives no mask, the average's
    softmax. The student gets the strong view with CutMix boxes, as in `soft_cutmix_mt`.

    Differs: theirs fine-tunes MedSAM together with the U-Net and takes r from confidence and agreement of the two; here
    SAM is frozen, r is a ramp, and prompts are those of the average's prediction.
    """

    inspired: ClassVar[bool] = True
    family: ClassVar[str] = "promptable teacher"
    citation: ClassVar[str] = "Inspired by SynFoC: Ma et al., CVPR 2025; SAM: Kirillov et al., ICCV 2023"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=1.0, length=0.5))
    ema: Ema = field(default_factory=lambda: Ema(mode="eval"))
    noise: GaussianNoise = field(default_factory=lambda: GaussianNoise(std=0.0))
    second: PromptableTeacherOptions = field(default_factory=PromptableTeacherOptions)
    handover: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=1.0, length=0.8))
    distance: Distance = "ce"
    strong: bool = True
    mix: Mixing = "cutmix"
    box: CutMixBox = field(default_factory=CutMixBox)

    def roles(self) -> dict[str, Role]:
        return {**super().roles(), "sam": Frozen("promptable")}

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        teacher_probs = predict_probabilities(nets.teacher, self.noise(batch.unlabelled, step.generator))
        sam_probs, trusted = self.second.pseudo_label(nets.sam, batch, teacher_probs, step)
        sam_weight = (1.0 - self.handover(step)) * trusted
        target = sam_weight * sam_probs + (1.0 - sam_weight) * teacher_probs
        view = student_view(batch, strong=self.strong)
        if self.mix == "cutmix":
            box = self.box.sample(view, step.generator)
            view, target = cutmix(box, view), cutmix(box, target)
        logits = nets.student(torch.cat([batch.labelled, view])).logits
        terms = LossTerms(supervised=dice_ce(logits[: batch.count], batch.label))
        terms["consistency"] = self.ramp(step) * consistency_loss(self.distance, logits[batch.count :], target)
        terms.notes["sam"] = sam_weight.mean()
        return terms
