"""CDS: competitive dual students."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from edgemt.contract import Batch, Step
from edgemt.learning.ema import Ema
from edgemt.learning.losses import (
    cross_entropy,
    probabilities,
)
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations.intensity import GaussianNoise
from edgemt.learning.pseudo_labels import predict_probabilities
from edgemt.learning.roles import Networks, Role, Trainable
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.student_teacher import STUDENT_PAIR


@dataclass(frozen=True)
class CDS(Method):
    """CDS: at each voxel the more confident of two students learns the teacher's label.

    With c_a = max p_a and the teacher (an average of both students): L_a = CE(x_l, y_l)
    + pseudo(t) mean over voxels with c_a > c_b of CE(logits_a, argmax q), and the same for b.

    Losses as released: cross-entropy alone, weight 1, noise for the students and none for the teacher.

    Target: the average's hard labels, for the more confident student of each voxel.

    Differs: both students of the release are one object, here they have their own weights; it multiplies the loser's
    logits by 0, so lost voxels stay in the mean, here they are left out. Its two contrast losses (0.01 and 0.1, over
    memories of projected features) are left out.
    """

    delivers: ClassVar[str] = "teacher"
    family: ClassVar[str] = "several students"
    citation: ClassVar[str] = "Hu et al., Competitive dual-students with a mean teacher for segmentation (CDS)"
    noise: GaussianNoise = field(default_factory=GaussianNoise)
    pseudo: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=1.0, length=0.0))
    ema: Ema = field(default_factory=lambda: Ema(of=STUDENT_PAIR))

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "peer": Trainable(init=1), "teacher": self.ema}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        view, rows = self.noise(batch.image, step.generator), len(batch.unlabelled)
        logits = {name: nets[name](view).logits for name in STUDENT_PAIR}
        terms, count = LossTerms(), batch.count
        for name in STUDENT_PAIR:
            terms[f"supervised_{name}"] = cross_entropy(logits[name][:count], batch.label)
        if rows:
            pseudo_label = predict_probabilities(nets.teacher, batch.unlabelled).argmax(1)
            confidence = {
                name: probabilities(one[count:].detach()).amax(1, keepdim=True) for name, one in logits.items()
            }
            for name, other in (STUDENT_PAIR, STUDENT_PAIR[::-1]):
                mask = confidence[name] > confidence[other]
                pseudo_loss = cross_entropy(logits[name][count:], pseudo_label, weight=mask)
                terms[f"pseudo_{name}"] = self.pseudo(step) * pseudo_loss
        return terms
