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
    """Inspired by DUWM: looks of the teacher weigh voxels by their doubt, and feature channels by theirs.

    A voxel has the weight e^-H, H the entropy of the mean softmax as a share of ln C, and a channel e^-variance, as a
    share of its mean square.

    Target: the mean softmax and features of several looks of the average, by certainty.

    Differs: of the paper only the abstract was readable: segmentation uncertainty and, among channels, feature
    uncertainty weigh the inconsistency on all rows. Its learnable loss is left out.
    """

    inspired: ClassVar[bool] = True
    heads: ClassVar[tuple[Head, ...]] = ("features",)
    family: ClassVar[str] = "uncertainty"
    citation: ClassVar[str] = "Wang et al., MICCAI 2020, Double-uncertainty weighted method (DUWM)"
    passes: int = 8

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        said = nets.student(batch.image)
        seen = mc_outputs(nets.teacher, batch.image, self.noise, step.generator, num_passes=self.passes)
        target = probabilities(seen.logits.flatten(0, 1)).view(seen.logits.shape).mean(0)
        sure = torch.exp(-entropy(target) / math.log(target.shape[1]))
        features, steady, size = feature_mean_and_confidence(seen)
        assert said.features is not None
        gap = (said.features - features).square().flatten(2).mean(2) / size
        weight = self.ramp(step)
        return LossTerms(
            supervised=dice_ce(said.logits[: batch.count], batch.label),
            consistency=weight * weighted_mean(mse(probabilities(said.logits), target), sure),
            features=weight * weighted_mean(gap, steady),
        )
