"""VAT: virtual adversarial training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from edgemt.contract import Batch, Step
from edgemt.learning.losses import consistency_loss, dice_ce, kl, log_probabilities, probabilities
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations import vat_perturbation
from edgemt.learning.roles import Networks, untracked, unwrap
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class VAT(Method):
    """What is said of an unlabelled image should withstand the small push that changes it most.

    One power iteration, KL, weight 1 from the start, as published.

    Target: the student's own softmax of the calm image.

    Differs: the length of the push and of its probe are SS-Net's for patches of a million voxels (`reach` 6 there for
    slices): the paper's probe of 1e-6 is lost in half precision.
    """

    family: ClassVar[str] = "self-consistency"
    citation: ClassVar[str] = "Miyato et al., TPAMI 2018, Virtual adversarial training"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=1.0, length=0.0))
    reach: float = 10.0  # length of the push over all voxels of an image
    probe: float = 10.0

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        logits = nets.student(batch.image).logits
        terms = LossTerms(supervised=dice_ce(logits[: batch.count], batch.label))
        if len(batch.unlabelled):
            calm = probabilities(logits[batch.count :].detach())

            def moved(image: Tensor) -> Tensor:
                return kl(log_probabilities(unwrap(nets.student)(image).logits), calm).mean()

            with untracked(nets.student):
                push = vat_perturbation(moved, batch.unlabelled, step.generator, epsilon=self.reach, xi=self.probe)
                pushed = nets.student(batch.unlabelled + push).logits
            terms["adversarial"] = self.ramp(step) * consistency_loss("kl", pushed, calm)
        return terms
