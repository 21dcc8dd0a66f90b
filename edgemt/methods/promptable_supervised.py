"""Supervised training of a small promptable network with simulated prompts.

Shapes: L labelled rows, O objects (foreground classes), *space 2 or 3 axes, V slices, H W a frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemt.contract import Batch, Step
from edgemt.learning.ema import Ema
from edgemt.learning.losses import onehot, weighted_mean
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.prompts import corrupt_label, prompts_from_prediction
from edgemt.learning.roles import Networks, Role, Trainable

# Kinds of prompts that a step leaves out, drawn with equal probability; three of seven steps use all kinds.
PROMPT_DROPOUT = ((), (), (), ("points",), ("masks",), ("points", "masks"), ("boxes", "masks"))


@dataclass(frozen=True)
class PromptableSupervised(Method):
    """Train a promptable network on labelled images, with prompts from simulated predictions.

    A prediction is simulated from the label (`corrupt_label`), prompts are computed from it as they will be from that
    of a mean teacher (`prompts_from_prediction`), and some kinds of prompts are left out at a step. For each object:
    L = Dice + cross-entropy + 0.5 (predicted IoU - IoU)^2. A class that is missing from the label or from the
    prediction has no weight. Unlabelled rows are not used.
    """

    delivers: ClassVar[str] = "average"
    uses_unlabelled: ClassVar[bool] = False
    citation: ClassVar[str] = "Kirillov et al., ICCV 2023, Segment anything (how it is trained with simulated prompts)"
    classes: int = 2
    ema: Ema = field(default_factory=lambda: Ema(mode="eval"))
    slices: int = 16  # of each labelled volume

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable("promptable"), "average": self.ema}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        image, label = self._frames(batch, step)
        prompts, class_present = prompts_from_prediction(
            corrupt_label(label, classes=self.classes, generator=step.generator)
        )
        truth = onehot(label, self.classes)[:, 1:]
        # A class may be missing from the simulated prediction, or be in it alone: it has no weight then.
        weight = (class_present & truth.flatten(2).any(2)).to(truth.dtype)
        dropped = int(torch.randint(len(PROMPT_DROPOUT), (), generator=step.generator, device=label.device))
        logits, predicted_iou = nets.student(image, *prompts.without(*PROMPT_DROPOUT[dropped]))
        p = logits.sigmoid()
        intersection, cardinality = (p * truth).flatten(2).sum(2), (p.square() + truth).flatten(2).sum(2)
        dice_loss = weighted_mean(1 - (2 * intersection + 1) / (cardinality + 1), weight)
        cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").flatten(2).mean(2)
        mask = (logits.detach() > 0).to(truth.dtype)
        union = (mask + truth).clamp_max(1).flatten(2).sum(2)
        iou = (mask * truth).flatten(2).sum(2) / union.clamp_min(1)
        terms = LossTerms(overlap=dice_loss, pixels=weighted_mean(cross_entropy, weight))
        terms["quality"] = 0.5 * weighted_mean((predicted_iou - iou).square(), weight)
        terms.notes["iou"] = weighted_mean(iou, weight)
        return terms

    def _frames(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """Images [V, K, H, W] and labels int64 [V, H, W]: those of the batch, or random slices of its volumes."""
        if batch.label.ndim == 3:
            return batch.labelled, batch.label
        depth = batch.label.shape[-1]
        index = torch.randperm(depth, generator=step.generator, device=batch.label.device)[: self.slices]
        return tuple(x[..., index].movedim(-1, 1).flatten(0, 1) for x in (batch.labelled, batch.label))  # type: ignore[return-value]
