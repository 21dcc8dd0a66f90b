"""DUWM: double-uncertainty weighted mean teacher."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import (
    dice_ce,
    entropy,
    mse,
    probabilities,
    weighted_mean,
)
from edgemt.learning.method import LossTerms
from edgemt.learning.pseudo_labels import feature_mean_and_confidence, mc_outputs
from edgemt.learning.roles import Networks
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class DUWM(StudentTeacher):
    """Inspired by DUWM: segmentation uncertainty weights voxels, feature uncertainty weights channels.

    With q and g the mean softmax and features of `passes` noisy predictions of the teacher: L = dice_ce(x_l, y_l)
    + ramp(t) [sum(w (p - q)^2) / sum(w) + sum(v e) / sum(v)], w = e^(-H(q) / ln C); for each channel
    e = mean((f - g)^2) / mean(g^2) and v = e^(-variance / mean(g^2)).

    Target: the mean softmax and features of several noisy predictions of the average, weighted by certainty.

    Differs: of the paper only the abstract was readable: segmentation uncertainty and, among channels, feature
    uncertainty weigh the inconsistency on all rows. Its learnable loss is left out.
    """

    inspired: ClassVar[bool] = True
    heads: ClassVar[tuple[Head, ...]] = ("features",)
    family: ClassVar[str] = "uncertainty"
    citation: ClassVar[str] = "Wang et al., MICCAI 2020, Double-uncertainty weighted method (DUWM)"
    passes: int = 8

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        student_out = nets.student(batch.image)
        teacher_out = mc_outputs(nets.teacher, batch.image, self.noise, step.generator, num_passes=self.passes)
        target = probabilities(teacher_out.logits.flatten(0, 1)).view(teacher_out.logits.shape).mean(0)
        confidence = torch.exp(-entropy(target) / math.log(target.shape[1]))
        features, channel_confidence, mean_square = feature_mean_and_confidence(teacher_out)
        assert student_out.features is not None
        feature_error = (student_out.features - features).square().flatten(2).mean(2) / mean_square
        weight = self.ramp(step)
        return LossTerms(
            supervised=dice_ce(student_out.logits[: batch.count], batch.label),
            consistency=weight * weighted_mean(mse(probabilities(student_out.logits), target), confidence),
            features=weight * weighted_mean(feature_error, channel_confidence),
        )
