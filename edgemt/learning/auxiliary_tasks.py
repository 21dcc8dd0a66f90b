"""Second tasks that several methods share: discriminator, signed-distance head, means over regions.

Shapes: N batch, L labelled, U unlabelled, C classes, F features, *space 2 or 3 axes.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemt.contract import Batch, Output
from edgemt.learning.losses import (
    dice_ce,
    mse,
)
from edgemt.learning.method import LossTerms
from edgemt.learning.pseudo_labels import signed_distance
from edgemt.learning.roles import Trainable


def discriminator(rate: float) -> Trainable:
    """The role of a `Discriminator`: Adam at a constant rate, as released."""
    return Trainable(kind="discriminator", rate=rate, optimiser="adam", betas=(0.9, 0.99))


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


def pooled(x: Tensor, side: int) -> Tensor:
    """Means over a grid of at most `side` regions an axis, in float32 at least."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.interpolate(x, size=[min(side, size) for size in x.shape[2:]], mode="area")


def coarse(x: Tensor, *, grid: int) -> Tensor:
    """[N, K, *space] -> [N, K, V]: means over at most `grid` places along each axis."""
    size = tuple(min(grid, side) for side in x.shape[2:])
    pool = nn.AdaptiveAvgPool3d(size) if x.ndim == 5 else nn.AdaptiveAvgPool2d(size)
    return pool(x).flatten(2)


def two_tasks(out: Output, batch: Batch, *, shape: float) -> LossTerms:
    """What the labelled rows teach: the classes, and with weight `shape` the distances."""
    assert out.sdf is not None
    truth = signed_distance(batch.label, classes=out.logits.shape[1])
    return LossTerms(
        supervised=dice_ce(out.logits[: batch.count], batch.label),
        supervised_sdf=shape * mse(out.sdf[: batch.count].float(), truth).mean(),
    )


def mask_of(sdf: Tensor, *, steepness: float) -> Tensor:
    """Probability [N, C - 1, *space] of being inside: nearly a step at distance 0."""
    return torch.sigmoid(-steepness * sdf.float())
