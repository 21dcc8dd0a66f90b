"""SCO-SSL: shadow augmentation and shadow dropout for ultrasound."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch.nn.functional as F

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import cross_entropy, dice_ce
from edgemt.learning.method import LossTerms
from edgemt.learning.perturbations import Affine, GaussianNoise, darkness, inverse, shade, warp, within
from edgemt.learning.pseudo_labels import soft
from edgemt.learning.roles import Ema, Networks
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class SCOSSL(StudentTeacher):
    """SCO-SSL: teacher and student see ultrasound under shadows taken from two other images of the batch.

    Follows the release: shadows are the dark parts of another row, the teacher's of the one before and the student's
    of the one after, the student's also multiplies its encoder's maps; cross-entropy with soft targets on all rows;
    the whole state averaged, teacher in eval mode.

    Target: the average's softmax of a turned, shadowed view, put back, where it looked.

    Differs: the release turns both views rigidly; here the teacher's alone, the batch having turned the student's.
    Dice with cross-entropy where it has Dice. Levels are shares of an image's own range, as images come normalised.
    """

    heads: ClassVar[tuple[Head, ...]] = ("disturb",)
    family: ClassVar[str] = "consistency"
    citation: ClassVar[str] = "Xu et al., TMI 2022, Shadow-consistent semi-supervised learning (SCO-SSL)"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(length=0.5))
    ema: Ema = field(default_factory=lambda: Ema(mode="eval"))
    noise: GaussianNoise = field(default_factory=lambda: GaussianNoise(std=0.0))
    affine: Affine = field(default_factory=lambda: Affine(degrees=10.0, zoom=0.0, shift=0.05))

    def compared(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        dark = darkness(batch.image)
        there = self.affine.draw(batch.image, step.generator)
        seen = self.noise(warp(there, shade(batch.image, dark.roll(1, 0))), step.generator)
        back = inverse(there)
        target = warp(back, soft(nets.teacher, seen))
        mask = dark.roll(-1, 0)
        logits = nets.student(
            shade(batch.image, mask), disturb=lambda f: f * F.interpolate(mask, size=f.shape[2:]).to(f.dtype)
        ).logits
        gap = cross_entropy(logits, target, weight=within(back, target))
        return LossTerms(
            supervised=dice_ce(logits[: batch.count], batch.label),
            consistency=self.ramp(step) * gap,
        )
