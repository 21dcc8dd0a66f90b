"""VAT: virtual adversarial training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from edgemt.contract import Batch, Step
from edgemt.learning.losses import consistency_loss, dice_ce, kl, log_probabilities, probabilities
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations.features import vat_perturbation
from edgemt.learning.roles import Networks, untracked, unwrap
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.renamed_fields import renamed_fields


@renamed_fields(epsilon="reach", xi="probe")
@dataclass(frozen=True)
class VAT(Method):
    """VAT: predictions must be robust to the small perturbation that changes them most.

    L = dice_ce(x_l, y_l) + ramp(t) KL(p(x_u) || p(x_u + r_adv)), r_adv by one power iteration (`vat_perturbation`);
    weight 1 from the start, as published.

    Target: the student's own softmax of the clean image.

    Differs: `epsilon` and `xi` are SS-Net's for patches of a million voxels (`epsilon` 6 there for
    slices): the paper's xi of 1e-6 is lost in half precision.
    """

    family: ClassVar[str] = "self-consistency"
    citation: ClassVar[str] = "Miyato et al., TPAMI 2018, Virtual adversarial training"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=1.0, length=0.0))
    epsilon: float = 10.0  # length of the perturbation over all voxels of an image
    xi: float = 10.0  # length of the probe of the power iteration

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        logits = nets.student(batch.image).logits
        terms = LossTerms(supervised=dice_ce(logits[: batch.count], batch.label))
        if len(batch.unlabelled):
            clean = probabilities(logits[batch.count :].detach())

            def divergence(image: Tensor) -> Tensor:
                return kl(log_probabilities(unwrap(nets.student)(image).logits), clean).mean()

            with untracked(nets.student):
                perturbation = vat_perturbation(
                    divergence, batch.unlabelled, step.generator, epsilon=self.epsilon, xi=self.xi
                )
                adversarial_logits = nets.student(batch.unlabelled + perturbation).logits
            terms["adversarial"] = self.ramp(step) * consistency_loss("kl", adversarial_logits, clean)
        return terms
