"""Mean teachers that compare more than one softmax, or look at more than one view.

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
from edgemt.learning.losses import cross_entropy, dice_ce, mse, onehot, pixel_contrast, probabilities
from edgemt.learning.method import Terms, every_scale
from edgemt.learning.perturbations import Affine, Cells, Noise, darkness, inverse, shade, warp, within
from edgemt.learning.pseudo_labels import soft
from edgemt.learning.roles import Ema, Players
from edgemt.learning.schedules import Ramp
from edgemt.learning.student_teacher import Pair


@dataclass(frozen=True)
class FrequencyRegion(Pair):
    """FRCNet: student and teacher agree in classes, frequencies of features, and which regions are alike.

    Follows the release: all rows, no noise on the input, weight 0.1 rising over the whole run. Grids of regions are 8,
    6 and 4 an axis.

    Target: the average's softmax, features by frequency, and cosines between regions.

    Differs: it works on the last decoder map of any network. Left out: SegFormer with prompts, and the learnt
    attention over frequency bands. Plain cosine transforms keep distances, so without it a band's gap is relative to
    its energy. The release's grids are 32, 24 and 16 an axis in 2-D.
    """

    heads: ClassVar[tuple[Head, ...]] = ("features",)
    citation: ClassVar[str] = "He & Li, MICCAI 2024, FRCNet: Frequency and region consistency"
    ramp: Ramp = field(default_factory=lambda: Ramp(length=1.0))
    noise: Noise = field(default_factory=lambda: Noise(std=0.0))
    regions: tuple[int, ...] = (8, 6, 4)
    frequencies: int = 32  # an axis, at most
    low: float = 0.25  # share of them, an axis, in the low band

    def compared(self, nets: Players, batch: Batch, step: Step) -> Terms:
        said = nets.student(batch.image)
        with torch.no_grad():
            wise = nets.teacher(self.noise(batch.image, step.generator))
        mine, theirs = said.features, wise.features
        alike = [mse(region_similarity(mine, v), region_similarity(theirs, v)).mean() for v in self.regions]
        weight = self.ramp(step)
        return Terms(
            supervised=dice_ce(said.logits[: batch.count], batch.label),
            consistency=weight * mse(probabilities(said.logits), probabilities(wise.logits)).mean(),
            frequency=weight * frequency_gap(mine, theirs, side=self.frequencies, low=self.low),
            regions=weight * torch.stack(alike).sum(),
        )


def pooled(x: Tensor, side: int) -> Tensor:
    """Means over a grid of at most `side` regions an axis, in float32 at least."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.interpolate(x, size=[min(side, size) for size in x.shape[2:]], mode="area")


def region_similarity(features: Tensor, side: int) -> Tensor:
    """[N, V, V]: cosines between the mean features of regions."""
    unit = F.normalize(pooled(features, side).flatten(2), dim=1)
    return unit.transpose(1, 2) @ unit


def cosine_transform(x: Tensor) -> Tensor:
    """The orthonormal DCT-II of [N, F, *space] over *space*."""
    for axis, size in enumerate(x.shape[2:], 2):
        place = torch.arange(size, device=x.device, dtype=x.dtype)
        wave = torch.cos(math.pi / size * (place + 0.5) * place[:, None]) * math.sqrt(2 / size)
        wave[0] *= math.sqrt(0.5)
        x = (x.movedim(axis, -1) @ wave.T).movedim(-1, axis)
    return x


def frequency_gap(mine: Tensor, theirs: Tensor, *, side: int, low: float) -> Tensor:
    """Scalar: squared gap over energy, mean of the low and the high band of the cosine transform."""
    wave, target = (cosine_transform(pooled(x, side)) for x in (mine, theirs))
    edge = torch.zeros(wave.shape[2:], dtype=torch.bool, device=wave.device)
    edge[tuple(slice(max(1, round(low * size))) for size in edge.shape)] = True
    gap, energy = (wave - target).square(), target.square()
    bands = [(gap * band).sum() / (energy * band).sum().clamp_min(1e-6) for band in (edge, ~edge)]
    return torch.stack(bands).mean()


@dataclass(frozen=True)
class MultiScale(Pair):
    """Inspired by MS-MT: labels and teacher speak to every scale of the decoder, not the last one alone.

    Target: the average's softmax at each scale, trusted everywhere.

    Differs: of the paper only the abstract was readable: deep supervision and consistency at several scales, all
    weighed alike here. Its translation between modalities beforehand (CUT) is not part of a training step.
    """

    inspired: ClassVar[bool] = True
    heads: ClassVar[tuple[Head, ...]] = ("scales",)
    citation: ClassVar[str] = "Zhao et al., crossMoDA 2022, MS-MT: Multi-scale mean teacher"

    def compared(self, nets: Players, batch: Batch, step: Step) -> Terms:
        said, count = nets.student(batch.image), batch.count
        with torch.no_grad():
            wise = nets.teacher(self.noise(batch.unlabelled, step.generator))
        scales = list(zip(every_scale(said), every_scale(wise), strict=True))
        gaps = [mse(probabilities(mine[count:]), probabilities(theirs)).mean() for mine, theirs in scales]
        return Terms(
            supervised=torch.stack([dice_ce(mine[:count], batch.label) for mine, _ in scales]).mean(),
            consistency=self.ramp(step) * torch.stack(gaps).mean(),
        )


