"""Second tasks that several methods share: discriminator, signed-distance head, means over regions.

Shapes: N batch, L labelled, C classes, K image channels or any number of maps, *space 2 or 3 axes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemt.contract import Batch, Output
from edgemt.learning.losses import dice_ce, mse
from edgemt.learning.method import LossTerms
from edgemt.learning.pseudo_labels import signed_distance
from edgemt.learning.roles import Trainable


def discriminator_role(rate: float) -> Trainable:
    """Role of a `Discriminator`: Adam with the constant learning rate `rate` and betas 0.9, 0.99, as released."""
    return Trainable(kind="discriminator", rate=rate, optimiser="adam", betas=(0.9, 0.99))


class Discriminator(nn.Module):
    """(probabilities [N, C, *space], image [N, K, *space]) -> logits [N, 2]; class 1 means labelled.

    As in SSL4MIS: 4x4 convolutions of stride 2 from 64 to 512 channels; channel dropout of 0.5 after those in the
    middle (for volumes after the first, too). A global mean replaces the patch size that the release hard-codes;
    images under 16 voxels a side are enlarged.
    """

    def __init__(self, *, classes: int, channels: int, dimensions: int = 2, width: int = 64) -> None:
        super().__init__()
        conv: type[nn.Conv2d] | type[nn.Conv3d] = nn.Conv3d if dimensions == 3 else nn.Conv2d
        dropout: type[nn.Dropout2d] | type[nn.Dropout3d] = nn.Dropout3d if dimensions == 3 else nn.Dropout2d
        self.probability_conv = conv(classes, width, 4, stride=2, padding=1)
        self.image_conv = conv(channels, width, 4, stride=2, padding=1)
        widths = (width, width * 2, width * 4, width * 8)
        body: list[nn.Module] = [nn.LeakyReLU(0.2), dropout(0.5)] if dimensions == 3 else []
        for in_channels, out_channels in pairwise(widths):
            body += [conv(in_channels, out_channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2), dropout(0.5)]
        self.body = nn.Sequential(*body[:-1])  # no dropout after the last one
        self.judge = nn.Linear(widths[-1], 2)

    def forward(self, probability: Tensor, image: Tensor) -> Tensor:
        size = [max(side, 16) for side in image.shape[2:]]
        if size != list(image.shape[2:]):
            probability, image = (F.interpolate(x, size=size) for x in (probability, image))
        features = self.probability_conv(probability) + self.image_conv(image)
        return self.judge(self.body(features).flatten(2).mean(2))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Loads checkpoints that name the first two layers as before, so that an interrupted run can go on."""
        for old, new in (("said", "probability_conv"), ("seen", "image_conv")):
            for kind in ("weight", "bias"):
                if f"{prefix}{old}.{kind}" in state_dict:
                    state_dict[f"{prefix}{new}.{kind}"] = state_dict.pop(f"{prefix}{old}.{kind}")
        super()._load_from_state_dict(state_dict, prefix, *args)


def region_means(x: Tensor, side: int) -> Tensor:
    """[N, K, *space] -> [N, K, *regions]: means over a grid of at most `side` regions an axis, in float32 at least."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.interpolate(x, size=[min(side, size) for size in x.shape[2:]], mode="area")


def grid_means(x: Tensor, *, grid: int) -> Tensor:
    """[N, K, *space] -> [N, K, V]: means over a grid of at most `grid` cells an axis, V cells in all."""
    size = tuple(min(grid, side) for side in x.shape[2:])
    pool = nn.AdaptiveAvgPool3d(size) if x.ndim == 5 else nn.AdaptiveAvgPool2d(size)
    return pool(x).flatten(2)


def dual_task_losses(out: Output, batch: Batch, *, sdf_weight: float) -> LossTerms:
    """Supervised losses of a network with a signed-distance head, on the labelled rows.

    supervised = 0.5 (cross-entropy + Dice); supervised_sdf = sdf_weight mean((sdf - signed_distance(label))^2).
    """
    assert out.sdf is not None
    truth = signed_distance(batch.label, classes=out.logits.shape[1])
    return LossTerms(
        supervised=dice_ce(out.logits[: batch.count], batch.label),
        supervised_sdf=sdf_weight * mse(out.sdf[: batch.count].float(), truth).mean(),
    )


def mask_from_sdf(sdf: Tensor, *, steepness: float) -> Tensor:
    """sigmoid(-steepness sdf), [N, C - 1, *space]: probability of the inside, a smooth step at distance 0."""
    return torch.sigmoid(-steepness * sdf.float())
