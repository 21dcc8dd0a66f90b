"""BCP: labelled and unlabelled images pasted into each other, both ways.

Shapes: P pairs, L labelled, U unlabelled, C classes, *space 2 or 3 axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from edgemt.contract import Batch, Step
from edgemt.losses import dice_ce
from edgemt.methods.method import Method, Terms
from edgemt.perturb import Box
from edgemt.pseudo import largest_component, soft
from edgemt.roles import Ema, Players, Role, Trainable


@dataclass(frozen=True)
class CopyPaste(Method):
    """A block of an unlabelled image in a labelled one, and the reverse: both kinds share one context.

    Follows the release: blocks of two thirds a side, pseudo-labels from the average, the unlabelled region counts
    half, the losses of both ways are summed, no ramp. Its first stage, labelled images pasted into each other, is the
    first share `pretrain` of this run (2000 of 17000 iterations there, and 10000 of 40000 for slices: 0.25).

    Target: the average's hard labels, cleaned to each class's largest component.

    Differs: each pair is pasted both ways with one block, where the release pairs each image once; Dice looks at its
    own region only, which the code for slices forgets; the average includes batch-norm statistics, speaks in eval
    mode, and is delivered.
    """

    delivers: ClassVar[str] = "teacher"
    citation: ClassVar[str] = "Bai et al., CVPR 2023, Bidirectional copy-paste for semi-supervised segmentation"
    pretrain: float = 0.12
    unlabelled: float = 0.5
    box: Box = field(default_factory=lambda: Box(low=2 / 3, high=2 / 3, chance=1.0))
    ema: Ema = field(default_factory=lambda: Ema(mode="eval"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.pretrain < 1.0:
            raise ValueError(f"pretrain: {self.pretrain} is not a share of the run; give a number from 0 up to, not 1")

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "teacher": self.ema}

    def losses(self, nets: Players, batch: Batch, step: Step) -> Terms:
        free = len(batch.unlabelled)
        first = step.share < self.pretrain or not free
        if first:
            one, truth = batch.labelled, batch.label
            other, said = one.roll(1, 0), truth.roll(1, 0)
        else:
            pair = torch.arange(max(batch.count, free), device=batch.image.device)
            one, truth = batch.labelled[pair % batch.count], batch.label[pair % batch.count]
            p = soft(nets.teacher, batch.unlabelled)
            said = largest_component(p.argmax(1), classes=p.shape[1])[pair % free]
            other = batch.unlabelled[pair % free]
        block = self.box.draw(one, step.generator)  # [P, 1, *space]
        outward, inward = nets.student(paste(block, one, other)).logits.chunk(2)
        inside = block.to(outward.dtype)
        known = regions(outward, inward, truth, 1.0 - inside)
        guessed = regions(outward, inward, said, inside)
        if first:  # there one way at a time
            return Terms(supervised=0.5 * known, supervised_pasted=0.5 * guessed)
        return Terms(supervised=known, pasted=self.unlabelled * guessed)


def paste(block: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """[2P, K, *space]: `one` with the block of `other`, then `other` with the block of `one`."""
    return torch.cat([torch.where(block, other, one), torch.where(block, one, other)])


def regions(outward: Tensor, inward: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Scalar: how far both ways, summed, are from the label of one partner, each where that partner shows.

    `weight` [P, 1, *space] is where it shows in the first way; in the second it shows everywhere else.
    """
    return dice_ce(outward, label, weight=weight) + dice_ce(inward, label, weight=1.0 - weight)
