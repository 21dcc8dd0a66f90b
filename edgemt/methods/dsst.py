"""DSST: two students share one teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from edgemt.contract import Batch, Step
from edgemt.learning.ema import SwitchingEma
from edgemt.learning.losses import (
    consistency_loss,
    dice_ce,
)
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations.intensity import GaussianNoise
from edgemt.learning.pseudo_labels import predict_probabilities
from edgemt.learning.roles import Networks, Role, Trainable
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.student_teacher import STUDENT_PAIR


@dataclass(frozen=True)
class DSST(Method):
    """Inspired by DSST: two students share one average, which is updated from each of them in turn.

    For each student: L = dice_ce(x_l, y_l) + ramp(t) MSE(p_u, q_u). Both train at every step, with different initial
    weights.

    Target: the average's softmax of a noisy view, trusted everywhere.

    Differs: only the survey's sentence is known: two students alternately update one teacher. The period of the
    alternation, a step here, is our choice.
    """

    delivers: ClassVar[str] = "teacher"
    family: ClassVar[str] = "several students"
    citation: ClassVar[str] = "Li et al., DSST: dual students and a shared teacher, as the survey names it"
    inspired: ClassVar[bool] = True
    noise: GaussianNoise = field(default_factory=GaussianNoise)
    ramp: SigmoidRampUp = field(default_factory=SigmoidRampUp)
    ema: SwitchingEma = field(default_factory=SwitchingEma)

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "peer": Trainable(init=1), "teacher": self.ema}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        terms, rows = LossTerms(), len(batch.unlabelled)
        target = predict_probabilities(nets.teacher, self.noise(batch.unlabelled, step.generator)) if rows else None
        for name in STUDENT_PAIR:
            logits = nets[name](batch.image).logits
            terms[f"supervised_{name}"] = dice_ce(logits[: batch.count], batch.label)
            if target is not None:
                terms[f"consistency_{name}"] = self.ramp(step) * consistency_loss("mse", logits[batch.count :], target)
        return terms
