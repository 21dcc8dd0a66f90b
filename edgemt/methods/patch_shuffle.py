"""Mean teacher with shuffled patches and pixel contrast."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import dice_ce, mse, pixel_contrast, probabilities
from edgemt.learning.method import LossTerms
from edgemt.learning.perturbations import PatchGrid
from edgemt.learning.roles import Networks
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class PatchShuffle(StudentTeacher):
    """Inspired by patch shuffling with pixel contrast: a class is known without its surroundings.

    The student sees the unlabelled images with their patches shuffled, the target is shuffled alike, and its features
    are drawn to the teacher's of the same class at `samples` voxels, the classes drawn evenly.

    Target: the average's softmax, shuffled alike, and its features of the same class.

    Differs: of the paper only a survey's sentence is known; weights and grids are ours.
    """

    inspired: ClassVar[bool] = True
    heads: ClassVar[tuple[Head, ...]] = ("features",)
    family: ClassVar[str] = "consistency"
    citation: ClassVar[str] = "Inspired by Cai et al., patch shuffle and pixel-wise contrast (survey)"
    cells: PatchGrid = field(default_factory=PatchGrid)
    pull: float = 0.1  # of the contrast, beside the consistency
    samples: int = 256
    temperature: float = 0.1

    def compared(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        order = self.cells.order(batch.unlabelled, step.generator)
        with torch.no_grad():
            wise = nets.teacher(self.noise(batch.unlabelled, step.generator))
            target = self.cells.shuffle(order, probabilities(wise.logits))
            keys = self.cells.shuffle(order, wise.features)
        said = nets.student(torch.cat([batch.labelled, self.cells.shuffle(order, batch.unlabelled)]))
        label = target.argmax(1).flatten()
        at = even_draw(label, step.generator, classes=target.shape[1], count=self.samples)
        mine, theirs = (x.movedim(1, -1).flatten(0, -2)[at] for x in (said.features[batch.count :], keys))
        weight = self.ramp(step)
        contrast = pixel_contrast(mine, theirs, label[at], temperature=self.temperature)
        return LossTerms(
            supervised=dice_ce(said.logits[: batch.count], batch.label),
            consistency=weight * mse(probabilities(said.logits[batch.count :]), target).mean(),
            contrast=weight * self.pull * contrast,
        )


def even_draw(label: Tensor, generator: torch.Generator | None, *, classes: int, count: int) -> Tensor:
    """int64 [count]: places of a flat `label`, without repetition, each class as likely as any (Efraimidis)."""
    frequency = torch.zeros(classes, device=label.device).index_add_(0, label, torch.ones_like(label).float())[label]
    luck = torch.rand(label.shape, generator=generator, device=label.device).clamp_min(1e-12).log()
    return (luck * frequency).topk(min(count, len(label))).indices