@dataclass(frozen=True)
class PatchShuffle(Pair):
    """Inspired by patch shuffling with pixel contrast: a class is known without its surroundings.

    The student sees the unlabelled images with their patches shuffled, the target is shuffled alike, and its features
    are drawn to the teacher's of the same class at `samples` voxels, the classes drawn evenly.

    Target: the average's softmax, shuffled alike, and its features of the same class.

    Differs: of the paper only a survey's sentence is known; weights and grids are ours.
    """

    inspired: ClassVar[bool] = True
    heads: ClassVar[tuple[Head, ...]] = ("features",)
    citation: ClassVar[str] = "Inspired by Cai et al., patch shuffle and pixel-wise contrast (survey)"
    cells: Cells = field(default_factory=Cells)
    pull: float = 0.1  # of the contrast, beside the consistency
    samples: int = 256
    temperature: float = 0.1

    def compared(self, nets: Players, batch: Batch, step: Step) -> Terms:
        order = self.cells.order(batch.unlabelled, step.generator)
        with torch.no_grad():
            wise = nets.teacher(self.noise(batch.unlabelled, step.generator))
            target = self.cells.shuffle(order, probabilities(wise.logits))
            keys = self.cells.shuffle(order, wise.features)
        said = nets.student(torch.cat([batch.labelled, self.cells.shuffle(order, batch.unlabelled)]))
        label = target.argmax(1).flatten()
        at = even_draw(label, step.generator, classes=target.shape[1], count=self.samples)
        mine, theirs = (x.movedim(1, -1).flatten(0, -2)[at] for x in (said.features[batch.count :], keys))
        weight = self.ramp(step)
        contrast = pixel_contrast(mine, theirs, label[at], temperature=self.temperature)
        return Terms(
            supervised=dice_ce(said.logits[: batch.count], batch.label),
            consistency=weight * mse(probabilities(said.logits[batch.count :]), target).mean(),
            contrast=weight * self.pull * contrast,
        )


def even_draw(label: Tensor, generator: torch.Generator | None, *, classes: int, count: int) -> Tensor:
    """int64 [count]: places of a flat `label`, without repetition, each class as likely as any (Efraimidis)."""
    frequency = torch.zeros(classes, device=label.device).index_add_(0, label, torch.ones_like(label).float())[label]
    luck = torch.rand(label.shape, generator=generator, device=label.device).clamp_min(1e-12).log()
    return (luck * frequency).topk(min(count, len(label))).indices


@dataclass(frozen=True)
class ShadowAugmentation(Pair):
    """SCO-SSL: teacher and student see ultrasound under shadows taken from two other images of the batch.

    Follows the release: shadows are the dark parts of another row, the teacher's of the one before and the student's
    of the one after, the student's also multiplies its encoder's maps; cross-entropy with soft targets on all rows;
    the whole state averaged, teacher in eval mode.

    Target: the average's softmax of a turned, shadowed view, put back, where it looked.

    Differs: the release turns both views rigidly; here the teacher's alone, the batch having turned the student's.
    Dice with cross-entropy where it has Dice. Levels are shares of an image's own range, as images come normalised.
    """

    heads: ClassVar[tuple[Head, ...]] = ("disturb",)
    citation: ClassVar[str] = "Xu et al., TMI 2022, Shadow-consistent semi-supervised learning (SCO-SSL)"
    ramp: Ramp = field(default_factory=lambda: Ramp(length=0.5))
    ema: Ema = field(default_factory=lambda: Ema(mode="eval"))
    noise: Noise = field(default_factory=lambda: Noise(std=0.0))
    affine: Affine = field(default_factory=lambda: Affine(degrees=10.0, zoom=0.0, shift=0.05))

    def compared(self, nets: Players, batch: Batch, step: Step) -> Terms:
        dark = darkness(batch.image)
        there = self.affine.draw(batch.image, step.generator)
        seen = self.noise(warp(there, shade(batch.image, dark.roll(1, 0))), step.generator)
        back = inverse(there)
        target = warp(back, soft(nets.teacher, seen))
        mask = dark.roll(-1, 0)
        logits = nets.student(
            shade(batch.image, mask), disturb=lambda f: f * F.interpolate(mask, size=f.shape[2:]).to(f.dtype)
        ).logits
        gap = cross_entropy(logits, target, weight=within(back, target))
        return Terms(
            supervised=dice_ce(logits[: batch.count], batch.label),
            consistency=self.ramp(step) * gap,
        )


@dataclass(frozen=True)
class PatchSwap(Pair):
    """Inspired by cross-modal patch swapping: unlabelled images with patches of labelled ones.

    Half of the cells of a grid come from a labelled image with its label, the others keep the teacher's word.

    Target: the average's softmax, and the label where a patch is a labelled one's.

    Differs: of PrixMatch only a survey's sentence is known; two modalities, or two devices, are any labelled and
    unlabelled row here.
    """

    inspired: ClassVar[bool] = True
    citation: ClassVar[str] = "Inspired by PrixMatch, patch swapping between modalities (survey)"
    cells: Cells = field(default_factory=Cells)

    def compared(self, nets: Players, batch: Batch, step: Step) -> Terms:
        target = soft(nets.teacher, self.noise(batch.unlabelled, step.generator))
        partner = torch.arange(len(target), device=target.device) % batch.count
        given = self.cells.draw(batch.unlabelled, step.generator)
        view = torch.where(given, batch.labelled[partner], batch.unlabelled)
        target = torch.where(given, onehot(batch.label, target.shape[1])[partner].to(target.dtype), target)
        logits = nets.student(torch.cat([batch.labelled, view])).logits
        return Terms(
            supervised=dice_ce(logits[: batch.count], batch.label),
            consistency=self.ramp(step) * mse(probabilities(logits[batch.count :]), target).mean(),
        )
