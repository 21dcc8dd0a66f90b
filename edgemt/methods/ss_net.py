"""SS-Net: smooth where the network could be fooled, and classes apart in feature space.

Shapes: N batch, C classes, F features, V voxels of a batch, *space 2 or 3 axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import dice, dice_ce, onehot, probabilities
from edgemt.learning.method import LossTerms, Method, OptimiserStep
from edgemt.learning.perturbations import vat_perturbation
from edgemt.learning.pseudo_labels import argmax_one_hot
from edgemt.learning.published_settings import CONSTANT, PublishedSettings
from edgemt.learning.roles import Memory, Networks, Role, Trainable, untracked, unwrap
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class SSNet(Method):
    """Predictions withstand an adversarial push; features lie near remembered right ones of their class.

    Follows the release: one power iteration, probe and push of length 10, 6 for slices; Dice distance; 32 remembered
    vectors a class, cosine distance, contrast weight 0.1, all times a weight of 1 ramped up.

    Target: the student's softmax of the calm image, and the mean remembered feature of each class.

    Differs: the trained projections and selectors are left out: features are compared as they are, and vectors to
    remember are drawn at random among labelled voxels that were classified right. The background is remembered too;
    the release filters it away first, so its memory stays empty.
    """

    heads: ClassVar[tuple[Head, ...]] = ("features",)
    release: ClassVar[PublishedSettings | None] = CONSTANT
    family: ClassVar[str] = "contrast"
    citation: ClassVar[str] = "Wu et al., MICCAI 2022, Exploring smoothness and class-separation"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=1.0))
    contrast: float = 0.1
    reach: float = 10.0
    probe: float = 10.0
    memory: Memory = field(default_factory=lambda: Memory(size=32, features=256, classes=16))  # the last two at most

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "memory": self.memory}

    def steps(self, nets: Networks, batch: Batch, step: Step) -> Iterator[OptimiserStep]:
        out, count = nets.student(batch.image), batch.count
        nets.memory.check_capacity(out.logits.shape[1], features=out.features.shape[1])
        calm, label = probabilities(out.logits.detach()), onehot(batch.label, out.logits.shape[1])

        def moved(image: Tensor, student: nn.Module) -> Tensor:
            return dice(probabilities(student(image).logits), calm)

        calmly = partial(moved, student=unwrap(nets.student))
        with untracked(nets.student):
            push = vat_perturbation(calmly, batch.image, step.generator, epsilon=self.reach, xi=self.probe)
            smooth = moved(batch.image + push, nets.student)
        right = label * argmax_one_hot(calm[:count])
        draw = torch.rand(batch.label.shape, generator=step.generator, device=batch.label.device)
        found = [sample_features(out.features[:count], one, draw, most=self.memory.size) for one in right.unbind(1)]
        centre, known = class_centres(nets.memory.vectors, found)
        classes = label if not len(batch.unlabelled) else torch.cat([label, argmax_one_hot(calm[count:])])
        weight = self.ramp(step)
        parts = (slice(count), slice(count, None)) if len(batch.unlabelled) else (slice(count),)
        apart = [class_distance(out.features[part], classes[part], centre, known) for part in parts]
        terms = LossTerms(supervised=dice_ce(out.logits[:count], batch.label))
        terms["smooth"] = weight * smooth
        terms["contrast"] = weight * self.contrast * torch.stack(apart).sum()
        yield ("student",), terms
        # Behind the yield: a step whose loss was not finite leaves the memory alone.
        for which, vectors in enumerate(found):
            nets.memory.push(vectors, label=which)


def sample_features(features: Tensor, where: Tensor, draw: Tensor, *, most: int) -> Tensor:
    """Up to `most` vectors [n, F] of `features` [N, F, *space], those with the highest `draw` where `where` is 1."""
    score, at = draw.masked_fill(where < 0.5, -1.0).flatten().topk(min(most, draw.numel()))
    return features.detach().movedim(1, -1).flatten(0, -2)[at[score >= 0]].float()


def class_centres(memory: Tensor, found: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean direction [C, F] of what is remembered and what was just found, and which classes have one, bool [C]."""
    width = found[0].shape[1]
    every = [F.normalize(torch.cat([memory[c, :, :width].to(v.dtype), v]), dim=1) for c, v in enumerate(found)]
    counts = torch.stack([v.any(1).sum() for v in every])  # places never written are 0, and stay it
    return torch.stack([v.sum(0) for v in every]) / counts.clamp_min(1)[:, None], counts > 0


def class_distance(features: Tensor, classes: Tensor, centre: Tensor, known: Tensor) -> Tensor:
    """Scalar: mean cosine distance of features [N, F, *space] to the vectors of their class, mean over classes."""
    unit = F.normalize(features.float(), dim=1)
    far = 1.0 - torch.einsum("nf...,cf->nc...", unit, centre.to(unit.dtype))
    axes = (0, *range(2, classes.ndim))
    size = classes.sum(axes)
    held = ((size > 0) & known).to(unit.dtype)
    return (held * (far * classes).sum(axes) / size.clamp_min(1.0)).sum() / held.sum().clamp_min(1.0)
