"""Temporal ensembling: consistency with the moving average of past predictions.

Shapes: N batch, U unlabelled, C classes, *space 2 or 3 axes, G cells of the grid of the ensemble.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemt.contract import Batch, Step
from edgemt.learning.losses import dice_ce, mse, probabilities, weighted_mean
from edgemt.learning.method import LossTerms, Method, OptimiserStep
from edgemt.learning.roles import Memory, Networks, Role, Trainable
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class TemporalEnsembling(Method):
    """What is said of an unlabelled image should be what was said of it over the past epochs.

    The running sum is divided by the weight it has, as published (the start-up correction), which is also how a cell
    that was never seen is known. For volumes there are fewer images: `images=128, cells=8000` takes the same memory
    and is finer.

    Target: the remembered mean softmax of each place of the image, where it was seen before.

    Differs: the paper remembers one vector an image. A segmentation moves under its augmentation, so here the mean
    probability of each cell of a grid laid over the whole image is remembered, and voxels are led back to their cells
    through `Batch.place`. Unlabelled rows only.
    """

    family: ClassVar[str] = "self-consistency"
    citation: ClassVar[str] = "Laine & Aila, ICLR 2017, Temporal ensembling for semi-supervised learning"
    ramp: SigmoidRampUp = field(default_factory=SigmoidRampUp)
    momentum: float = 0.6
    images: int = 2048  # labelled and unlabelled ones that there is room for
    cells: int = 1024  # of an image: 32 by 32, or 10 by 10 by 10
    classes: int = 4  # at most

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "ensemble": Memory(self.images, self.cells, self.classes)}

    def steps(self, nets: Networks, batch: Batch, step: Step) -> Iterator[OptimiserStep]:
        count, free = batch.count, len(batch.unlabelled)
        logits = nets.student(batch.image).logits
        terms = LossTerms(supervised=dice_ce(logits[:count], batch.label))
        if not free:
            yield ("student",), terms
            return
        rows = self._rows(batch, classes=logits.shape[1])
        assert batch.place is not None
        said, voxels = cell_means(probabilities(logits[count:]), batch.place[count:], cells=self.cells)
        past = nets.ensemble.vectors[: said.shape[1], rows, : said.shape[2]].movedim(0, 1)  # [U, C, G]
        worth = past.sum(1, keepdim=True)
        gap = weighted_mean(mse(said, past / worth.clamp_min(1e-6)), voxels * (worth > 0))
        yield ("student",), LossTerms(**terms, consistency=self.ramp(step) * gap)
        # Behind the yield: a step whose loss was not finite leaves the ensemble alone.
        now = torch.where(voxels > 0, self.momentum * past + (1.0 - self.momentum) * said.detach(), past)
        nets.ensemble.vectors[: said.shape[1], rows, : said.shape[2]] = now.movedim(1, 0).to(past.dtype)
        nets.ensemble.filled.fill_(self.images)

    def _rows(self, batch: Batch, *, classes: int) -> Tensor:
        if batch.index is None or batch.place is None:
            raise ValueError("temporal ensembling: these batches do not say which image a row shows, and where")
        rows = batch.index[batch.count :]
        if int(rows.max()) >= self.images:
            raise ValueError(f"images: {self.images} is too few, image number {int(rows.max())} came; raise it")
        if classes > self.classes:
            raise ValueError(f"classes: {self.classes} is too few, the network tells {classes} apart; raise it")
        return rows


def cell_means(p: Tensor, place: Tensor, *, cells: int) -> tuple[Tensor, Tensor]:
    """Means [U, C, G] of `p` [U, C, *space] over the cells of each whole image, and the voxels in each [U, 1, G].

    `place` is that of a `Batch`; G is the largest power of a whole side up to `cells`.
    """
    axes = p.ndim - 2
    side = int(cells ** (1.0 / axes) + 1e-6)
    grid = F.affine_grid(place.float(), [len(p), 1, *p.shape[2:]], align_corners=False)
    at = ((grid + 1.0) / 2.0 * side).floor().long()
    inside = ((at >= 0) & (at < side)).all(-1)
    powers = torch.tensor([side**k for k in range(axes)], device=p.device)
    at = torch.where(inside, (at * powers).sum(-1), side**axes).flatten(1)[:, None]  # the last cell is thrown away
    voxels = torch.zeros(len(p), 1, side**axes + 1, device=p.device, dtype=p.dtype)
    voxels = voxels.scatter_add(2, at, torch.ones_like(at, dtype=p.dtype))[..., :-1]
    sums = torch.zeros(*p.shape[:2], side**axes + 1, device=p.device, dtype=p.dtype)
    sums = sums.scatter_add(2, at.expand(-1, p.shape[1], -1), p.flatten(2))[..., :-1]
    return sums / voxels.clamp_min(1.0), voxels
