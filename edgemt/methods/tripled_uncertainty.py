"""Tri-U-MT: three tasks, each weighted by its own uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import dice_ce, entropy, mse, probabilities, weighted_mean
from edgemt.learning.method import LossTerms
from edgemt.learning.perturbations import GaussianNoise
from edgemt.learning.pseudo_labels import feature_mean_and_confidence, mc_outputs, signed_distance
from edgemt.learning.roles import Networks
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class TriUMT(StudentTeacher):
    """Tri-U-MT: three tasks follow the teacher's mean of several looks, each by its own uncertainty.

    Follows the release: eight looks at noise 0.02, classes weighed by 1 - H and regressions by e^-variance, weights
    0.1 ramped up, distances of labelled rows from labels and, at 0.1, of the others from the student's own mask.

    Target: the mean softmax, distances and features of several looks of the average, by certainty.

    Differs: the third task, to reconstruct the foreground, needs a head of its own and is left out; consistency of
    features stands in its place. Dice with cross-entropy where it has Dice.
    """

    heads: ClassVar[tuple[Head, ...]] = ("sdf", "features")
    family: ClassVar[str] = "several tasks"
    citation: ClassVar[str] = "Wang et al., MedIA 2022, Segmentation via a tripled-uncertainty guided mean teacher"
    noise: GaussianNoise = field(default_factory=lambda: GaussianNoise(std=0.02))
    passes: int = 8
    own: float = 0.1

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        out, count, weight = nets.student(batch.image), batch.count, self.ramp(step)
        p = probabilities(out.logits)
        seen = mc_outputs(nets.teacher, batch.image, self.noise, step.generator, num_passes=self.passes)
        target = probabilities(seen.logits.flatten(0, 1)).view(seen.logits.shape).mean(0)
        sure = 1 - entropy(target) / math.log(p.shape[1])
        features, steady, size = feature_mean_and_confidence(seen)
        assert out.sdf is not None and seen.sdf is not None and out.features is not None
        far = weighted_mean((out.sdf - seen.sdf.mean(0)).square(), torch.exp(-seen.sdf.var(0, correction=0)))
        gap = (out.features - features).square().flatten(2).mean(2) / size
        truth = signed_distance(torch.cat([batch.label, p[count:].argmax(1)]), classes=p.shape[1])
        return LossTerms(
            supervised=dice_ce(out.logits[:count], batch.label),
            distance=(out.sdf[:count] - truth[:count]).square().mean(),
            own=self.own * (out.sdf[count:] - truth[count:]).square().mean(),
            consistency=weight * weighted_mean(mse(p, target), sure),
            far=weight * far,
            features=weight * weighted_mean(gap, steady),
        )
