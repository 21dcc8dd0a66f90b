"""Frames cached as small integers, and two-stream batches that are a pure function of (seed, index).

Shapes: n cached cases, N batch, L labelled, U unlabelled, C classes, H W size, K channels of a frame: 1, 3 (RGB), or
the neighbouring slices of a volume, which are gathered when a batch is made and cached once.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from edgemt.contract import Batch, Case
from edgemt.data.augment2d import AugmentOptions, intensify, placed, scales, warp
from edgemt.data.cohort import DataOptions
from edgemt.data.decode import Form, ProgressCall, decode_frames, decode_pairs
from edgemt.data.reading import Lost, Reading
from edgemt.io.images import fit_label
from edgemt.io.volumes import neighbour_indices
from edgemt.model_card import Normalisation


@dataclass(frozen=True)
class Stack:
    """Decoded cases. `label` is None for images whose mask may not be read."""

    image: Tensor  # uint8 [n, H, W, 1 or 3]
    label: Tensor | None  # uint8 [n, H, W]
    names: tuple[str, ...] = ()
    around: Tensor | None = None  # int64 [n, slices]: the rows that a frame is made of, None: the row itself
    soft: Tensor | None = None  # float16 [n, C - 1, H, W] what a finished teacher said, without background

    def __len__(self) -> int:
        return len(self.image)

    def to(self, device: torch.device | str) -> Stack:
        """The same stack on a device, where the whole fits; batches are then made there."""
        label, around, soft = (None if x is None else x.to(device) for x in (self.label, self.around, self.soft))
        return Stack(self.image.to(device), label, self.names, around, soft)

    def frames(self, rows: Tensor, device: torch.device | str) -> Tensor:
        """float [N, K, H, W] in [0, 1]: rows of the stack, each with its neighbours as channels."""
        if self.around is None:
            image = _take(self.image, rows, device).permute(0, 3, 1, 2)
        else:
            around = _take(self.around, rows, self.image.device)
            image = self.image[..., 0][around].to(device, non_blocking=True)
        return image.to(torch.float32) / 255


def form_of(options: DataOptions) -> Form:
    """A slice alone: a stack keeps each once, and `around_of` says which of them make a frame."""
    return Form(
        options.size,
        options.channels,
        options.classes,
        options.mask_threshold,
        depth=options.depth,
        window=options.window,
        compare=options.affines == "compare",
    )


def around_of(cases: Sequence[Case], *, slices: int) -> Tensor:
    """int64 [n, slices]: for each case the places of its neighbours in `cases`, which must hold whole volumes.

    Raises ValueError for a case that is no slice, and for a volume of which a slice is missing.
    """
    volumes: dict[str, dict[int, int]] = {}
    for row, case in enumerate(cases):
        if case.slice is None:
            raise ValueError(f"data.slices: {case.name} is no slice of a volume and has no neighbours; set it to 1")
        volumes.setdefault(case.image, {})[case.slice] = row
    out = np.empty((len(cases), slices), np.int64)
    for image, rows in volumes.items():
        if sorted(rows) != list(range(len(rows))):
            raise ValueError(f"{image}: some slices are not on the list, and data.slices {slices} needs them all")
        in_order = np.array([rows[k] for k in range(len(rows))])
        out[in_order] = in_order[neighbour_indices(len(rows), slices)]
    return torch.from_numpy(out)


def load(
    cases: Sequence[Case],
    options: DataOptions,
    *,
    reading: Reading | None = None,
    progress: ProgressCall | None = None,
) -> Stack:
    """Decodes the cases at `options.size`. Labels are read when every case has one, and never otherwise.

    `reading` holds the rules of the whole set; without it they are decided by these cases alone.
    Raises ValueError, naming the file, for whatever cannot be read, and the class when one never occurs.
    """
    form = form_of(options)
    names = tuple(case.name for case in cases)
    around = around_of(cases, slices=options.slices) if options.slices > 1 else None
    if not cases or any(case.label is None for case in cases):
        if any(case.label is not None for case in cases):
            raise ValueError("load: labelled and unlabelled cases are mixed; load each kind by itself")
        image = decode_frames(cases, form, reading=reading, progress=progress)
        return Stack(torch.from_numpy(image), None, names, around)
    image = np.empty((len(cases), *form.size, form.channels), np.uint8)
    label = np.empty((len(cases), *form.size), np.uint8)
    lost = Lost(form.classes, form.size)
    for i, (frame, truth) in enumerate(decode_pairs(cases, form, reading=reading, progress=progress)):
        image[i] = frame
        label[i] = fit_label(truth, size=form.size)
        lost.see(cases[i], truth, label[i])
    lost.report(label, where=f"masks of the {len(cases)} labelled images")
    return Stack(torch.from_numpy(image), torch.from_numpy(label), names, around)


def statistics(*stacks: Stack, per_image: bool = False) -> Normalisation:
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
    return Normalisation(tuple(mean), tuple(std), per_image)


def mixed_seed(*parts: int) -> int:
    """One seed out of several, well mixed: neighbours are unrelated."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1


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
    normalise: Normalisation = Normalisation()
    seed: int = 0
    alike: bool = False  # the intensity of unlabelled rows changes too, as often as that of labelled ones

    def __post_init__(self) -> None:
        if self.labelled.label is None or not len(self.labelled):
            raise ValueError("TwoStream: the labelled stack has no labels or no images")
        if self.unlabelled.label is not None:
            raise ValueError("TwoStream: the unlabelled stack carries labels; build it from cases without a label")
        if self.batch_size[0] < 1 or self.batch_size[1] < 0:
            raise ValueError(f"batch_size: needs at least 1 labelled and 0 unlabelled images, not {self.batch_size}")
        stacks = [stack for stack in (self.labelled, self.unlabelled) if len(stack)]
        if len({stack.soft is None for stack in stacks}) > 1:
            raise ValueError("TwoStream: only one of the two stacks has soft labels; read the bank for both")
        for stack in stacks:
            want = (len(stack), *stack.image.shape[1:3])
            if stack.soft is not None and (len(stack.soft), *stack.soft.shape[2:]) != want:
                raise ValueError(
                    f"TwoStream: soft labels {tuple(stack.soft.shape)} do not fit {want} frames; fill anew"
                )

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
        label = _take(self.labelled.label, rows, device)
        drawn = [(self.labelled, rows)]
        if others:
            rows = rows_of(self.seed, 1, count=len(self.unlabelled), first=index * others, length=others)
            drawn.append((self.unlabelled, rows))
        image = torch.cat([stack.frames(rows, device) for stack, rows in drawn])
        said = [_take(stack.soft, rows, device).to(image.dtype) for stack, rows in drawn if stack.soft is not None]
        channels = image.shape[1]
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, 2, index))
        place = placed(len(image), size=image.shape[2:], options=self.augment, generator=generator)
        # By the clean image: what lies beyond its rim, and changes of intensity, move no statistics.
        mean, std = scales(image, self.normalise)
        darkest = image.amin(dim=(2, 3), keepdim=True)  # beyond the rim `warp` puts 0
        moving = torch.cat([image - darkest, torch.cat(said)], dim=1) if said else image - darkest
        moved, label = warp(moving, label, options=self.augment, generator=generator)
        image, soft = moved[:, :channels] + darkest, with_background(moved[:, channels:]) if said else None
        weak, strong = self._views(image, length, generator)
        weak = (weak - mean) / std
        strong = None if strong is None else (strong - mean[length:]) / std[length:]
        return Batch(
            weak, label.long(), strong, soft, numbered([rows for _, rows in drawn], self.labelled), place.to(device)
        )

    def _views(self, image: Tensor, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """All rows, and the strong view of those after the first `length`, in [0, 1]."""
        slices = self.labelled.around is not None
        weak, strong = image, None
        if self.augment.labelled_intensity > 0:
            rows = len(image) if self.alike else length
            chosen = torch.rand(rows, generator=generator) < self.augment.labelled_intensity
            chosen = chosen.nonzero()[:, 0].to(image.device)
            weak = image.clone()
            weak[chosen] = intensify(
                image[chosen], options=self.augment, generator=generator, cutout=False, slices=slices
            )
        if len(image) > length and self.augment.strong:
            strong = intensify(image[length:], options=self.augment, generator=generator, cutout=True, slices=slices)
        return weak, strong


def numbered(rows: Sequence[Tensor | Sequence[int]], labelled: Sized) -> Tensor:
    """int64 [N]: rows of the labelled stack, and of the unlabelled one, as places in both laid end to end."""
    return torch.cat([torch.as_tensor(r, dtype=torch.int64) + k * len(labelled) for k, r in enumerate(rows)])


def with_background(foreground: Tensor) -> Tensor:
    """[N, C - 1, *space] probabilities -> [N, C, *space] that sum to 1; what rounding put above 1 is taken off."""
    total = foreground.sum(1, keepdim=True)
    return torch.cat([1 - total.clamp_max(1), foreground / total.clamp_min(1)], dim=1)


def _take(stack: Tensor, rows: Tensor, device: torch.device | str) -> Tensor:
    return stack[rows.to(stack.device)].to(device, non_blocking=True)
