"""LG-ER-MT and ER-MT: structure-aware entropy-regularised mean teacher."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from edgemt.contract import Batch, Step
from edgemt.learning.losses import (
    dice_ce,
    mse,
    probabilities,
)
from edgemt.learning.method import LossTerms
from edgemt.learning.roles import Networks
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class LGERMT(StudentTeacher):
    """Inspired by LG-ER-MT: low entropy, and the teacher's local and global structure.

    L = dice_ce(x_l, y_l)
    + ramp(t) [MSE(p, q) + sure mean H(p) + near mean_d MSE(s_d(p), s_d(q)) + far MSE(I(p), I(q))],
    s_d(p) = p(v) . p(v + d) for neighbours d, I(p) = -p ln p. `near` and `far` 0 give ER-MT.

    Target: the average's softmax; with structure also its similarities between neighbours, and its map -p ln p.

    Differs: of the paper only the abstract was readable: entropy minimisation, similarity of voxels within small
    regions, and self-information maps -p ln p, compared with the teacher's. Weights are ours, fractions of the ramp.
    """

    inspired: ClassVar[bool] = True
    family: ClassVar[str] = "uncertainty"
    citation: ClassVar[str] = "Hang et al., MICCAI 2020, Local and global structure-aware entropy regularized MT"
    sure: float = 1.0  # weight of the entropy
    near: float = 1.0  # weight of the local similarities
    far: float = 1.0  # weight of the information maps
    reach: int = 1  # radius of a local region, voxels

    def variant_note(self) -> str:
        return "" if self.near or self.far else "Entropy alone."

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        logits, weight = nets.student(batch.image).logits, self.ramp(step)
        with torch.no_grad():
            target = probabilities(nets.teacher(self.noise(batch.unlabelled, step.generator)).logits)
        p = probabilities(logits[batch.count :])
        terms = LossTerms(
            supervised=dice_ce(logits[: batch.count], batch.label),
            consistency=weight * mse(p, target).mean(),
            entropy=weight * self.sure * self_information(p).sum(1).mean(),
        )
        if self.near:
            pairs = zip(neighbour_similarity(p, self.reach), neighbour_similarity(target, self.reach), strict=True)
            terms["near"] = weight * self.near * torch.stack([(a - b).square().mean() for a, b in pairs]).mean()
        if self.far:
            terms["far"] = weight * self.far * mse(self_information(p), self_information(target)).mean()
        return terms


def self_information(p: Tensor) -> Tensor:
    """Map [N, C, *space]: -p ln p, with a finite gradient at 0."""
    return torch.special.entr(p.clamp_min(1e-8))


def neighbour_similarity(p: Tensor, reach: int) -> list[Tensor]:
    """Maps [N, *space] of p(v) . p(v + d), one for each offset d of at most `reach` voxels an axis; each pair once."""
    dims, every, similarities = p.ndim - 2, slice(None), []
    for offset in product(range(-reach, reach + 1), repeat=dims):
        sizes = list(zip(offset, p.shape[2:], strict=True))
        if offset <= (0,) * dims or any(abs(step) >= size for step, size in sizes):
            continue
        here = (every, every, *(slice(max(0, -step), size - max(0, step)) for step, size in sizes))
        there = (every, every, *(slice(max(0, step), size - max(0, -step)) for step, size in sizes))
        similarities.append((p[here] * p[there]).sum(1))
    return similarities
