"""A discriminator tells predictions on labelled images from others; the student hides the difference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemt.contract import Batch, Step
from edgemt.losses import dice_ce, probabilities
from edgemt.methods.method import Method, Terms, Turn
from edgemt.ramps import Ramp
from edgemt.roles import Players, Role, Trainable


@dataclass(frozen=True)
class Adversarial(Method):
    """DAN: unlabelled predictions should look like labelled ones to a judge of (softmax, image).

    Follows SSL4MIS (weight 0.1 ramped up, Adam 1e-4, labelled 1 and unlabelled 0). The engine builds kind
    "discriminator", see `Discriminator`.

    Target: the discriminator's word "labelled".

    Differs: the discriminator judges the predictions of this step's one forward pass, where the release makes a second
    one in eval mode; any numbers of labelled and unlabelled rows are right.
    """

    citation: ClassVar[str] = "Zhang et al., MICCAI 2017, Deep adversarial networks for biomedical segmentation"
    ramp: Ramp = field(default_factory=Ramp)
    lr_scale: float = 0.1  # of the discriminator

    def roles(self) -> dict[str, Role]:
        judge = Trainable(kind="discriminator", lr_scale=self.lr_scale, optimiser="adam")
        return {"student": Trainable(), "discriminator": judge}

    def steps(self, nets: Players, batch: Batch, step: Step) -> Iterator[Turn]:
        count = batch.count
        if not len(batch.unlabelled):
            yield ("student",), Terms(supervised=dice_ce(nets.student(batch.labelled).logits, batch.label))
            return
        logits = nets.student(batch.image).logits
        p = probabilities(logits)
        judged = nets.discriminator(p[count:], batch.unlabelled)
        fooled = F.cross_entropy(judged, torch.ones(len(judged), dtype=torch.int64, device=p.device))
        yield (
            ("student",),
            Terms(supervised=dice_ce(logits[:count], batch.label), adversarial=self.ramp(step) * fooled),
        )
        judged = nets.discriminator(p.detach(), batch.image)
        truth = (torch.arange(len(judged), device=p.device) < count).long()
        yield ("discriminator",), Terms(discriminator=F.cross_entropy(judged, truth))


class Discriminator(nn.Module):
    """(probabilities [N, C, *space], image [N, K, *space]) -> logits [N, 2]; class 1 means labelled.

    Four strided convolutions as in SSL4MIS, with a global mean where the release hard-codes the patch size.
    """

    def __init__(self, *, classes: int, channels: int, dimensions: int = 2, width: int = 32) -> None:
        super().__init__()
        conv: type[nn.Conv2d] | type[nn.Conv3d] = nn.Conv3d if dimensions == 3 else nn.Conv2d
        self.said = conv(classes, width, 3, stride=2, padding=1)
        self.seen = conv(channels, width, 3, stride=2, padding=1)
        widths = (width, width * 2, width * 4, width * 8)
        self.body = nn.Sequential(
            *(m for a, b in pairwise(widths) for m in (conv(a, b, 3, stride=2, padding=1), nn.LeakyReLU(0.2)))
        )
        self.judge = nn.Linear(widths[-1], 2)

    def forward(self, probability: Tensor, image: Tensor) -> Tensor:
        both = F.leaky_relu(self.said(probability) + self.seen(image), 0.2)
        return self.judge(self.body(both).flatten(2).mean(2))
