"""Self-similarity student: targets blended with those of similar patches.

Shapes: N batch, C classes, V patches, *space 2 or 3 axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemt.contract import Batch, Head, Step
from edgemt.learning.auxiliary_tasks import region_means
from edgemt.learning.losses import dice_ce, mse, probabilities
from edgemt.learning.method import LossTerms
from edgemt.learning.roles import Networks
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class SelfSimilarity(StudentTeacher):
    """Inspired by the self-similarity student: near patches look alike, so they correct each other.

    Features of near patches attract and those of far ones repel; the target of every row is the teacher's word, half
    of it replaced by the mean over near patches, each weighed by its likeness.

    Target: the average's softmax, blended with that of near and like patches.

    Differs: of the paper only the abstract was readable. Left out: the average of predictions over epochs, which needs
    a memory of every image.
    """

    inspired: ClassVar[bool] = True
    heads: ClassVar[tuple[Head, ...]] = ("features",)
    family: ClassVar[str] = "label noise"
    citation: ClassVar[str] = "Cheng et al., ECCV 2020, Self-similarity student for partial label segmentation"
    side: int = 8  # patches an axis
    near: float = 1.5  # patches
    blend: float = 0.5
    temperature: float = 0.1
    pull: float = 0.1  # of the likeness, beside the consistency

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        said, weight = nets.student(batch.image), self.ramp(step)
        with torch.no_grad():
            wise = nets.teacher(self.noise(batch.image, step.generator))
            q = probabilities(wise.logits)
            close = neighbouring_patches(region_means(q, self.side), reach=self.near)
            trust = self._alike(wise.features).masked_fill(~close, -torch.inf).softmax(2)
            coarse = region_means(q, self.side)
            mean = (trust.to(coarse.dtype) @ coarse.flatten(2).transpose(1, 2)).transpose(1, 2).view_as(coarse)
            target = torch.lerp(q, F.interpolate(mean, size=q.shape[2:], mode="nearest").to(q.dtype), self.blend)
        alike = self._alike(said.features)
        friends = alike.masked_fill(~close, -torch.inf).logsumexp(2) - alike.logsumexp(2)
        return LossTerms(
            supervised=dice_ce(said.logits[: batch.count], batch.label),
            consistency=weight * mse(probabilities(said.logits), target).mean(),
            similarity=-weight * self.pull * friends.mean(),
        )

    def _alike(self, features: Tensor) -> Tensor:
        """[N, V, V]: cosines between patches over the temperature, a patch with itself left out."""
        unit = F.normalize(region_means(features, self.side).flatten(2), dim=1)
        own = torch.eye(unit.shape[2], dtype=torch.bool, device=unit.device)
        return (unit.transpose(1, 2) @ unit).masked_fill(own, -torch.inf) / self.temperature


def neighbouring_patches(grid: Tensor, *, reach: float) -> Tensor:
    """bool [V, V]: which cells of a grid [N, C, *side] lie within `reach` of each other, not oneself."""
    lines = [torch.arange(side, device=grid.device, dtype=torch.float32) for side in grid.shape[2:]]
    place = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).flatten(0, -2)
    away = (place[:, None] - place).square().sum(2)
    return (away <= reach**2) & (away > 0)
