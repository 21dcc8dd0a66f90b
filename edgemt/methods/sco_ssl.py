"""SCO-SSL: shadow augmentation and shadow dropout for ultrasound."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch.nn.functional as F

from edgemt.contract import Batch, Head, Step
from edgemt.learning.ema import Ema
from edgemt.learning.losses import cross_entropy, dice_ce
from edgemt.learning.method import LossTerms
from edgemt.learning.perturbations.intensity import GaussianNoise, apply_shadow, shadow_mask
from edgemt.learning.perturbations.spatial import Affine, invert_affine, valid_region, warp
from edgemt.learning.pseudo_labels import predict_probabilities
from edgemt.learning.roles import Networks
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class SCOSSL(StudentTeacher):
    """SCO-SSL: teacher and student get ultrasound images under shadows of two other images of the batch.

    With shadow masks m1, m2 of other rows and an affine A: q = A^-1 teacher(A(m1 x)), student input m2 x and encoder
    maps times m2; L = dice_ce(x_l, y_l) + ramp(t) CE(student, q) where A^-1 is inside the image.

    Follows the release: shadows are the dark regions of another row, for the teacher of the one before and for the
    student of the one after; cross-entropy with soft targets on all rows; the whole state averaged, teacher in eval
    mode.

    Target: the average's softmax of a rotated, shadowed view, transformed back, inside that view.

    Differs: the release turns both views rigidly; here the teacher's alone, the batch having turned the student's.
    Dice with cross-entropy where it has Dice. Levels are fractions of an image's own range, as images come normalised.
    """

    heads: ClassVar[tuple[Head, ...]] = ("disturb",)
    family: ClassVar[str] = "consistency"
    citation: ClassVar[str] = "Xu et al., TMI 2022, Shadow-consistent semi-supervised learning (SCO-SSL)"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(length=0.5))
    ema: Ema = field(default_factory=lambda: Ema(mode="eval"))
    noise: GaussianNoise = field(default_factory=lambda: GaussianNoise(std=0.0))
    affine: Affine = field(default_factory=lambda: Affine(degrees=10.0, zoom=0.0, shift=0.05))

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        shadows = shadow_mask(batch.image)
        affine = self.affine.sample(batch.image, step.generator)
        view = self.noise(warp(affine, apply_shadow(batch.image, shadows.roll(1, 0))), step.generator)
        inverse = invert_affine(affine)
        target = warp(inverse, predict_probabilities(nets.teacher, view))
        mask = shadows.roll(-1, 0)
        logits = nets.student(
            apply_shadow(batch.image, mask), disturb=lambda f: f * F.interpolate(mask, size=f.shape[2:]).to(f.dtype)
        ).logits
        consistency_loss = cross_entropy(logits, target, weight=valid_region(inverse, target))
        return LossTerms(
            supervised=dice_ce(logits[: batch.count], batch.label),
            consistency=self.ramp(step) * consistency_loss,
        )
