"""How a promptable network of our own learns: from labelled images and questions about them.

Shapes: L labelled rows, O objects (foreground classes), *space 2 or 3 axes, V slices, H W a frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemt.contract import Batch, Step
from edgemt.learning.losses import onehot, weighted_mean
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.prompts import from_prediction, spoiled
from edgemt.learning.roles import Ema, Networks, Role, Trainable

# What a step leaves out; half of them ask with all there is, as the second teacher is asked.
LEFT_OUT = ((), (), (), ("points",), ("masks",), ("points", "masks"), ("boxes", "masks"))


@dataclass(frozen=True)
class PromptableSupervised(Method):
    """Labelled images alone: a wrong prediction is made up from the label, asked about, and the label is the answer.

    It is asked just as a mean teacher's prediction will be (`from_prediction`), with some kinds of prompt left out at a
    step, so that each serves alone too. Dice and cross-entropy an object, and the error of the overlap that it expects
    of its own answer. A class that the label lacks is no question. Unlabelled rows are not looked at.
    """

    delivers: ClassVar[str] = "average"
    citation: ClassVar[str] = "Kirillov et al., ICCV 2023, Segment anything (how it is trained with simulated prompts)"
    classes: int = 2
    ema: Ema = field(default_factory=lambda: Ema(mode="eval"))
    slices: int = 16  # of each labelled volume

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable("promptable"), "average": self.ema}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        image, label = self._frames(batch, step)
        prompts, asked = from_prediction(spoiled(label, classes=self.classes, generator=step.generator))
        truth = onehot(label, self.classes)[:, 1:]
        # The very class may be missing from the made-up prediction, or wrongly shown: then there is no fair question.
        weight = (asked & truth.flatten(2).any(2)).to(truth.dtype)
        which = int(torch.randint(len(LEFT_OUT), (), generator=step.generator, device=label.device))
        logits, quality = nets.student(image, *prompts.without(*LEFT_OUT[which]))
        p = logits.sigmoid()
        both, sizes = (p * truth).flatten(2).sum(2), (p.square() + truth).flatten(2).sum(2)
        overlap = weighted_mean(1 - (2 * both + 1) / (sizes + 1), weight)
        pixels = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").flatten(2).mean(2)
        hit = (logits.detach() > 0).to(truth.dtype)
        either = (hit + truth).clamp_max(1).flatten(2).sum(2)
        real = (hit * truth).flatten(2).sum(2) / either.clamp_min(1)
        terms = LossTerms(overlap=overlap, pixels=weighted_mean(pixels, weight))
        terms["quality"] = 0.5 * weighted_mean((quality - real).square(), weight)
        terms.notes["iou"] = weighted_mean(real, weight)
        return terms

    def _frames(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        """[V, K, H, W] and int64 [V, H, W]: the images themselves, or some slices of volumes."""
        if batch.label.ndim == 3:
            return batch.labelled, batch.label
        depth = batch.label.shape[-1]
        drawn = torch.randperm(depth, generator=step.generator, device=batch.label.device)[: self.slices]
        return tuple(x[..., drawn].movedim(-1, 1).flatten(0, 1) for x in (batch.labelled, batch.label))  # type: ignore[return-value]
