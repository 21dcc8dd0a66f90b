"""Target rules: pseudo-targets of the unlabelled rows, and their confidence weights.

A rule is called with the teacher, the weak view [U, K, *space] and the step. Shapes: U unlabelled, C classes, *space 2
or 3 axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from edgemt.contract import Step
from edgemt.learning.bernoulli import both_sides
from edgemt.learning.label_rules import overlapping
from edgemt.learning.losses import entropy, largest_entropy
from edgemt.learning.perturbations.intensity import SSL4MIS, GaussianNoise
from edgemt.learning.perturbations.spatial import Affine, invert_affine, valid_region, warp
from edgemt.learning.pseudo_labels import argmax_one_hot, mc_probabilities, predict_probabilities
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.renamed_fields import renamed_fields


class PseudoTarget(NamedTuple):
    """Target probabilities of unlabelled rows, and the weight of each voxel."""

    probability: Tensor  # [U, C, *space]
    weight: Tensor | None = None  # [U, 1, *space]; None: weight 1 everywhere


@dataclass(frozen=True)
class SoftTarget:
    """The teacher's softmax on a noisy view, with weight 1 everywhere."""

    citation: ClassVar[str] = ""
    takes_overlapping: ClassVar[bool] = True  # False: the rule chooses one class of a voxel
    noise: GaussianNoise = SSL4MIS

    def __call__(self, teacher: nn.Module, image: Tensor, step: Step) -> PseudoTarget:
        return PseudoTarget(predict_probabilities(teacher, self.noise(image, step.generator)))


@renamed_fields(entropy_threshold="bar")
@dataclass(frozen=True)
class UncertaintyMasked(SoftTarget):
    """UA-MT: follow the average where the mean of several noisy predictions has low entropy.

    weight = 1 where H(mean of T noisy predictions) <= entropy_threshold(t) ln C, else 0. The threshold rises over the
    run. The T predictions and the target are one forward pass, so that in train mode they have common batch statistics.

    Target: the average's softmax, where the entropy of its mean prediction is below a rising threshold.

    Differs: the threshold is a fraction of ln C, the most that C classes can have, where the release writes ln 2; one
    forward pass where it makes five. Otherwise as `mean_teacher`.
    """

    citation: ClassVar[str] = "Yu et al., MICCAI 2019, Uncertainty-aware self-ensembling model"
    passes: int = 8
    entropy_threshold: SigmoidRampUp = field(
        default_factory=lambda: SigmoidRampUp(top=1.0, start=0.75, length=1.0)
    )  # as a fraction of ln C

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise ValueError(f"passes: {self.passes} passes measure nothing; use 1 or more, 8 in the paper")

    def __call__(self, teacher: nn.Module, image: Tensor, step: Step) -> PseudoTarget:
        probs = mc_probabilities(teacher, image, self.noise, step.generator, num_passes=self.passes + 1)
        uncertainty = entropy(probs[1:].mean(0))  # [U, 1, *space], nats
        mask = uncertainty <= self.entropy_threshold(step) * largest_entropy(probs.shape[2])
        return PseudoTarget(probs[0], mask.to(probs.dtype))


