"""BCP: labelled and unlabelled images pasted into each other, both ways.

Shapes: P pairs, L labelled, U unlabelled, C classes, *space 2 or 3 axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from edgemt.contract import Batch, Step
from edgemt.learning.losses import cross_entropy, dice, onehot, probabilities
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations import CutMixBox
from edgemt.learning.pseudo_labels import largest_component, soft
from edgemt.learning.published_settings import CONSTANT, PublishedSettings
from edgemt.learning.roles import Ema, Networks, Role, Trainable


@dataclass(frozen=True)
class BCP(Method):
    """A block of an unlabelled image in a labelled one, and the reverse: both kinds share one context.

    Follows the release: blocks of two thirds a side, pseudo-labels from the average, the unlabelled region counts
    half, the losses of both ways are summed, no ramp, Dice counts the background as a class and looks at its own region
    only. One block serves the whole batch. Its first stage, labelled images pasted into each other, is the first share
    of this run: `pretrain` for slices (10000 of 40000 iterations there), `pretrain_volumes` for volumes (2000 of
    17000).

    Target: the average's hard labels, cleaned to each class's largest component, whose voxels touch by a corner at
    least.

    Differs: each pair is pasted both ways with one block, where the release pairs each image once; Dice leaves out a
    class that the target lacks, and has squared denominators for volumes too; the average follows from the first step,
    where the release starts it with the second stage, includes batch-norm statistics, is in eval mode, and is
    delivered.
    """

    delivers: ClassVar[str] = "teacher"
    release: ClassVar[PublishedSettings | None] = CONSTANT
    family: ClassVar[str] = "copy-paste"
    citation: ClassVar[str] = "Bai et al., CVPR 2023, Bidirectional copy-paste for semi-supervised segmentation"
    pretrain: float = 0.25
    pretrain_volumes: float = 0.12
    unlabelled: float = 0.5
    box: CutMixBox = field(default_factory=lambda: CutMixBox(low=2 / 3, high=2 / 3, chance=1.0))
    ema: Ema = field(default_factory=lambda: Ema(mode="eval"))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pretrain", "pretrain_volumes"):
            share = getattr(self, name)
            if not 0.0 <= share < 1.0:
                raise ValueError(f"{name}: {share} is not a share of the run; give a number from 0 up to, not 1")

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "teacher": self.ema}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        free = len(batch.unlabelled)
        pretrain = self.pretrain_volumes if batch.image.ndim == 5 else self.pretrain
        first = step.share < pretrain or not free
        if first:
            one, truth = batch.labelled, batch.label
            other, said = one.roll(1, 0), truth.roll(1, 0)
        else:
            pair = torch.arange(max(batch.count, free), device=batch.image.device)
            one, truth = batch.labelled[pair % batch.count], batch.label[pair % batch.count]
            p = soft(nets.teacher, batch.unlabelled)
            said = largest_component(p.argmax(1), classes=p.shape[1])[pair % free]
            other = batch.unlabelled[pair % free]
        block = self.box.draw(one[:1], step.generator).expand(len(one), -1, *one.shape[2:])  # [P, 1, *space]
        outward, inward = nets.student(paste(block, one, other)).logits.chunk(2)
        inside = block.to(outward.dtype)
        known = regions(outward, inward, truth, 1.0 - inside)
        guessed = regions(outward, inward, said, inside)
        if first:  # there one way at a time
            return LossTerms(supervised=0.5 * known, supervised_pasted=0.5 * guessed)
        return LossTerms(supervised=known, pasted=self.unlabelled * guessed)


def paste(block: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """[2P, K, *space]: `one` with the block of `other`, then `other` with the block of `one`."""
    return torch.cat([torch.where(block, other, one), torch.where(block, one, other)])


def regions(outward: Tensor, inward: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Scalar: how far both ways, summed, are from the label of one partner, each where that partner shows.

    `weight` [P, 1, *space] is where it shows in the first way; in the second it shows everywhere else. Each is
    0.5 (cross-entropy + Dice), the background counting as a class of Dice.
    """
    truth = onehot(label, outward.shape[1])
    ways = ((outward, weight), (inward, 1.0 - weight))
    costs = [
        0.5 * (cross_entropy(x, label, weight=w) + dice(probabilities(x), truth, weight=w, background=True))
        for x, w in ways
    ]
    return torch.stack(costs).sum()
