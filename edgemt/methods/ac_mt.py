"""AC-MT: consistency on ambiguous voxels only, with four rules that select them.

Shapes: U unlabelled, C classes, F features, T passes, *space 2 or 3 axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import dice_ce, entropy, mse, onehot, probabilities, weighted_mean
from edgemt.learning.method import LossTerms
from edgemt.learning.perturbations.intensity import GaussianNoise
from edgemt.learning.pseudo_labels import label_errors, mc_outputs, mc_probabilities, predict_probabilities
from edgemt.learning.published_settings import ATRIUM, PublishedSettings
from edgemt.learning.roles import Networks
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.student_teacher import StudentTeacher
from edgemt.renamed_fields import renamed_fields


@dataclass(frozen=True)
class VoxelSelector:
    """Rule that selects the ambiguous voxels, called with the networks, an image and the student's probabilities."""

    def __call__(self, nets: Networks, image: Tensor, p: Tensor, step: Step) -> Tensor:
        """Student's probabilities `p` [U, C, *space] of `image` -> bool [U, 1, *space], true where selected."""
        raise NotImplementedError


@renamed_fields(entropy_threshold="bar")
@dataclass(frozen=True)
class EntropyThreshold(VoxelSelector):
    """H(p) >= entropy_threshold(t) ln C: the entropy of the student is above a threshold that rises over the run."""

    entropy_threshold: SigmoidRampUp = field(
        default_factory=lambda: SigmoidRampUp(top=0.95, start=0.75, length=1.0)
    )  # as a fraction of ln C

    def __call__(self, nets: Networks, image: Tensor, p: Tensor, step: Step) -> Tensor:
        return entropy(p) >= self.entropy_threshold(step) * math.log(p.shape[1])


@dataclass(frozen=True)
class TopKEntropy(VoxelSelector):
    """AC-MT on the voxels of highest entropy of each image, a fixed fraction of them.

    Selects the `share` of voxels with the highest entropy of the student; the selection is never empty.

    Target: the average's softmax, on the fraction of voxels with the highest entropy of the student.

    Differs: it takes a fraction of the voxels, where the release has a threshold for the entropy.
    """

    share: float = 0.2

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"share: {self.share} is no fraction of an image; give a number above 0 and up to 1")

    def __call__(self, nets: Networks, image: Tensor, p: Tensor, step: Step) -> Tensor:
        uncertainty = entropy(p)
        count = max(1, round(self.share * uncertainty[0].numel()))
        threshold = uncertainty.flatten(1).topk(count).values[:, -1]
        return uncertainty >= threshold.view(-1, *[1] * (uncertainty.ndim - 1))


@renamed_fields(entropy_threshold="bar")
@dataclass(frozen=True)
class McUncertainty(VoxelSelector):
    """AC-MT where the mean of several noisy predictions of the student has high entropy.

    H(mean of `passes` predictions) >= entropy_threshold(t) ln C.

    Target: the average's softmax, where noisy predictions of the student disagree.

    Differs: the threshold is a fraction of ln C, the most that C classes can have, where the release has ln 2.
    """

    entropy_threshold: SigmoidRampUp = field(
        default_factory=lambda: SigmoidRampUp(top=0.9, start=0.75, length=1.0)
    )  # as a fraction of ln C
    passes: int = 8
    noise: GaussianNoise = field(default_factory=GaussianNoise)

    def __call__(self, nets: Networks, image: Tensor, p: Tensor, step: Step) -> Tensor:
        mean = mc_probabilities(nets.student, image, self.noise, step.generator, num_passes=self.passes).mean(0)
        return entropy(mean) >= self.entropy_threshold(step) * math.log(p.shape[1])


@dataclass(frozen=True)
class ConfidentLearningErrors(VoxelSelector):
    """AC-MT where confident learning, student against teacher, finds a label error (S-Err).

    The labels are the student's classes, the probabilities are the teacher's (`label_errors`).

    Target: the average's softmax, where the student's class counts as an error.

    Differs: errors are the off-diagonal of the confident joint; the release prunes with cleanlab, on the CPU, by class
    and by rate.
    """

    def __call__(self, nets: Networks, image: Tensor, p: Tensor, step: Step) -> Tensor:
        return label_errors(p.argmax(1), predict_probabilities(nets.teacher, image)).unsqueeze(1)


