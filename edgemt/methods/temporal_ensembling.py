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
    """Temporal ensembling: match the moving average of past predictions of the same image.

    With Z <- m Z + (1 - m) p after each step and the bias-corrected target Z / (1 - m^k), k the number of updates:
    L = dice_ce(x_l, y_l) + ramp(t) MSE(p_u, Z / (1 - m^k)), over cells of a grid, where k > 0.

    The factor 1 - m^k is the sum of Z over classes. For volumes there are fewer images: `images=128, cells=8000` takes
    the same memory and is finer.

    Target: the remembered mean softmax of each cell of the image, where there is one.

    Differs: the paper remembers one vector an image. A segmentation moves under its augmentation, so here the mean
    probability of each cell of a grid over the whole image is remembered, and voxels are mapped to their cells by
    `Batch.place`. Unlabelled rows only.
    """

    family: ClassVar[str] = "self-consistency"
    citation: ClassVar[str] = "Laine & Aila, ICLR 2017, Temporal ensembling for semi-supervised learning"
    ramp: SigmoidRampUp = field(default_factory=SigmoidRampUp)
    momentum: float = 0.6
    images: int = 2048  # capacity, labelled and unlabelled ones
    cells: int = 1024  # of an image: 32 by 32, or 10 by 10 by 10
    classes: int = 4  # at most

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "ensemble": Memory(self.images, self.cells, self.classes)}

    def steps(self, nets: Networks, batch: Batch, step: Step) -> Iterator[OptimiserStep]:
        count = batch.count
        logits = nets.student(batch.image).logits
        terms = LossTerms(supervised=dice_ce(logits[:count], batch.label))
        if not len(batch.unlabelled):
            yield ("student",), terms
            return
        rows = self._rows(batch, classes=logits.shape[1])
        assert batch.place is not None
        p, voxels = cell_means(probabilities(logits[count:]), batch.place[count:], cells=self.cells)
        ensemble = nets.ensemble.vectors[: p.shape[1], rows, : p.shape[2]].movedim(0, 1)  # [U, C, G]
        correction = ensemble.sum(1, keepdim=True)
        loss = weighted_mean(mse(p, ensemble / correction.clamp_min(1e-6)), voxels * (correction > 0))
        yield ("student",), LossTerms(**terms, consistency=self.ramp(step) * loss)
        # After the yield: a step whose loss is not finite does not change the ensemble.
        updated = torch.where(voxels > 0, self.momentum * ensemble + (1.0 - self.momentum) * p.detach(), ensemble)
        nets.ensemble.vectors[: p.shape[1], rows, : p.shape[2]] = updated.movedim(1, 0).to(ensemble.dtype)
        nets.ensemble.filled.fill_(self.images)

    def _rows(self, batch: Batch, *, classes: int) -> Tensor:
        """Case indices of the unlabelled rows, int64 [U]. Raises ValueError if the ensemble has no room for them."""
        if batch.index is None or batch.place is None:
            raise ValueError("temporal ensembling: these batches have no case index and position of their rows")
        rows = batch.index[batch.count :]
        if int(rows.max()) >= self.images:
            raise ValueError(f"images: {self.images} is too few, image number {int(rows.max())} came; raise it")
        if classes > self.classes:
            raise ValueError(f"classes: {self.classes} is too few, the network has {classes}; raise it")
        return rows


def cell_means(p: Tensor, affine: Tensor, *, cells: int) -> tuple[Tensor, Tensor]:
    """Means [U, C, G] of `p` [U, C, *space] over the cells of each whole image, and the voxels in each [U, 1, G].

    `affine` [U, A, A + 1] is `Batch.place`; G is the largest power of an integer side up to `cells`.
    """
    axes = p.ndim - 2
    side = int(cells ** (1.0 / axes) + 1e-6)
    grid = F.affine_grid(affine.float(), [len(p), 1, *p.shape[2:]], align_corners=False)
    cell = ((grid + 1.0) / 2.0 * side).floor().long()
    inside = ((cell >= 0) & (cell < side)).all(-1)
    powers = torch.tensor([side**k for k in range(axes)], device=p.device)
    index = torch.where(inside, (cell * powers).sum(-1), side**axes).flatten(1)[:, None]  # outside: a last cell, unused
    voxels = torch.zeros(len(p), 1, side**axes + 1, device=p.device, dtype=p.dtype)
    voxels = voxels.scatter_add(2, index, torch.ones_like(index, dtype=p.dtype))[..., :-1]
    sums = torch.zeros(*p.shape[:2], side**axes + 1, device=p.device, dtype=p.dtype)
    sums = sums.scatter_add(2, index.expand(-1, p.shape[1], -1), p.flatten(2))[..., :-1]
    return sums / voxels.clamp_min(1.0), voxels
