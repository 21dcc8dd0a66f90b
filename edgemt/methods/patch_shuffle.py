"""Mean teacher with shuffled patches and pixel contrast."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import dice_ce, mse, pixel_contrast, probabilities
from edgemt.learning.method import LossTerms
from edgemt.learning.perturbations.mixing import PatchGrid
from edgemt.learning.roles import Networks
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class PatchShuffle(StudentTeacher):
    """Inspired by patch shuffling: predictions must not depend on the surroundings of a patch.

    The student gets the unlabelled images with patches in random order, and the target is shuffled in the same order:
    L = dice_ce(x_l, y_l) + ramp(t) [MSE(p, shuffle(q)) + pull InfoNCE(f, shuffle(g))], the contrast between features f
    of the student and g of the teacher at `samples` voxels, drawn evenly over classes.

    Target: the average's softmax, shuffled in the same order, and its features of the same class.

    Differs: of the paper only a survey's sentence is known; weights and grids are ours.
    """

    inspired: ClassVar[bool] = True
    heads: ClassVar[tuple[Head, ...]] = ("features",)
    family: ClassVar[str] = "consistency"
    citation: ClassVar[str] = "Inspired by Cai et al., patch shuffle and pixel-wise contrast (survey)"
    cells: PatchGrid = field(default_factory=PatchGrid)
    pull: float = 0.1  # weight of the contrast within the ramp
    samples: int = 256
    temperature: float = 0.1

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        order = self.cells.order(batch.unlabelled, step.generator)
        with torch.no_grad():
            teacher_out = nets.teacher(self.noise(batch.unlabelled, step.generator))
            target = self.cells.shuffle(order, probabilities(teacher_out.logits))
            keys = self.cells.shuffle(order, teacher_out.features)
        student_out = nets.student(torch.cat([batch.labelled, self.cells.shuffle(order, batch.unlabelled)]))
        label = target.argmax(1).flatten()
        index = class_balanced_sample(label, step.generator, classes=target.shape[1], count=self.samples)
        anchor, key = (x.movedim(1, -1).flatten(0, -2)[index] for x in (student_out.features[batch.count :], keys))
        weight = self.ramp(step)
        contrast = pixel_contrast(anchor, key, label[index], temperature=self.temperature)
        return LossTerms(
            supervised=dice_ce(student_out.logits[: batch.count], batch.label),
            consistency=weight * mse(probabilities(student_out.logits[batch.count :]), target).mean(),
            contrast=weight * self.pull * contrast,
        )


def class_balanced_sample(label: Tensor, generator: torch.Generator | None, *, classes: int, count: int) -> Tensor:
    """int64 [count]: indices into a flat `label` [n], without replacement, classes with equal probability.

    Weighted sampling without replacement by Efraimidis and Spirakis: the largest log(u) * frequency of the class.
    """
    frequency = torch.zeros(classes, device=label.device).index_add_(0, label, torch.ones_like(label).float())[label]
    log_uniform = torch.rand(label.shape, generator=generator, device=label.device).clamp_min(1e-12).log()
    return (log_uniform * frequency).topk(min(count, len(label))).indices