@dataclass(frozen=True)
class ConfidenceThresholded(SoftTarget):
    """FixMatch for a mean teacher: hard labels of the weak view, if confident.

    y = argmax q, weight = 1 where max q >= threshold_y. With `by_class` threshold_c = confidence * m_c / max m, m_c the
    mean confidence of the voxels labelled c in this batch (FreeMatch without running means), but at least `floor`: one
    threshold for all classes accepts the background and rejects small organs.

    Overlapping classes: "present" and "absent" of each are the classes c, and each has a weight of its own.

    Target: the average's hard labels, where its probability passes a threshold of their class.

    Differs: both works classify photographs and let the student label itself; here an average labels, voxel by voxel,
    and the threshold of a class comes from this batch alone.
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
        if overlapping():
            return self._of_each_class(p)
        label, confidence = argmax_one_hot(p), p.amax(1, keepdim=True)
        threshold = self._thresholds(label, confidence)
        return PseudoTarget(label, (confidence >= (label * threshold).sum(1, keepdim=True)).to(p.dtype))

    def _of_each_class(self, p: Tensor) -> PseudoTarget:
        """The target of overlapping classes, with weights [U, C, *space]."""
        label, sides = argmax_one_hot(p), both_sides(p)
        chosen = both_sides(label)
        threshold = self._thresholds(chosen, sides)
        accepted = (sides >= threshold).to(p.dtype) * chosen
        absent, present = accepted.chunk(2, 1)
        return PseudoTarget(label, absent + present)

    def _thresholds(self, label: Tensor, confidence: Tensor) -> Tensor:
        """[1, C, 1 ...]: that of each class. `label` is one-hot, `confidence` [U, 1 or C, *space]."""
        if not self.by_class:
            return confidence.new_full((1, label.shape[1], *[1] * (label.ndim - 2)), self.confidence)
        axes = (0, *range(2, label.ndim))
        mean = (label * confidence).sum(axes, keepdim=True) / label.sum(axes, keepdim=True).clamp_min(1.0)
        scaled = self.confidence * mean / mean.amax().clamp_min(1e-6)
        return torch.maximum(scaled, torch.full_like(scaled, min(self.floor, self.confidence)))


@dataclass(frozen=True)
class AffineConsistent(SoftTarget):
    """Inspired by affine consistency: the teacher predicts a transformed view, transformed back.

    q = A^-1 teacher(A x), weight = 1 where A^-1 samples inside the view. The student's view is not transformed, so that
    no label is interpolated.

    Target: the average's softmax of an affine view, transformed back, inside that view.

    Differs: of the work of Fu et al. only a survey's sentence is known; sizes of the transforms are ours.
    """

    inspired: ClassVar[bool] = True
    citation: ClassVar[str] = "Inspired by Fu et al., affine transformation consistency in a mean teacher (survey)"
    affine: Affine = field(default_factory=Affine)

    def __call__(self, teacher: nn.Module, image: Tensor, step: Step) -> PseudoTarget:
        affine = self.affine.sample(image, step.generator)
        p = predict_probabilities(teacher, self.noise(warp(affine, image), step.generator))
        inverse = invert_affine(affine)
        return PseudoTarget(warp(inverse, p), valid_region(inverse, p).to(p.dtype))


@dataclass(frozen=True)
class AdaptiveThreshold(SoftTarget):
    """Inspired by adaptive thresholds: trust voxels whose entropy is usual for their predicted class.

    weight = 1 where H(q) <= mean_c + slack(t) std_c, mean and standard deviation of the entropy over the voxels of this
    batch that the teacher assigns to class c; `slack` rises over the run.

    Target: the average's softmax, where its entropy is below the mean of its class plus some standard deviations.

    Differs: only a survey's sentence is known; the rule is ours.
    """

    inspired: ClassVar[bool] = True
    takes_overlapping: ClassVar[bool] = False
    citation: ClassVar[str] = "Inspired by adaptive-threshold selection of reliable voxels (survey)"
    slack: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=2.0, length=1.0))

    def __call__(self, teacher: nn.Module, image: Tensor, step: Step) -> PseudoTarget:
        p = predict_probabilities(teacher, self.noise(image, step.generator))
        label, uncertainty, axes = argmax_one_hot(p), entropy(p), (0, *range(2, p.ndim))
        count = label.sum(axes, keepdim=True).clamp_min(1.0)
        mean = (label * uncertainty).sum(axes, keepdim=True) / count
        std = ((label * (uncertainty - mean).square()).sum(axes, keepdim=True) / count).sqrt()
        threshold = (label * (mean + self.slack(step) * std)).sum(1, keepdim=True)
        return PseudoTarget(p, (uncertainty <= threshold).to(p.dtype))
