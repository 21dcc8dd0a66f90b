"""Frames cached as small integers, and two-stream batches that are a pure function of (seed, index).

Shapes: n cached cases, N batch, L labelled, U unlabelled, K channels, H W size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from edgemt.contract import Batch, Case, Normalise
from edgemt.data.augment import AugmentOptions, intensify, normalised, warp
from edgemt.data.decode import Form, ProgressCall, decode_frames, decode_pairs, need_every_class
from edgemt.data.layouts import DataOptions
from edgemt.frames import fit_label


@dataclass(frozen=True)
class Stack:
    """Decoded cases. `label` is None for images whose mask may not be read."""

    image: Tensor  # uint8 [n, H, W, K]
    label: Tensor | None  # uint8 [n, H, W]
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.image)

    def to(self, device: torch.device | str) -> Stack:
        """The same stack on a device, where the whole fits; batches are then made there."""
        label = self.label.to(device) if self.label is not None else None
        return Stack(self.image.to(device), label, self.names)


def form_of(options: DataOptions) -> Form:
    return Form(options.size, options.channels, options.classes, options.mask_threshold)


def load(cases: Sequence[Case], options: DataOptions, *, progress: ProgressCall | None = None) -> Stack:
    """Decodes the cases at `options.size`. Labels are read when every case has one, and never otherwise.

    Raises ValueError, naming the file, for whatever cannot be read, and the class when one never occurs.
    """
    form = form_of(options)
    names = tuple(case.name for case in cases)
    if not cases or any(case.label is None for case in cases):
        if any(case.label is not None for case in cases):
            raise ValueError("load: labelled and unlabelled cases are mixed; load each kind by itself")
        return Stack(torch.from_numpy(decode_frames(cases, form, progress=progress)), None, names)
    image = np.empty((len(cases), *form.size, form.channels), np.uint8)
    label = np.empty((len(cases), *form.size), np.uint8)
    for i, (frame, truth) in enumerate(decode_pairs(cases, form, progress=progress)):
        image[i] = frame
        label[i] = fit_label(truth, size=form.size)
    need_every_class(label, form.classes, where=f"masks of the {len(cases)} labelled images")
    return Stack(torch.from_numpy(image), torch.from_numpy(label), names)


def statistics(*stacks: Stack, per_image: bool = False) -> Normalise:
    """Mean and standard deviation per channel over all given images, in units of 1/255."""
    kept = [stack.image for stack in stacks if len(stack)]
    if not kept:
        raise ValueError("statistics: no image is given")
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(kept[0].shape[-1]):
        values = [image[..., channel].reshape(-1) for image in kept]
        counts = sum(torch.bincount(v.cpu(), minlength=256) for v in values)
        share = counts / counts.sum()  # type: ignore[union-attr]
        middle = float((share * levels).sum())
        mean.append(round(middle, 6))
        std.append(round(max(float((share * (levels - middle) ** 2).sum()) ** 0.5, 1e-3), 6))
    return Normalise(tuple(mean), tuple(std), per_image)


def mixed_seed(*parts: int) -> int:
    """One seed out of several, well mixed: neighbours are unrelated."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


@lru_cache(maxsize=64)
def _epoch(seed: int, stream: int, epoch: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(mixed_seed(seed, stream, epoch))
    return torch.randperm(count, generator=generator)


def rows_of(seed: int, stream: int, *, count: int, first: int, length: int) -> Tensor:
    """`length` places of an endless row of shuffled epochs; each epoch visits every case once."""
    at = range(first, first + length)
    return torch.stack([_epoch(seed, stream, i // count, count)[i % count] for i in at])


@dataclass(frozen=True)
class TwoStream:
    """Labelled and unlabelled images side by side. Nothing is remembered: resume needs the index."""

    labelled: Stack
    unlabelled: Stack
    batch_size: tuple[int, int] = (8, 8)  # L, U
    augment: AugmentOptions = AugmentOptions()
    normalise: Normalise = Normalise()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.labelled.label is None or not len(self.labelled):
            raise ValueError("TwoStream: the labelled stack has no labels or no images")
        if self.unlabelled.label is not None:
            raise ValueError("TwoStream: the unlabelled stack carries labels; build it from cases without a label")
        if self.batch_size[0] < 1 or self.batch_size[1] < 0:
            raise ValueError(f"batch_size: needs at least 1 labelled and 0 unlabelled images, not {self.batch_size}")

    @property
    def epoch(self) -> int:
        """Batches until each unlabelled image (or labelled, when there are no others) was seen once."""
        count = self.batch_size[1] if len(self.unlabelled) else 0
        return max(1, round(len(self.unlabelled) / count if count else len(self.labelled) / self.batch_size[0]))

    def batch(self, index: int, device: torch.device | str = "cpu") -> Batch:
        """The same for the same (seed, index), whatever came before. U is 0 without unlabelled images."""
        length, others = self.batch_size[0], self.batch_size[1] if len(self.unlabelled) else 0
        rows = rows_of(self.seed, 0, count=len(self.labelled), first=index * length, length=length)
        assert self.labelled.label is not None
        image = _take(self.labelled.image, rows, device)
        label = _take(self.labelled.label, rows, device)
        if others:
            rows = rows_of(self.seed, 1, count=len(self.unlabelled), first=index * others, length=others)
            image = torch.cat([image, _take(self.unlabelled.image, rows, device)])
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, 2, index))
        image = image.permute(0, 3, 1, 2).to(torch.float32) / 255
        image, label = warp(image, label, options=self.augment, generator=generator)
        weak, strong = image, None
        if self.augment.labelled_intensity > 0:
            chosen = torch.rand(length, generator=generator) < self.augment.labelled_intensity
            chosen = chosen.nonzero()[:, 0].to(image.device)
            weak = image.clone()
            weak[chosen] = intensify(image[chosen], options=self.augment, generator=generator, cutout=False)
        if others and self.augment.strong:
            strong = intensify(image[length:], options=self.augment, generator=generator, cutout=True)
            strong = normalised(strong, self.normalise)
        return Batch(normalised(weak, self.normalise), label.long(), strong)


def _take(stack: Tensor, rows: Tensor, device: torch.device | str) -> Tensor:
    return stack[rows.to(stack.device)].to(device, non_blocking=True)
