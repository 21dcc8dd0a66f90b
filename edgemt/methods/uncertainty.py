"""Mean teachers that weigh by uncertainty, or lessen it.

Shapes: N batch, U unlabelled, C classes, F features, T passes, *space 2 or 3 axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from edgemt.contract import Batch, Head, Output, Step
from edgemt.learning.losses import (
    cross_entropy,
    dice,
    dice_ce,
    entropy,
    focal,
    mse,
    onehot,
    overlap,
    probabilities,
    weighted_mean,
)
from edgemt.learning.method import Terms, every_decoder
from edgemt.learning.pseudo_labels import looks
from edgemt.learning.roles import Players
from edgemt.learning.schedules import Ramp
from edgemt.learning.student_teacher import Pair


@dataclass(frozen=True)
class DoubleUncertainty(Pair):
    """Inspired by DUWM: looks of the teacher weigh voxels by their doubt, and feature channels by theirs.

    A voxel has the weight e^-H, H the entropy of the mean softmax as a share of ln C, and a channel e^-variance, as a
    share of its mean square.

    Target: the mean softmax and features of several looks of the average, by certainty.

    Differs: of the paper only the abstract was readable: segmentation uncertainty and, among channels, feature
    uncertainty weigh the inconsistency on all rows. Its learnable loss is left out.
    """

    inspired: ClassVar[bool] = True
    heads: ClassVar[tuple[Head, ...]] = ("features",)
    citation: ClassVar[str] = "Wang et al., MICCAI 2020, Double-uncertainty weighted method (DUWM)"
    passes: int = 8

    def compared(self, nets: Players, batch: Batch, step: Step) -> Terms:
        said = nets.student(batch.image)
        seen = looks(nets.teacher, batch.image, self.noise, step.generator, times=self.passes)
        target = probabilities(seen.logits.flatten(0, 1)).view(seen.logits.shape).mean(0)
        sure = torch.exp(-entropy(target) / math.log(target.shape[1]))
        features, steady, size = steady_features(seen)
        assert said.features is not None
        gap = (said.features - features).square().flatten(2).mean(2) / size
        weight = self.ramp(step)
        return Terms(
            supervised=dice_ce(said.logits[: batch.count], batch.label),
            consistency=weight * weighted_mean(mse(probabilities(said.logits), target), sure),
            features=weight * weighted_mean(gap, steady),
        )


def steady_features(seen: Output) -> tuple[Tensor, Tensor, Tensor]:
    """Several looks -> mean features [N, F, *space], e^-variance of each channel [N, F], its mean square [N, F]."""
    assert seen.features is not None, "the method names the head"
    every = seen.features.to(torch.promote_types(seen.features.dtype, torch.float32))
    mean = every.mean(0)
    size = mean.square().flatten(2).mean(2).clamp_min(1e-6)
    return mean, torch.exp(-every.var(0, correction=0).flatten(2).mean(2) / size), size


@dataclass(frozen=True)
class StructureAware(Pair):
    """Inspired by LG-ER-MT: a sure student that finds alike what its teacher finds alike.

    `near` and `far` 0 leave ER-MT: a mean teacher whose student is also made sure.

    Target: the average's softmax; with structure also which voxels it finds alike, and its map -p ln p.

    Differs: of the paper only the abstract was readable: entropy minimisation, similarity of voxels within small
    regions, and self-information maps -p ln p, compared with the teacher's. Weights are ours, shares of the ramp.
    """

    inspired: ClassVar[bool] = True
    citation: ClassVar[str] = "Hang et al., MICCAI 2020, Local and global structure-aware entropy regularized MT"
    sure: float = 1.0
    near: float = 1.0
    far: float = 1.0
    reach: int = 1  # of a local region, voxels to each side

    def aside(self) -> str:
        return "" if self.near or self.far else "Certainty alone."

    def compared(self, nets: Players, batch: Batch, step: Step) -> Terms:
        logits, weight = nets.student(batch.image).logits, self.ramp(step)
        with torch.no_grad():
            target = probabilities(nets.teacher(self.noise(batch.unlabelled, step.generator)).logits)
        p = probabilities(logits[batch.count :])
        terms = Terms(
            supervised=dice_ce(logits[: batch.count], batch.label),
            consistency=weight * mse(p, target).mean(),
            entropy=weight * self.sure * self_information(p).sum(1).mean(),
        )
        if self.near:
            pairs = zip(neighbours(p, self.reach), neighbours(target, self.reach), strict=True)
            terms["near"] = weight * self.near * torch.stack([(a - b).square().mean() for a, b in pairs]).mean()
        if self.far:
            terms["far"] = weight * self.far * mse(self_information(p), self_information(target)).mean()
        return terms


def self_information(p: Tensor) -> Tensor:
    """Map [N, C, *space]: -p ln p, with a finite slope at 0."""
    return torch.special.entr(p.clamp_min(1e-8))


def neighbours(p: Tensor, reach: int) -> list[Tensor]:
    """How alike each voxel and another within `reach` are: a map of p . p' for each direction, each pair once."""
    dims, every, found = p.ndim - 2, slice(None), []
    for way in product(range(-reach, reach + 1), repeat=dims):
        sizes = list(zip(way, p.shape[2:], strict=True))
        if way <= (0,) * dims or any(abs(step) >= size for step, size in sizes):
            continue
        here = (every, every, *(slice(max(0, -step), size - max(0, step)) for step, size in sizes))
        there = (every, every, *(slice(max(0, step), size - max(0, -step)) for step, size in sizes))
        found.append((p[here] * p[there]).sum(1))
    return found


