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
from edgemt.learning.perturbations import sample_mixup_lambda, vat_perturbation
from edgemt.learning.pseudo_labels import argmax_one_hot, sharpen
from edgemt.learning.roles import Networks, untracked, unwrap
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class CMMTNet(StudentTeacher):
    """CMMT-Net: two heads follow the other head of their average, under noise, pushes and mixtures.

    Sharpened squared error (T 0.1, ramped up), Dice with the other head's hard labels, adversarial smoothness (VAT,
    reach 10), all weight 1 as released, and mixtures of labelled and unlabelled images.

    Target: the average's other head, sharpened and as hard labels, trusted everywhere.

    Differs: the released code does not run (the mixing share is undefined), never uses the mixed outputs and takes
    cross-entropy of a softmax; here mixtures are compared with the mixture of label and teacher, and labels are learnt
    with Dice and cross-entropy.
    """

    heads: ClassVar[tuple[Head, ...]] = ("decoder2",)
    family: ClassVar[str] = "several decoders"
    citation: ClassVar[str] = "Li et al., CMMT-Net: cross-head mutual mean-teaching for segmentation"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=1.0))
    temperature: float = 0.1
    pseudo: float = 1.0
    push: float = 1.0
    mixed: float = 1.0
    reach: float = 10.0
    alpha: float = 0.5

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        count, rows, weak = batch.count, len(batch.unlabelled), batch.unlabelled
        heads = two_heads(nets.student, batch.image)
        terms = LossTerms(supervised=mean_of(dice_ce(head[:count], batch.label) for head in heads))
        with torch.no_grad():
            wise = [probabilities(h) for h in two_heads(nets.teacher, self.noise(weak, step.generator))]
        said = [probabilities(head[count:]) for head in heads]
        pairs = list(zip(said, wise[::-1], strict=True))
        gaps = (mse(p, sharpen(q, temperature=self.temperature)).mean() for p, q in pairs)
        own = [p.detach() for p in said]

        def moved(image: Tensor, student: nn.Module) -> Tensor:
            return mean_of(dice(probabilities(h), p) for h, p in zip(two_heads(student, image), own, strict=True))

        calmly = partial(moved, student=unwrap(nets.student))
        with untracked(nets.student):
            pushed = weak + vat_perturbation(calmly, weak, step.generator, epsilon=self.reach, xi=self.reach)
            push = moved(pushed, nets.student)
        partner = torch.arange(rows, device=weak.device) % count
        share = sample_mixup_lambda(weak, step.generator, alpha=self.alpha)
        image = torch.lerp(weak, batch.labelled[partner], share)
        truth = onehot(batch.label[partner], wise[0].shape[1]).to(wise[0].dtype)
        targets = [torch.lerp(q, truth, share.to(q.dtype)) for q in wise[::-1]]
        terms["consistency"] = self.ramp(step) * mean_of(gaps)
        terms["pseudo"] = self.ramp(step) * self.pseudo * mean_of(dice(p, argmax_one_hot(q)) for p, q in pairs)
        terms["push"] = self.ramp(step) * self.push * push
        mixtures = zip(two_heads(nets.student, image), targets, strict=True)
        terms["mixed"] = self.ramp(step) * self.mixed * mean_of(consistency_loss("mse", h, q) for h, q in mixtures)
        return terms


def two_heads(network: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the main decoder and of the second one."""
    logits = every_decoder(network(image))
    return logits[0], logits[-1]


def mean_of(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean()
