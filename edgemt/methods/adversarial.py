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
from edgemt.learning.losses import dice_ce, probabilities
from edgemt.learning.method import Method, Terms, Turn
from edgemt.learning.roles import Players, Role, Trainable, evaluating
from edgemt.learning.schedules import Ramp
from edgemt.methods.as_published import SSL4MIS, Published


def discriminator(rate: float) -> Trainable:
    """The role of a `Discriminator`: Adam at a constant rate, as released."""
    return Trainable(kind="discriminator", rate=rate, optimiser="adam", betas=(0.9, 0.99))


@dataclass(frozen=True)
class Adversarial(Method):
    """DAN: unlabelled predictions should look like labelled ones to a judge of (softmax, image).

    Follows SSL4MIS (weight 0.1 ramped up; Adam at a constant 1e-4 with betas 0.9 and 0.99; labelled 1 and unlabelled 0;
    no dropout in the discriminator while the student learns). The engine builds kind "discriminator", see
    `Discriminator`. The intensity of unlabelled rows is changed as often as that of labelled ones, or the discriminator
    would see the difference.

    Target: the discriminator's word "labelled".

    Differs: the discriminator judges the predictions of this step's one forward pass, where the release makes a second
    one in eval mode; any numbers of labelled and unlabelled rows are right.
    """

    alike: ClassVar[bool] = True
    release: ClassVar[Published | None] = SSL4MIS
    citation: ClassVar[str] = "Zhang et al., MICCAI 2017, Deep adversarial networks for biomedical segmentation"
    ramp: Ramp = field(default_factory=Ramp)
    rate: float = 1e-4  # of the discriminator

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "discriminator": discriminator(self.rate)}

    def steps(self, nets: Players, batch: Batch, step: Step) -> Iterator[Turn]:
        count = batch.count
        if not len(batch.unlabelled):
            yield ("student",), Terms(supervised=dice_ce(nets.student(batch.labelled).logits, batch.label))
            return
        logits = nets.student(batch.image).logits
        p = probabilities(logits)
        with evaluating(nets.discriminator):
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

    As in SSL4MIS: 4x4 convolutions of stride 2 from 64 to 512 channels, half of the channels dropped behind those in
    the middle (in volumes behind the first, too). A global mean stands where the release hard-codes the patch size;
    images under 16 voxels a side are enlarged.
    """

    def __init__(self, *, classes: int, channels: int, dimensions: int = 2, width: int = 64) -> None:
        super().__init__()
        conv: type[nn.Conv2d] | type[nn.Conv3d] = nn.Conv3d if dimensions == 3 else nn.Conv2d
        drop: type[nn.Dropout2d] | type[nn.Dropout3d] = nn.Dropout3d if dimensions == 3 else nn.Dropout2d
        self.said = conv(classes, width, 4, stride=2, padding=1)
        self.seen = conv(channels, width, 4, stride=2, padding=1)
        widths = (width, width * 2, width * 4, width * 8)
        body: list[nn.Module] = [nn.LeakyReLU(0.2), drop(0.5)] if dimensions == 3 else []
        for inward, outward in pairwise(widths):
            body += [conv(inward, outward, 4, stride=2, padding=1), nn.LeakyReLU(0.2), drop(0.5)]
        self.body = nn.Sequential(*body[:-1])  # nothing is dropped behind the last one
        self.judge = nn.Linear(widths[-1], 2)

    def forward(self, probability: Tensor, image: Tensor) -> Tensor:
        size = [max(side, 16) for side in image.shape[2:]]
        if size != list(image.shape[2:]):
            probability, image = (F.interpolate(x, size=size) for x in (probability, image))
        both = self.said(probability) + self.seen(image)
        return self.judge(self.body(both).flatten(2).mean(2))