@dataclass(frozen=True)
class PrototypeDisagreement(VoxelSelector):
    """Voxels whose nearest class prototype of the teacher is of another class than the student's (P-Err).

    Prototypes are means of the teacher's features over several noisy passes, for each image, weighted by confidence,
    over voxels whose probabilities at temperature 2 have a standard deviation below `spread`. The release calls the
    other voxels background and includes them in its prototype, and takes a sigmoid of two logits; here they are in no
    prototype, and softmax serves any number of classes.
    """

    passes: int = 10
    noise: GaussianNoise = field(default_factory=lambda: GaussianNoise(std=0.0))
    temperature: float = 2.0
    spread: float = 0.1

    def __call__(self, nets: Networks, image: Tensor, p: Tensor, step: Step) -> Tensor:
        out = mc_outputs(nets.teacher, image, self.noise, step.generator, num_passes=self.passes)
        assert out.features is not None, "the method names the head"
        softened = (out.logits.float() / self.temperature).softmax(2)
        reliable = softened.std(0, correction=0).amax(1, keepdim=True) < self.spread
        mean = out.logits.float().softmax(2).mean(0)
        confidence = (onehot(mean.argmax(1), mean.shape[1]) * reliable * mean).flatten(2)
        features = out.features.float().mean(0).flatten(2)
        total = confidence.sum(2)
        prototype = torch.einsum("ncv,nfv->ncf", confidence, features) / total.clamp_min(1e-6).unsqueeze(2)
        distance = torch.cdist(features.transpose(1, 2), prototype).transpose(1, 2)  # [U, C, V]
        nearest = distance.masked_fill((total == 0).unsqueeze(2), torch.inf).argmin(1)
        return (nearest.view_as(p[:, 0]) != p.argmax(1)).unsqueeze(1)


@dataclass(frozen=True)
class ACMT(StudentTeacher):
    """AC-MT: consistency only on ambiguous voxels, where the student's entropy is high.

    With the mask M of a selector: L = dice_ce(x_l, y_l) + ramp(t) [sum(M (p - q)^2) / sum(M)
    + rest mean((1 - M) H(p) / ln C)]. UA-MT selects the opposite voxels.

    Follows the release: weight 0.1, noise on the teacher's input, the mean over selected voxels. `rest` is the weight
    of the student's entropy on the other voxels, which the release has with the prototype selector.

    Target: the average's softmax, where the student's entropy is above a rising threshold.

    Differs: nothing in the losses, whose ramp is the release's as a fraction of the run; the release tries its weights
    every 50 steps on a list named test and takes the best, here the last ones are delivered.
    """

    release: ClassVar[PublishedSettings | None] = ATRIUM
    family: ClassVar[str] = "uncertainty"
    citation: ClassVar[str] = "Xu et al., MedIA 2023, Ambiguity-selective consistency regularization (AC-MT)"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(length=0.75))
    select: VoxelSelector = field(default_factory=EntropyThreshold)
    rest: float = 0.0  # weight of the entropy of the student on the voxels that are not selected

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        logits = nets.student(batch.image).logits
        target = predict_probabilities(nets.teacher, self.noise(batch.unlabelled, step.generator))
        p = probabilities(logits[batch.count :])
        mask = self.select(nets, batch.unlabelled, p.detach(), step).to(p.dtype)
        terms = LossTerms(supervised=dice_ce(logits[: batch.count], batch.label))
        terms["consistency"] = self.ramp(step) * weighted_mean(mse(p, target), mask)
        if self.rest:
            uncertainty = entropy(p.clamp_min(1e-8)) / math.log(p.shape[1])
            terms["entropy"] = self.ramp(step) * self.rest * ((1 - mask) * uncertainty).mean()
        terms.notes["accepted"] = mask.mean()
        return terms


@dataclass(frozen=True)
class ACMTByPrototype(ACMT):
    """AC-MT where the student's class is not that of the nearest prototype of the teacher's features.

    Target: the average's softmax, where the student contradicts the nearest prototype.

    Differs: features are those of the last decoder map, where the release takes its deepest; prototypes are those of
    `PrototypeDisagreement`: unreliable voxels are in none, where the release calls them background, and softmax serves
    any classes, where it takes a sigmoid of two logits.
    """

    heads: ClassVar[tuple[Head, ...]] = ("features",)
    select: VoxelSelector = field(default_factory=PrototypeDisagreement)
    rest: float = 1.0
