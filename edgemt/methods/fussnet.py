"""FUSSNet: fusing two sources of uncertainty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import (
    cross_entropy,
    dice,
    focal,
    mse,
    onehot,
    probabilities,
    soft_iou_loss,
    weighted_mean,
)
from edgemt.learning.method import LossTerms, every_decoder
from edgemt.learning.roles import Networks
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.student_teacher import StudentTeacher

HeadLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


HEAD_LOSSES: tuple[HeadLoss, ...] = (  # logits, int64 labels, weight
    lambda logits, label, weight: cross_entropy(logits, label, weight=weight),
    lambda logits, label, weight: dice(probabilities(logits), onehot(label, logits.shape[1]), weight=weight),
    lambda logits, label, weight: (
        0.5
        * (
            focal(logits, label, weight=weight)
            + soft_iou_loss(probabilities(logits), onehot(label, logits.shape[1]), weight=weight)
        )
    ),
)


@dataclass(frozen=True)
class FUSSNet(StudentTeacher):
    """FUSSNet: heads taught by unlike losses label where they agree; elsewhere the teacher leads softly.

    Follows the release's losses (cross-entropy, Dice, focal, overlap), its uncertain part (MSE a head, up to weight 1,
    ramp 40 of 301 epochs) and its order of stages as that ramp.

    Target: the average's hard labels where all its heads agree, each head's softmax elsewhere.

    Differs: three full-size decoders stand for its four heads, and the third has focal and overlap, half and half; all
    of them must agree, where it compares two pairs; labels are the teacher's of this very step, where it renews them
    every ten epochs. Left out: the aleatoric part, a stochastic network of rank ten.
    """

    heads: ClassVar[tuple[Head, ...]] = ("decoder2", "decoder3")
    family: ClassVar[str] = "uncertainty"
    citation: ClassVar[str] = "Xiang et al., MICCAI 2022, FUSSNet: Fusing two sources of uncertainty"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=1.0, length=0.13))

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        out, count, weight = nets.student(batch.image), batch.count, self.ramp(step)
        said = every_decoder(out)
        with torch.no_grad():
            wise = nets.teacher(self.noise(batch.unlabelled, step.generator))
            every = torch.stack([probabilities(x) for x in every_decoder(wise)])
            labels = every.argmax(2)
            certain = (labels == labels[0]).all(0).unsqueeze(1).to(every.dtype)
        taught = list(zip(said, every, HEAD_LOSSES, strict=True))
        gaps = [weighted_mean(mse(probabilities(mine[count:]), p), 1 - certain) for mine, p, _ in taught]
        terms = LossTerms(
            supervised=torch.stack([teach(mine[:count], batch.label, None) for mine, _, teach in taught]).mean(),
            pseudo=weight * torch.stack([teach(x[count:], labels[0], certain) for x, _, teach in taught]).mean(),
            consistency=weight * torch.stack(gaps).mean(),
        )
        terms.notes["accepted"] = certain.mean()
        return terms
