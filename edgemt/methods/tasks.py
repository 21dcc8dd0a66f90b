"""Two tasks of one network: the classes, and signed distances to their borders.

Shapes: N batch, C classes, *space 2 or 3 axes; a signed distance [N, C - 1, *space] is negative inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemt.contract import Batch, Head, Output, Step
from edgemt.learning.losses import dice_ce, mse, probabilities
from edgemt.learning.method import Method, Terms, Turn
from edgemt.learning.pseudo_labels import signed_distance
from edgemt.learning.roles import Players, Role, Trainable, evaluating
from edgemt.learning.schedules import Ramp
from edgemt.methods.adversarial import discriminator
from edgemt.methods.as_published import VOLUMES, Published


def two_tasks(out: Output, batch: Batch, *, shape: float) -> Terms:
    """What the labelled rows teach: the classes, and with weight `shape` the distances."""
    assert out.sdf is not None
    truth = signed_distance(batch.label, classes=out.logits.shape[1])
    return Terms(
        supervised=dice_ce(out.logits[: batch.count], batch.label),
        supervised_sdf=shape * mse(out.sdf[: batch.count].float(), truth).mean(),
    )


def mask_of(sdf: Tensor, *, steepness: float) -> Tensor:
    """Probability [N, C - 1, *space] of being inside: nearly a step at distance 0."""
    return torch.sigmoid(-steepness * sdf.float())


@dataclass(frozen=True)
class DualTask(Method):
    """The mask that follows from predicted distances and the predicted mask should agree, on every image.

    Follows the release: steepness 1500, weight 1, distance weight 0.3, all rows. So steep, the gradient reaches the
    distances only within a fraction of a voxel of the predicted surface; 50 to 200 is a fair thing to try.

    Target: the student's own mask, by its other head.

    Differs: classes have one distance map each and labels are learnt with Dice and cross-entropy, where the release
    has one class and Dice alone. The ramp is the first 0.4 of the run where theirs is all of it.
    """

    heads: ClassVar[tuple[Head, ...]] = ("sdf",)
    release: ClassVar[Published | None] = VOLUMES
    citation: ClassVar[str] = "Luo et al., AAAI 2021, Semi-supervised segmentation through dual-task consistency"
    ramp: Ramp = field(default_factory=lambda: Ramp(top=1.0))
    shape: float = 0.3
    steepness: float = 1500.0

    def losses(self, nets: Players, batch: Batch, step: Step) -> Terms:
        out = nets.student(batch.image)
        gap = mse(mask_of(out.sdf, steepness=self.steepness), probabilities(out.logits)[:, 1:]).mean()
        return Terms(**two_tasks(out, batch, shape=self.shape), consistency=self.ramp(step) * gap)


@dataclass(frozen=True)
class ShapeAdversarial(Method):
    """Distances of unlabelled images should look like those of labelled ones to a judge of both.

    Follows the release: distance weight 0.3, adversarial weight 0.01 as for 16 labels, 0.015 for 8; the discriminator,
    its optimiser and the treatment of intensity are those of `dan`.

    Target: the discriminator's word "labelled".

    Differs: the two-turn form of `dan`: the discriminator sees the predictions of this step's one forward pass. The
    ramp is the first 0.4 of the run where theirs is all of it.
    """

    heads: ClassVar[tuple[Head, ...]] = ("sdf",)
    alike: ClassVar[bool] = True
    release: ClassVar[Published | None] = VOLUMES
    citation: ClassVar[str] = "Li et al., MICCAI 2020, Shape-aware semi-supervised 3D semantic segmentation"
    ramp: Ramp = field(default_factory=lambda: Ramp(top=0.01))
    shape: float = 0.3
    rate: float = 1e-4  # of the discriminator

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "discriminator": discriminator(self.rate)}

    def steps(self, nets: Players, batch: Batch, step: Step) -> Iterator[Turn]:
        out = nets.student(batch.image)
        terms = two_tasks(out, batch, shape=self.shape)
        if not len(batch.unlabelled):
            yield ("student",), terms
            return
        # A judge takes a map a class: the background, which has no distance, gets one of zeros.
        seen = F.pad(out.sdf, (0, 0) * (out.sdf.ndim - 2) + (1, 0))
        with evaluating(nets.discriminator):
            judged = nets.discriminator(seen[batch.count :], batch.unlabelled)
        fooled = F.cross_entropy(judged, torch.ones(len(judged), dtype=torch.int64, device=judged.device))
        yield ("student",), Terms(**terms, adversarial=self.ramp(step) * fooled)
        judged = nets.discriminator(seen.detach(), batch.image)
        truth = (torch.arange(len(judged), device=judged.device) < batch.count).long()
        yield ("discriminator",), Terms(discriminator=F.cross_entropy(judged, truth))