Teach = Callable[[Tensor, Tensor, Tensor | None], Tensor]
TEACH: tuple[Teach, ...] = (  # logits, int64 labels, weight
    lambda logits, label, weight: cross_entropy(logits, label, weight=weight),
    lambda logits, label, weight: dice(probabilities(logits), onehot(label, logits.shape[1]), weight=weight),
    lambda logits, label, weight: (
        0.5
        * (
            focal(logits, label, weight=weight)
            + overlap(probabilities(logits), onehot(label, logits.shape[1]), weight=weight)
        )
    ),
)


@dataclass(frozen=True)
class HeadsAgree(Pair):
    """FUSSNet: heads taught by unlike losses label where they agree; elsewhere the teacher leads softly.

    Follows the release's losses (cross-entropy, Dice, focal, overlap), its uncertain part (MSE a head, up to weight 1,
    ramp 40 of 301 epochs) and its order of stages as that ramp.

    Target: the average's hard labels where all its heads agree, each head's softmax elsewhere.

    Differs: three full-size decoders stand for its four heads, and the third has focal and overlap, half and half; all
    of them must agree, where it compares two pairs; labels are the teacher's of this very step, where it renews them
    every ten epochs. Left out: the aleatoric part, a stochastic network of rank ten.
    """

    heads: ClassVar[tuple[Head, ...]] = ("decoder2", "decoder3")
    citation: ClassVar[str] = "Xiang et al., MICCAI 2022, FUSSNet: Fusing two sources of uncertainty"
    ramp: Ramp = field(default_factory=lambda: Ramp(top=1.0, length=0.13))

    def compared(self, nets: Players, batch: Batch, step: Step) -> Terms:
        out, count, weight = nets.student(batch.image), batch.count, self.ramp(step)
        said = every_decoder(out)
        with torch.no_grad():
            wise = nets.teacher(self.noise(batch.unlabelled, step.generator))
            every = torch.stack([probabilities(x) for x in every_decoder(wise)])
            labels = every.argmax(2)
            certain = (labels == labels[0]).all(0).unsqueeze(1).to(every.dtype)
        taught = list(zip(said, every, TEACH, strict=True))
        gaps = [weighted_mean(mse(probabilities(mine[count:]), p), 1 - certain) for mine, p, _ in taught]
        terms = Terms(
            supervised=torch.stack([teach(mine[:count], batch.label, None) for mine, _, teach in taught]).mean(),
            pseudo=weight * torch.stack([teach(x[count:], labels[0], certain) for x, _, teach in taught]).mean(),
            consistency=weight * torch.stack(gaps).mean(),
        )
        terms.notes["accepted"] = certain.mean()
        return terms
