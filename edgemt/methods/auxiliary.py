"""Mean teacher with an auxiliary network that gives pseudo-labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from edgemt.contract import Batch, Step
from edgemt.learning.ema import Ema
from edgemt.learning.losses import consistency_loss, cross_entropy, dice_ce
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations.intensity import GaussianNoise
from edgemt.learning.pseudo_labels import predict_probabilities
from edgemt.learning.roles import Networks, Role, Trainable
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class AuxiliaryNetwork(Method):
    """Inspired by auxiliary pseudo-label networks: a second network, trained on labels only, gives labels.

    L = dice_ce(x_l, y_l) of both networks + ramp(t) MSE(p_u, q_u) + pseudo(t) CE(p_u, argmax a_u) where average q and
    auxiliary network a predict the same class. The auxiliary network gets no gradient from unlabelled images, so that
    it stays different from the student.

    Target: the average's softmax, and the auxiliary network's hard labels where the average predicts the same class.

    Differs: only the survey's sentence is known; weights and the rule of agreement are ours.
    """

    delivers: ClassVar[str] = "teacher"
    family: ClassVar[str] = "several teachers"
    citation: ClassVar[str] = "A mean teacher with an auxiliary pseudo-label network, as the survey names it"
    inspired: ClassVar[bool] = True
    noise: GaussianNoise = field(default_factory=GaussianNoise)
    ramp: SigmoidRampUp = field(default_factory=SigmoidRampUp)
    pseudo: SigmoidRampUp = field(default_factory=SigmoidRampUp)

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "auxiliary": Trainable(init=1), "teacher": Ema()}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        count, logits = batch.count, nets.student(batch.image).logits
        terms = LossTerms(
            supervised_student=dice_ce(logits[:count], batch.label),
            supervised_auxiliary=dice_ce(nets.auxiliary(batch.labelled).logits, batch.label),
        )
        if len(batch.unlabelled):
            target = predict_probabilities(nets.teacher, self.noise(batch.unlabelled, step.generator))
            pseudo_label = predict_probabilities(nets.auxiliary, batch.unlabelled).argmax(1)
            same = (pseudo_label == target.argmax(1)).unsqueeze(1)
            terms["consistency_student"] = self.ramp(step) * consistency_loss("mse", logits[count:], target)
            terms["pseudo_student"] = self.pseudo(step) * cross_entropy(logits[count:], pseudo_label, weight=same)
            terms.notes["accepted"] = same.to(logits.dtype).mean()
        return terms
