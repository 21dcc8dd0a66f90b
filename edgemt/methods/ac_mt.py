"""AC-MT: a student follows its average where the two are not sure, and four ways to find these voxels.

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
from edgemt.learning.perturbations import GaussianNoise
from edgemt.learning.pseudo_labels import label_errors, looks, passes, soft
from edgemt.learning.published_settings import ATRIUM, PublishedSettings
from edgemt.learning.roles import Networks
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class VoxelSelector:
    """Which voxels are ambiguous: a rule called with the players, an image and what the student says of it."""

    def __call__(self, nets: Networks, image: Tensor, said: Tensor, step: Step) -> Tensor:
        """The student's probabilities `said` [U, C, *space] of `image` -> bool [U, 1, *space]."""
        raise NotImplementedError


@dataclass(frozen=True)
class EntropyThreshold(VoxelSelector):
    """Where the entropy of the student passes a rising bar, as a share of ln C."""

    bar: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=0.95, start=0.75, length=1.0))

    def __call__(self, nets: Networks, image: Tensor, said: Tensor, step: Step) -> Tensor:
        return entropy(said) >= self.bar(step) * math.log(said.shape[1])


@dataclass(frozen=True)
class TopKEntropy(VoxelSelector):
    """AC-MT on the most doubtful voxels of each image: never none, however sure the student is.

    `share` is how many of them, by the student's entropy.

    Target: the average's softmax, on the share of voxels with the highest entropy of the student.

    Differs: it takes a share of the voxels, where the release has a bar for the entropy.
    """

    share: float = 0.2

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"share: {self.share} is no part of an image; give a number above 0 and up to 1")

    def __call__(self, nets: Networks, image: Tensor, said: Tensor, step: Step) -> Tensor:
        doubt = entropy(said)
        count = max(1, round(self.share * doubt[0].numel()))
        bar = doubt.flatten(1).topk(count).values[:, -1]
        return doubt >= bar.view(-1, *[1] * (doubt.ndim - 1))


@dataclass(frozen=True)
class McUncertainty(VoxelSelector):
    """AC-MT where the mean of several noisy looks of the student has an entropy above a rising bar.

    Target: the average's softmax, where noisy looks of the student part.

    Differs: the bar is a share of ln C, the most that C classes can have, where the release has ln 2.
    """

    bar: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=0.9, start=0.75, length=1.0))
    passes: int = 8
    noise: GaussianNoise = field(default_factory=GaussianNoise)

    def __call__(self, nets: Networks, image: Tensor, said: Tensor, step: Step) -> Tensor:
        mean = passes(nets.student, image, self.noise, step.generator, times=self.passes).mean(0)
        return entropy(mean) >= self.bar(step) * math.log(said.shape[1])


@dataclass(frozen=True)
class ConfidentLearningErrors(VoxelSelector):
    """AC-MT where confident learning, student against teacher, finds a label error (S-Err).

    It is told the student's classes and the teacher's probabilities.

    Target: the average's softmax, where the student's class counts as an error.

    Differs: errors are the off-diagonal of the confident joint; the release prunes with cleanlab, on the CPU, by class
    and by rate.
    """

    def __call__(self, nets: Networks, image: Tensor, said: Tensor, step: Step) -> Tensor:
        return label_errors(said.argmax(1), soft(nets.teacher, image)).unsqueeze(1)


@dataclass(frozen=True)
class PrototypeDisagreement(VoxelSelector):
    """Where the nearest of the teacher's class prototypes is of another class than the student says (P-Err).

    Prototypes are means of features over several looks, an image at a time, weighted by confidence, over voxels whose
    probabilities at temperature 2 spread less than `spread`. The release calls the other voxels background and lets
    them into its prototype, and takes a sigmoid of two logits; here they are in none, and softmax serves any classes.
    """

    passes: int = 10
    noise: GaussianNoise = field(default_factory=lambda: GaussianNoise(std=0.0))
    temperature: float = 2.0
    spread: float = 0.1

    def __call__(self, nets: Networks, image: Tensor, said: Tensor, step: Step) -> Tensor:
        seen = looks(nets.teacher, image, self.noise, step.generator, times=self.passes)
        assert seen.features is not None, "the method names the head"
        p = (seen.logits.float() / self.temperature).softmax(2)
        steady = p.std(0, correction=0).amax(1, keepdim=True) < self.spread
        mean = seen.logits.float().softmax(2).mean(0)
        trust = (onehot(mean.argmax(1), mean.shape[1]) * steady * mean).flatten(2)
        features = seen.features.float().mean(0).flatten(2)
        size = trust.sum(2)
        prototype = torch.einsum("ncv,nfv->ncf", trust, features) / size.clamp_min(1e-6).unsqueeze(2)
        away = torch.cdist(features.transpose(1, 2), prototype).transpose(1, 2)  # [U, C, V]
        nearest = away.masked_fill((size == 0).unsqueeze(2), torch.inf).argmin(1)
        return (nearest.view_as(said[:, 0]) != said.argmax(1)).unsqueeze(1)


@dataclass(frozen=True)
class ACMT(StudentTeacher):
    """AC-MT: consistency on the ambiguous voxels only, the opposite of UA-MT; the rest the student knows.

    Follows the release: weight 0.1, noise on the teacher's input, the mean over chosen voxels. `rest` is the weight of
    the student's entropy on the voxels that were not chosen, which the release has beside the prototype selector.

    Target: the average's softmax, where the student's entropy passes a rising bar.

    Differs: nothing in the losses, whose ramp is the release's as a share of the run; the release tries its weights
    every 50 steps on a list named test and keeps the best, here the last ones are kept.
    """

    release: ClassVar[PublishedSettings | None] = ATRIUM
    family: ClassVar[str] = "uncertainty"
    citation: ClassVar[str] = "Xu et al., MedIA 2023, Ambiguity-selective consistency regularization (AC-MT)"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(length=0.75))
    select: VoxelSelector = field(default_factory=EntropyThreshold)
    rest: float = 0.0

    def compared(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        logits = nets.student(batch.image).logits
        target = soft(nets.teacher, self.noise(batch.unlabelled, step.generator))
        p = probabilities(logits[batch.count :])
        chosen = self.select(nets, batch.unlabelled, p.detach(), step).to(p.dtype)
        terms = LossTerms(supervised=dice_ce(logits[: batch.count], batch.label))
        terms["consistency"] = self.ramp(step) * weighted_mean(mse(p, target), chosen)
        if self.rest:
            doubt = entropy(p.clamp_min(1e-8)) / math.log(p.shape[1])
            terms["entropy"] = self.ramp(step) * self.rest * ((1 - chosen) * doubt).mean()
        terms.notes["accepted"] = chosen.mean()
        return terms


@dataclass(frozen=True)
class ACMTByPrototype(ACMT):
    """AC-MT where the student's class is not that of the nearest prototype of the teacher's features.

    Target: the average's softmax, where the student contradicts the nearest prototype.

    Differs: features are those of the last decoder map, where the release takes its deepest; prototypes are those of
    `PrototypeDisagreement`: unsteady voxels are in none, where the release calls them background, and softmax serves
    any classes, where it takes a sigmoid of two logits.
    """

    heads: ClassVar[tuple[Head, ...]] = ("features",)
    select: VoxelSelector = field(default_factory=PrototypeDisagreement)
    rest: float = 1.0
