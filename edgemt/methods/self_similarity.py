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
    """Inspired by the self-similarity student: targets blended with those of similar nearby patches.

    With similarities s = cos / T between patch features and weights w = softmax(s) over the neighbours of a patch, the
    target is (1 - blend) q + blend w q. L = dice_ce(x_l, y_l) + ramp(t) [MSE(p, target) - pull mean(logsumexp of s over
    neighbours - logsumexp of s over all patches)]: features of neighbours attract, those of other patches repel.

    Target: the average's softmax, blended with that of near and similar patches.

    Differs: of the paper only the abstract was readable. Left out: the average of predictions over epochs, which needs
    a memory of every image.
    """

    inspired: ClassVar[bool] = True
    heads: ClassVar[tuple[Head, ...]] = ("features",)
    family: ClassVar[str] = "label noise"
    citation: ClassVar[str] = "Cheng et al., ECCV 2020, Self-similarity student for partial label segmentation"
    side: int = 8  # patches an axis
    near: float = 1.5  # radius of the neighbourhood, in patches
    blend: float = 0.5
    temperature: float = 0.1
    pull: float = 0.1  # weight of the similarity loss within the ramp

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        student_out, weight = nets.student(batch.image), self.ramp(step)
        with torch.no_grad():
            teacher_out = nets.teacher(self.noise(batch.image, step.generator))
            q = probabilities(teacher_out.logits)
            neighbours = neighbouring_patches(region_means(q, self.side), radius=self.near)
            similarity = self._similarity(teacher_out.features)
            weights = similarity.masked_fill(~neighbours, -torch.inf).softmax(2)
            coarse = region_means(q, self.side)
            mean = (weights.to(coarse.dtype) @ coarse.flatten(2).transpose(1, 2)).transpose(1, 2).view_as(coarse)
            target = torch.lerp(q, F.interpolate(mean, size=q.shape[2:], mode="nearest").to(q.dtype), self.blend)
        similarity = self._similarity(student_out.features)
        log_ratio = similarity.masked_fill(~neighbours, -torch.inf).logsumexp(2) - similarity.logsumexp(2)
        return LossTerms(
            supervised=dice_ce(student_out.logits[: batch.count], batch.label),
            consistency=weight * mse(probabilities(student_out.logits), target).mean(),
            similarity=-weight * self.pull * log_ratio.mean(),
        )

    def _similarity(self, features: Tensor) -> Tensor:
        """[N, V, V]: cosines between mean features of patches, divided by the temperature; -inf on the diagonal."""
        unit = F.normalize(region_means(features, self.side).flatten(2), dim=1)
        diagonal = torch.eye(unit.shape[2], dtype=torch.bool, device=unit.device)
        return (unit.transpose(1, 2) @ unit).masked_fill(diagonal, -torch.inf) / self.temperature


def neighbouring_patches(grid: Tensor, *, radius: float) -> Tensor:
    """Pairs, bool [V, V], of different cells of a grid [N, C, *side] at a distance of at most `radius` cells."""
    lines = [torch.arange(side, device=grid.device, dtype=torch.float32) for side in grid.shape[2:]]
    position = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).flatten(0, -2)
    squared_distance = (position[:, None] - position).square().sum(2)
    return (squared_distance <= radius**2) & (squared_distance > 0)
