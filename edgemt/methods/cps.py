"""Two students that teach each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from edgemt.contract import Batch, Step
from edgemt.learning.losses import cross_entropy, dice_ce
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.published_settings import SSL4MIS, PublishedSettings
from edgemt.learning.roles import Networks, Role, Trainable
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class CPS(Method):
    """Two students with different first weights; each learns the other's labels of unlabelled images.

    `nets.student` is kept. A term named after a player trains that player only.

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
        logits = {who: nets[who](image).logits for who in ("student", "peer")}
        terms = LossTerms()
        for who, said in logits.items():
            terms[f"supervised_{who}"] = dice_ce(said[: batch.count], batch.label)
        if len(batch.unlabelled):
            for who, other in (("student", "peer"), ("peer", "student")):
                label = logits[other][batch.count :].detach().argmax(1)
                terms[f"pseudo_{who}"] = self.ramp(step) * cross_entropy(logits[who][batch.count :], label)
        return terms
