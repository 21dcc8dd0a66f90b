"""Tri-U-MT: three tasks, each weighted by its own uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import dice_ce, entropy, mse, probabilities, weighted_mean
from edgemt.learning.method import LossTerms
from edgemt.learning.perturbations.intensity import GaussianNoise
from edgemt.learning.pseudo_labels import feature_mean_and_confidence, mc_outputs, signed_distance
from edgemt.learning.roles import Networks
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class TriUMT(StudentTeacher):
    """Tri-U-MT: three tasks follow the mean of noisy teacher predictions, each weighted by its certainty.

    L = dice_ce(x_l, y_l) + MSE(sdf_l, SDF(y_l)) + own MSE(sdf_u, SDF(argmax p_u)) + ramp(t) [weighted MSE(p, q) with
    1 - H(q) / ln C, weighted MSE(sdf, mean) with e^-variance, weighted MSE(features, mean) with e^-variance].

    Follows the release: eight passes with noise 0.02, weights 0.1 ramped up, `own` 0.1.

    Target: the mean softmax, distances and features of several noisy passes of the average, weighted by certainty.

    Differs: the third task, to reconstruct the foreground, needs a head of its own and is left out; consistency of
    features stands in its place. Dice with cross-entropy where it has Dice.
    """

    heads: ClassVar[tuple[Head, ...]] = ("sdf", "features")
    family: ClassVar[str] = "several tasks"
    citation: ClassVar[str] = "Wang et al., MedIA 2022, Segmentation via a tripled-uncertainty guided mean teacher"
    noise: GaussianNoise = field(default_factory=lambda: GaussianNoise(std=0.02))
    passes: int = 8
    own: float = 0.1  # weight of the distances computed from the student's own mask

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        out, count, weight = nets.student(batch.image), batch.count, self.ramp(step)
        p = probabilities(out.logits)
        teacher_out = mc_outputs(nets.teacher, batch.image, self.noise, step.generator, num_passes=self.passes)
        target = probabilities(teacher_out.logits.flatten(0, 1)).view(teacher_out.logits.shape).mean(0)
        confidence = 1 - entropy(target) / math.log(p.shape[1])
        features, feature_confidence, mean_square = feature_mean_and_confidence(teacher_out)
        assert out.sdf is not None and teacher_out.sdf is not None and out.features is not None
        sdf_confidence = torch.exp(-teacher_out.sdf.var(0, correction=0))
        sdf_loss = weighted_mean((out.sdf - teacher_out.sdf.mean(0)).square(), sdf_confidence)
        feature_error = (out.features - features).square().flatten(2).mean(2) / mean_square
        truth = signed_distance(torch.cat([batch.label, p[count:].argmax(1)]), classes=p.shape[1])
        return LossTerms(
            supervised=dice_ce(out.logits[:count], batch.label),
            distance=(out.sdf[:count] - truth[:count]).square().mean(),
            own=self.own * (out.sdf[count:] - truth[count:]).square().mean(),
            consistency=weight * weighted_mean(mse(p, target), confidence),
            far=weight * sdf_loss,
            features=weight * weighted_mean(feature_error, feature_confidence),
        )
