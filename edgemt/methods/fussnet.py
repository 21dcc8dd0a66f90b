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


HEAD_LOSSES: tuple[HeadLoss, ...] = (  # of logits, int64 labels, weight; one for each decoder
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
    """FUSSNet: decoders with different losses label voxels where they agree; elsewhere soft consistency.

    With q_k the average's softmax of decoder k, M = 1 where all argmax q_k are equal, y' that label, L_k the losses
    (cross-entropy; Dice; half focal and half soft IoU): L = mean_k L_k(k_l, y_l)
    + ramp(t) mean_k [L_k(k_u, y'; M) + sum((1 - M) (p_k - q_k)^2) / sum(1 - M)].

    Follows the release: MSE of the uncertain part up to weight 1, ramp 40 of 301 epochs, and its order of stages as
    that ramp.

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
        logits = every_decoder(out)
        with torch.no_grad():
            teacher_out = nets.teacher(self.noise(batch.unlabelled, step.generator))
            q = torch.stack([probabilities(one) for one in every_decoder(teacher_out)])
            labels = q.argmax(2)
            certain = (labels == labels[0]).all(0).unsqueeze(1).to(q.dtype)
        heads = list(zip(logits, q, HEAD_LOSSES, strict=True))
        consistency_losses = [
            weighted_mean(mse(probabilities(x[count:]), target), 1 - certain) for x, target, _ in heads
        ]
        terms = LossTerms(
            supervised=torch.stack([loss(x[:count], batch.label, None) for x, _, loss in heads]).mean(),
            pseudo=weight * torch.stack([loss(x[count:], labels[0], certain) for x, _, loss in heads]).mean(),
            consistency=weight * torch.stack(consistency_losses).mean(),
        )
        terms.notes["accepted"] = certain.mean()
        return terms
