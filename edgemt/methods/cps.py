"""CPS: cross pseudo supervision."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from edgemt.contract import Batch, Step
from edgemt.learning.losses import cross_entropy, dice_ce
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.published_settings import SSL4MIS, PublishedSettings
from edgemt.learning.roles import Networks, Role, Trainable
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.student_teacher import STUDENT_PAIR


@dataclass(frozen=True)
class CPS(Method):
    """CPS: two students with different initial weights; each learns from the other's pseudo-labels.

    For student a with peer b: L_a = dice_ce(x_l, y_l) + ramp(t) CE(logits_a,u, argmax(logits_b,u)), and the same with a
    and b exchanged. `nets.student` is delivered. A term named after a network trains that network only.

    Target: the other student's hard labels, trusted everywhere.

    Differs: as in the port of SSL4MIS (unlabelled rows only, weight 0.1 ramped up); the authors' own code also teaches
    the labelled rows so and takes 1 to 1.5.
    """

    release: ClassVar[PublishedSettings | None] = SSL4MIS
    family: ClassVar[str] = "several students"
    citation: ClassVar[str] = "Chen et al., CVPR 2021, Semi-supervised segmentation with cross pseudo supervision"
    ramp: SigmoidRampUp = field(default_factory=SigmoidRampUp)

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "peer": Trainable(init=1)}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        image = batch.image if len(batch.unlabelled) else batch.labelled
        logits = {name: nets[name](image).logits for name in STUDENT_PAIR}
        terms = LossTerms()
        for name in STUDENT_PAIR:
            terms[f"supervised_{name}"] = dice_ce(logits[name][: batch.count], batch.label)
        if len(batch.unlabelled):
            for name, other in (STUDENT_PAIR, STUDENT_PAIR[::-1]):
                pseudo_label = logits[other][batch.count :].detach().argmax(1)
                terms[f"pseudo_{name}"] = self.ramp(step) * cross_entropy(logits[name][batch.count :], pseudo_label)
        return terms
