"""DyCON: dynamic uncertainty-aware consistency and contrast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from edgemt.contract import Batch, Head, Step
from edgemt.learning.auxiliary_tasks import grid_means
from edgemt.learning.losses import (
    dice_ce,
    entropy,
    focal_contrast,
    mse,
    onehot,
    probabilities,
    uncertain_mse,
    weighted_mean,
)
from edgemt.learning.method import LossTerms
from edgemt.learning.pseudo_labels import predict_probabilities
from edgemt.learning.roles import Networks
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class DyCON(StudentTeacher):
    """DyCON: consistency that down-weights uncertain voxels, and contrast where entropy is high.

    L = dice_ce(x_l, y_l) + ramp(t) MSE(p_u, q_u) + weight [UnCL(p, q; beta) + sum(H FeCL) / sum(H)], UnCL
    `uncertain_mse`, FeCL `focal_contrast`, H the mean entropy of a cell.

    `beta` falls geometrically from 5 to 0.5 over the run, weight 0.5 for both losses with cross-entropy plus Dice
    (0.25 with their mean); T 0.6, gamma 2.

    Target: the average's softmax, down-weighted by the entropy of both.

    Differs: the release, read in a public copy, contrasts patches of unlabelled images by their true labels, which is
    a leak: here the teacher labels them. Its focal weight of negatives multiplies positive pairs only and has no
    effect, and its uncertainty mask is switched off; here positives are focal and cells are weighted by entropy, as in
    the paper. Features are the decoder's last map averaged over a coarse grid, where the release projects the deepest
    one; its extra teacher negatives are left out.
    """

    heads: ClassVar[tuple[Head, ...]] = ("features",)
    family: ClassVar[str] = "uncertainty"
    citation: ClassVar[str] = "Assefa et al., CVPR 2025, DyCON: dynamic uncertainty-aware consistency and contrast"
    weight: float = 0.25
    beta: tuple[float, float] = (5.0, 0.5)
    temperature: float = 0.6
    focus: float = 2.0  # gamma of the focal contrast
    grid: int = 8  # cells along each axis

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        count, out = batch.count, nets.student(batch.image)
        terms = LossTerms(supervised=dice_ce(out.logits[:count], batch.label))
        p, q = probabilities(out.logits), predict_probabilities(nets.teacher, self.noise(batch.image, step.generator))
        beta = self.beta[0] * (self.beta[1] / self.beta[0]) ** step.progress
        terms["consistency"] = self.ramp(step) * mse(p[count:], q[count:]).mean()
        terms["uncertainty"] = self.weight * uncertain_mse(p, q, beta=beta).mean()
        truth = onehot(batch.label, p.shape[1]).to(q.dtype)
        # In a cell with equal fractions of two classes the teacher decides, not the order of classes.
        label = grid_means(torch.cat([truth, q[count:]]) + 1e-3 * q, grid=self.grid).argmax(1)
        features, uncertainty = (grid_means(x, grid=self.grid) for x in (out.features, entropy(p.detach())))
        contrast = focal_contrast(features, label, temperature=self.temperature, gamma=self.focus)
        terms["contrast"] = self.weight * weighted_mean(contrast, uncertainty[:, 0])
        return terms
