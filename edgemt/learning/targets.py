"""Target rules: what the unlabelled half is compared with, and how far that is trusted.

A rule is called with the teacher, the weak view and the step. Shapes: U unlabelled, C classes, *space 2 or 3
axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from edgemt.contract import Step
from edgemt.learning.losses import entropy
from edgemt.learning.perturbations import SSL4MIS, Affine, GaussianNoise, invert_affine, valid_region, warp
from edgemt.learning.pseudo_labels import argmax_one_hot, mc_probabilities, predict_probabilities
from edgemt.learning.schedules import SigmoidRampUp


class PseudoTarget(NamedTuple):
    probability: Tensor  # [U, C, *space]
    weight: Tensor | None = None  # [U, 1, *space]; None: trusted everywhere


@dataclass(frozen=True)
class SoftTarget:
    """The teacher's softmax on a noisy view, trusted everywhere."""

    citation: ClassVar[str] = ""
    noise: GaussianNoise = SSL4MIS

    def __call__(self, teacher: nn.Module, image: Tensor, step: Step) -> PseudoTarget:
        return PseudoTarget(predict_probabilities(teacher, self.noise(image, step.generator)))


@dataclass(frozen=True)
class UncertaintyMasked(SoftTarget):
    """UA-MT: the average is followed where the mean of several noisy looks is certain.

    The bar for the entropy rises over the run. The looks and the target share one forward pass, so in train mode they
    share batch statistics.

    Target: the average's softmax, where the entropy of its mean look is under a rising bar.

    Differs: the bar is a share of ln C, the most that C classes can have, where the release writes ln 2; one forward
    pass where it makes five. Otherwise as `mean_teacher`.
    """

    citation: ClassVar[str] = "Yu et al., MICCAI 2019, Uncertainty-aware self-ensembling model"
    passes: int = 8
    bar: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=1.0, start=0.75, length=1.0))

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise ValueError(f"passes: {self.passes} looks measure nothing; use 1 or more, 8 in the paper")

    def __call__(self, teacher: nn.Module, image: Tensor, step: Step) -> PseudoTarget:
        looks = mc_probabilities(teacher, image, self.noise, step.generator, num_passes=self.passes + 1)
        doubt = entropy(looks[1:].mean(0))
        certain = doubt <= self.bar(step) * math.log(looks.shape[2])
        return PseudoTarget(looks[0], certain.to(looks.dtype))


@dataclass(frozen=True)
class ConfidenceThresholded(SoftTarget):
    """The teacher's hard label of the weak view, trusted where it is sure enough.

    `by_class` scales the bar by how sure the teacher is of each class in this batch (FreeMatch's idea without its
    running means), never under `floor`: one bar for all lets the background through and starves small organs.

    Target: the average's hard labels, where its probability passes a bar of their class.

    Differs: both works classify photographs and let the student label itself; here an average labels, voxel by voxel,
    and the bar of a class comes from this batch alone.
    """

    citation: ClassVar[str] = "Sohn et al., NeurIPS 2020, FixMatch; Wang et al., ICLR 2023, FreeMatch"
    noise: GaussianNoise = field(default_factory=lambda: GaussianNoise(std=0.0))
    confidence: float = 0.9
    by_class: bool = True
    floor: float = 0.6

    def __post_init__(self) -> None:
        if not 0.0 <= self.confidence < 1.0:
            raise ValueError(
                f"confidence: {self.confidence} lets nothing pass; use 0 up to, not 1, 0.8 to 0.95 is usual"
            )

    def __call__(self, teacher: nn.Module, image: Tensor, step: Step) -> PseudoTarget:
        p = predict_probabilities(teacher, self.noise(image, step.generator))
        label, sure = argmax_one_hot(p), p.amax(1, keepdim=True)
        bar = p.new_full((1, p.shape[1], *[1] * (p.ndim - 2)), self.confidence)
        if self.by_class:
            axes = (0, *range(2, p.ndim))
            mean = (label * sure).sum(axes, keepdim=True) / label.sum(axes, keepdim=True).clamp_min(1.0)
            scaled = self.confidence * mean / mean.amax().clamp_min(1e-6)
            bar = torch.maximum(scaled, torch.full_like(scaled, min(self.floor, self.confidence)))
        return PseudoTarget(label, (sure >= (label * bar).sum(1, keepdim=True)).to(p.dtype))


@dataclass(frozen=True)
class AffineConsistent(SoftTarget):
    """Inspired by affine consistency: the teacher sees a turned, zoomed view, and its word is put back.

    It is trusted where it looked; the student's view stays as it is, so no label is interpolated.

    Target: the average's softmax of a moved view, put back, where it looked.

    Differs: of the work of Fu et al. only a survey's sentence is known; sizes of the moves are ours.
    """

    inspired: ClassVar[bool] = True
    citation: ClassVar[str] = "Inspired by Fu et al., affine transformation consistency in a mean teacher (survey)"
    affine: Affine = field(default_factory=Affine)

    def __call__(self, teacher: nn.Module, image: Tensor, step: Step) -> PseudoTarget:
        there = self.affine.sample(image, step.generator)
        p = predict_probabilities(teacher, self.noise(warp(there, image), step.generator))
        back = invert_affine(there)
        return PseudoTarget(warp(back, p), valid_region(back, p).to(p.dtype))


@dataclass(frozen=True)
class AdaptiveThreshold(SoftTarget):
    """Inspired by adaptive thresholds: trusted where the teacher doubts no more than usual for that class.

    The bar is the mean entropy of the voxels of this batch that the teacher gives to a class, plus `slack` standard
    deviations, which grow over the run.

    Target: the average's softmax, where its entropy is under the mean of its class plus some deviations.

    Differs: only a survey's sentence is known; the rule is ours.
    """

    inspired: ClassVar[bool] = True
    citation: ClassVar[str] = "Inspired by adaptive-threshold selection of reliable voxels (survey)"
    slack: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=2.0, length=1.0))

    def __call__(self, teacher: nn.Module, image: Tensor, step: Step) -> PseudoTarget:
        p = predict_probabilities(teacher, self.noise(image, step.generator))
        label, doubt, axes = argmax_one_hot(p), entropy(p), (0, *range(2, p.ndim))
        count = label.sum(axes, keepdim=True).clamp_min(1.0)
        mean = (label * doubt).sum(axes, keepdim=True) / count
        spread = ((label * (doubt - mean).square()).sum(axes, keepdim=True) / count).sqrt()
        bar = (label * (mean + self.slack(step) * spread)).sum(1, keepdim=True)
        return PseudoTarget(p, (doubt <= bar).to(p.dtype))
