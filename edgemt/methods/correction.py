"""Mean teachers for labels that may be wrong: a loss that bears errors, a teacher that is wary, labels put right.

Shapes: N batch, L labelled, U unlabelled, C classes, F features, V regions, *space 2 or 3 axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import dice_ce, entropy, mse, noise_robust_dice, onehot, probabilities, weighted_mean
from edgemt.learning.method import Terms
from edgemt.learning.pseudo_labels import hard, label_errors, passes, soft
from edgemt.learning.roles import Ema, Memory, Players, Role, Wary
from edgemt.learning.schedules import Ramp
from edgemt.learning.student_teacher import Pair
from edgemt.methods.consistency import pooled


@dataclass(frozen=True)
class NoiseRobust(Pair):
    """Inspired by COPLE: a Dice that bears wrong labels, a teacher wary of bad steps, followed if better.

    On labelled rows the student follows where the teacher is nearer to the label, on the others everywhere, times the
    share of such voxels.

    Target: the average's softmax; the average takes little from a student whose loss stands out.

    Differs: the loss is the release's (gamma 1.5); its training loop was never released and the paper was not
    readable, so the thresholds of teacher and student are ours: the average takes less from a student whose loss
    stands out among the last hundred (`Wary`). Left out: its network.
    """

    inspired: ClassVar[bool] = True
    citation: ClassVar[str] = "Wang et al., TMI 2020, A noise-robust framework for COVID-19 lesions (COPLE-Net)"
    ema: Ema = field(default_factory=lambda: Wary(record="record"))
    power: float = 1.5

    def roles(self) -> dict[str, Role]:
        return {**super().roles(), "record": Memory(size=100, features=1, classes=1)}

    def compared(self, nets: Players, batch: Batch, step: Step) -> Terms:
        p = probabilities(nets.student(batch.image).logits)
        target = soft(nets.teacher, self.noise(batch.image, step.generator))
        mine, theirs = p[: batch.count], target[: batch.count]
        truth = onehot(batch.label, p.shape[1])
        supervised = noise_robust_dice(mine, truth, power=self.power)
        nets.record.push(supervised.detach().view(1, 1), label=0)
        better = (mse(theirs, truth) < mse(mine.detach(), truth)).to(p.dtype)
        gap = weighted_mean(mse(mine, theirs), better)
        gap = gap + better.mean() * mse(p[batch.count :], target[batch.count :]).mean()
        terms = Terms(supervised=supervised, consistency=self.ramp(step) * 0.5 * gap)
        terms.notes["accepted"] = better.mean()
        return terms


@dataclass(frozen=True)
class SelfSimilarity(Pair):
    """Inspired by the self-similarity student: near patches look alike, so they correct each other.

    Features of near patches attract and those of far ones repel; the target of every row is the teacher's word, half
    of it replaced by the mean over near patches, each weighed by its likeness.

    Target: the average's softmax, blended with that of near and like patches.

    Differs: of the paper only the abstract was readable. Left out: the average of predictions over epochs, which needs
    a memory of every image.
    """

    inspired: ClassVar[bool] = True
    heads: ClassVar[tuple[Head, ...]] = ("features",)
    citation: ClassVar[str] = "Cheng et al., ECCV 2020, Self-similarity student for partial label segmentation"
    side: int = 8  # patches an axis
    near: float = 1.5  # patches
    blend: float = 0.5
    temperature: float = 0.1
    pull: float = 0.1  # of the likeness, beside the consistency

    def compared(self, nets: Players, batch: Batch, step: Step) -> Terms:
        said, weight = nets.student(batch.image), self.ramp(step)
        with torch.no_grad():
            wise = nets.teacher(self.noise(batch.image, step.generator))
            q = probabilities(wise.logits)
            close = near_cells(pooled(q, self.side), reach=self.near)
            trust = self._alike(wise.features).masked_fill(~close, -torch.inf).softmax(2)
            coarse = pooled(q, self.side)
            mean = (trust.to(coarse.dtype) @ coarse.flatten(2).transpose(1, 2)).transpose(1, 2).view_as(coarse)
            target = torch.lerp(q, F.interpolate(mean, size=q.shape[2:], mode="nearest").to(q.dtype), self.blend)
        alike = self._alike(said.features)
        friends = alike.masked_fill(~close, -torch.inf).logsumexp(2) - alike.logsumexp(2)
        return Terms(
            supervised=dice_ce(said.logits[: batch.count], batch.label),
            consistency=weight * mse(probabilities(said.logits), target).mean(),
            similarity=-weight * self.pull * friends.mean(),
        )

    def _alike(self, features: Tensor) -> Tensor:
        """[N, V, V]: cosines between patches over the temperature, a patch with itself left out."""
        unit = F.normalize(pooled(features, self.side).flatten(2), dim=1)
        own = torch.eye(unit.shape[2], dtype=torch.bool, device=unit.device)
        return (unit.transpose(1, 2) @ unit).masked_fill(own, -torch.inf) / self.temperature


def near_cells(grid: Tensor, *, reach: float) -> Tensor:
    """bool [V, V]: which cells of a grid [N, C, *side] lie within `reach` of each other, not oneself."""
    lines = [torch.arange(side, device=grid.device, dtype=torch.float32) for side in grid.shape[2:]]
    place = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).flatten(0, -2)
    away = (place[:, None] - place).square().sum(2)
    return (away <= reach**2) & (away > 0)


@dataclass(frozen=True)
class LabelCorrection(Pair):
    """Inspired by confident-learning correction: labels that the teacher contradicts are moved its way.

    `amount` is how far (0.8 of the way, 1 is its hard form), less where the teacher doubts (`by_doubt`). The move
    ramps up, as a young teacher is wrong.

    Target: the average's softmax of a noisy view; labels are corrected by its mean of six looks.

    Differs: the survey's work (Huang et al.) was not readable; the nearest code, MTCL, is followed: errors by
    confident learning on the mean of six looks. There smoothed labels are cast to integers, so that only errors of the
    foreground are ever corrected; here they stay soft.
    """

    inspired: ClassVar[bool] = True
    citation: ClassVar[str] = "Huang et al. (survey); MTCL: Xu et al., TMI 2022, Anti-interference from noisy labels"
    amount: Ramp = field(default_factory=lambda: Ramp(top=0.8, length=0.4))
    passes: int = 6
    by_doubt: bool = True

    def compared(self, nets: Players, batch: Batch, step: Step) -> Terms:
        seen = passes(nets.teacher, batch.labelled, self.noise, step.generator, times=self.passes).mean(0)
        errors = label_errors(batch.label, seen).unsqueeze(1)
        move = self.amount(step) * errors.to(seen.dtype)
        if self.by_doubt:
            move = move * (1 - entropy(seen) / math.log(seen.shape[1]))
        label = torch.lerp(onehot(batch.label, seen.shape[1]).to(seen.dtype), hard(seen).to(seen.dtype), move)
        target = soft(nets.teacher, self.noise(batch.unlabelled, step.generator))
        logits = nets.student(batch.image).logits
        terms = Terms(
            supervised=dice_ce(logits[: batch.count], label),
            consistency=self.ramp(step) * mse(probabilities(logits[batch.count :]), target).mean(),
        )
        terms.notes["corrected"] = errors.to(seen.dtype).mean()
        return terms
