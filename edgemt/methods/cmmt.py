"""CMMT-Net: cross-head mutual mean teaching."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import (
    consistency_loss,
    dice,
    dice_ce,
    mse,
    onehot,
    probabilities,
)
from edgemt.learning.method import LossTerms, every_decoder
from edgemt.learning.perturbations.features import vat_perturbation
from edgemt.learning.perturbations.mixing import sample_mixup_lambda
from edgemt.learning.pseudo_labels import argmax_one_hot, sharpen
from edgemt.learning.roles import Networks, untracked, unwrap
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class CMMTNet(StudentTeacher):
    """CMMT-Net: two decoders follow the other decoder of their average, with adversarial noise and mixup.

    With heads p_i of the student, q_j of the average, j the other head: L = mean_i dice_ce(i_l, y_l)
    + ramp(t) mean_i [MSE(p_i, sharpen(q_j)) + pseudo Dice(p_i, argmax q_j) + push Dice(p_i(x + r_adv), p_i(x))
    + mixed MSE(p_i(mix), mix(q_j, y_l))]. T 0.1, r_adv by VAT with epsilon = xi = reach, all weights 1 as released.

    Target: the average's other head, sharpened and as hard labels, trusted everywhere.

    Differs: the released code does not run (the mixing factor is undefined), never uses the mixed outputs and takes
    cross-entropy of a softmax; here mixtures are compared with the mixture of label and teacher, and labels are learnt
    with Dice and cross-entropy.
    """

    heads: ClassVar[tuple[Head, ...]] = ("decoder2",)
    family: ClassVar[str] = "several decoders"
    citation: ClassVar[str] = "Li et al., CMMT-Net: cross-head mutual mean-teaching for segmentation"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=1.0))
    temperature: float = 0.1
    pseudo: float = 1.0  # weight of the pseudo-labels
    push: float = 1.0  # weight of the adversarial noise
    mixed: float = 1.0  # weight of the mixtures
    reach: float = 10.0  # epsilon and xi of VAT
    alpha: float = 0.5  # of the Beta distribution of mixup

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        count, rows, weak = batch.count, len(batch.unlabelled), batch.unlabelled
        heads = two_heads(nets.student, batch.image)
        terms = LossTerms(supervised=mean_of(dice_ce(head[:count], batch.label) for head in heads))
        with torch.no_grad():
            q = [probabilities(head) for head in two_heads(nets.teacher, self.noise(weak, step.generator))]
        p = [probabilities(head[count:]) for head in heads]
        pairs = list(zip(p, q[::-1], strict=True))
        consistency = (mse(a, sharpen(b, temperature=self.temperature)).mean() for a, b in pairs)
        clean = [one.detach() for one in p]

        def divergence(image: Tensor, student: nn.Module) -> Tensor:
            """Dice distance of the predictions on `image` from those on the clean one."""
            return mean_of(dice(probabilities(a), b) for a, b in zip(two_heads(student, image), clean, strict=True))

        unwrapped = partial(divergence, student=unwrap(nets.student))
        with untracked(nets.student):
            adversarial = weak + vat_perturbation(unwrapped, weak, step.generator, epsilon=self.reach, xi=self.reach)
            vat_loss = divergence(adversarial, nets.student)
        partner = torch.arange(rows, device=weak.device) % count
        lam = sample_mixup_lambda(weak, step.generator, alpha=self.alpha)
        image = torch.lerp(weak, batch.labelled[partner], lam)
        truth = onehot(batch.label[partner], q[0].shape[1]).to(q[0].dtype)
        targets = [torch.lerp(one, truth, lam.to(one.dtype)) for one in q[::-1]]
        terms["consistency"] = self.ramp(step) * mean_of(consistency)
        terms["pseudo"] = self.ramp(step) * self.pseudo * mean_of(dice(a, argmax_one_hot(b)) for a, b in pairs)
        terms["push"] = self.ramp(step) * self.push * vat_loss
        mixtures = zip(two_heads(nets.student, image), targets, strict=True)
        terms["mixed"] = self.ramp(step) * self.mixed * mean_of(consistency_loss("mse", a, b) for a, b in mixtures)
        return terms


def two_heads(network: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the main decoder and of the second one."""
    logits = every_decoder(network(image))
    return logits[0], logits[-1]


def mean_of(losses: Iterable[Tensor]) -> Tensor:
    """Scalar: mean of scalar losses."""
    return torch.stack(list(losses)).mean()
