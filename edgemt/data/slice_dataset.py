"""Frames cached as uint8, and two-stream batches that are a pure function of (seed, index).

Shapes: n cached cases, N batch, L labelled, U unlabelled, C classes, H W size, K channels of a frame: 1, 3 (RGB), the
planes of several files, each of them with its neighbouring slices of a volume, if wanted. Each slice is cached once; a
batch gathers neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from edgemt.contract import Batch, Case, LabelRules
from edgemt.data.augment2d import AugmentOptions, augment_intensity_2d, augmentation_affine, scales, warp
from edgemt.data.channel_views import missing_planes, without_channels
from edgemt.data.corrupt_views import corrupt_rows
from edgemt.data.decode import FrameSpec, ProgressCall, decode_frames, decode_pairs
from edgemt.data.options import DataOptions
from edgemt.data.reading import Reading, VanishedClasses
from edgemt.data.sampling import check_two_streams, global_case_index, grouped_indices, mixed_seed, shuffled_indices
from edgemt.io.channels import fill_values
from edgemt.io.images import fit_label
from edgemt.io.volumes import neighbour_indices
from edgemt.model_card import Normalisation


@dataclass(frozen=True)
class SliceDataset:
    """Decoded cases. `label` is None for unlabelled images."""

    image: Tensor  # uint8 [n, H, W, K], of slices without their neighbours
    label: Tensor | None  # uint8 [n, H, W]
    names: tuple[str, ...] = ()
    neighbour_rows: Tensor | None = None  # int64 [n, slices]: rows that form a frame; None: one row each
    soft: Tensor | None = None  # float16 [n, C - 1, H, W] a teacher's probabilities, C with the background
    groups: tuple[int, ...] = ()  # [n] clip of each frame: an epoch draws one frame of each clip; empty: every frame
    deviation: Tensor | None = None  # uint8 [n, H, W] 255 times the standard deviation between several teachers
    missing: Tensor | None = None  # bool [n, K] planes of `image` that a case lacks; None: no case lacks any

    def __len__(self) -> int:
        return len(self.image)

    def to(self, device: torch.device | str) -> SliceDataset:
        """The same data set on a device, which must have memory for all of it; batches are then made there."""
        label, neighbours, soft, deviation = (
            None if x is None else x.to(device) for x in (self.label, self.neighbour_rows, self.soft, self.deviation)
        )
        return replace(
            self, image=self.image.to(device), label=label, neighbour_rows=neighbours, soft=soft, deviation=deviation
        )

    def filled(self, mean: Sequence[float]) -> SliceDataset:
        """The same with the data set's mean, of values in [0, 1], in the planes that cases lack."""
        if self.missing is None:
            return self
        planes = self.image.shape[-1]
        values = torch.from_numpy(fill_values(mean[:: self.slices] if len(mean) > planes else mean, planes))
        return replace(self, image=torch.where(self.missing[:, None, None], values, self.image))

    @property
    def slices(self) -> int:
        """Neighbouring slices in a frame, 1 for none."""
        return 1 if self.neighbour_rows is None else self.neighbour_rows.shape[1]

    def draw(self, seed: int, stream: int, *, first: int, length: int) -> Tensor:
        """Rows int64 [length] of an endless shuffled sequence, from its entry `first` on (`edgemt.data.sampling`)."""
        if self.groups:
            return grouped_indices(seed, stream, groups=self.groups, first=first, length=length)
        return shuffled_indices(seed, stream, count=len(self), first=first, length=length)

    def frames(self, rows: Tensor, device: torch.device | str) -> Tensor:
        """The frames of `rows`, float [N, K, H, W] in [0, 1], each plane with its neighbouring slices as channels."""
        if self.neighbour_rows is None:
            image = _take(self.image, rows, device).permute(0, 3, 1, 2)
        else:
            neighbours = _take(self.neighbour_rows, rows, self.image.device)
            around = self.image[neighbours].to(device, non_blocking=True)  # [N, slices, H, W, planes]
            image = around.permute(0, 4, 1, 2, 3).flatten(1, 2)
        return image.to(torch.float32) / 255


def frame_spec(options: DataOptions) -> FrameSpec:
    """How single slices are decoded; `neighbour_rows` combines them to frames of several slices."""
    return FrameSpec(
        options.size,
        sum(options.planes),
        options.classes,
        options.mask_threshold,
        depth=options.depth,
        window=options.window,
        compare=options.affines == "compare",
        channel_names=options.channel_names,
        channel_depth=options.channel_depth,
        values=options.mask_values,
    )


def neighbour_rows(cases: Sequence[Case], *, slices: int) -> Tensor:
    """int64 [n, slices]: for each case the rows of its neighbouring slices in `cases`.

    Raises ValueError for a case that is no slice, and for a volume with a missing slice.
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


def load_slices(
    cases: Sequence[Case],
    options: DataOptions,
    *,
    reading: Reading | None = None,
    progress: ProgressCall | None = None,
) -> SliceDataset:
    """Decode the cases at `options.size`. Labels are read where every case has one, otherwise none is.

    `reading`: the rules for the files of the whole set; by default they are decided from these cases.
    Raises ValueError, naming the file, for a file that cannot be read, and, naming it, for a class that never occurs.
    """
    spec = frame_spec(options)
    names = tuple(case.name for case in cases)
    neighbours = neighbour_rows(cases, slices=options.slices) if options.slices > 1 else None
    groups = _patient_numbers(cases) if options.layout == "clips" else ()
    missing = missing_planes(cases, options.planes)
    if not cases or any(case.label is None for case in cases):
        if any(case.label is not None for case in cases):
            raise ValueError("load_slices: labelled and unlabelled cases are mixed; load each kind by itself")
        image = decode_frames(cases, spec, reading=reading, progress=progress)
        return SliceDataset(torch.from_numpy(image), None, names, neighbours, groups=groups, missing=missing)
    image = np.empty((len(cases), *spec.size, spec.channels), np.uint8)
    label = np.empty((len(cases), *spec.size), np.uint8)
    vanished = VanishedClasses(spec.classes, spec.size, options.overlapping)
    for i, (frame, truth) in enumerate(decode_pairs(cases, spec, reading=reading, progress=progress)):
        image[i] = frame
        label[i] = fit_label(truth, size=spec.size)
        vanished.add(cases[i], truth, label[i])
    vanished.report(label, where=f"masks of the {len(cases)} labelled images")
    found = torch.from_numpy(image), torch.from_numpy(label)
    return SliceDataset(*found, names, neighbours, groups=groups, missing=missing)


def _patient_numbers(cases: Sequence[Case]) -> tuple[int, ...]:
    """For each case the number of its patient, in the order of their first cases."""
    numbers = {patient: number for number, patient in enumerate(dict.fromkeys(case.patient for case in cases))}
    return tuple(numbers[case.patient] for case in cases)


def slice_statistics(*stacks: SliceDataset, per_image: bool = False) -> Normalisation:
    """Mean and standard deviation per channel over all given images that have it, of values in [0, 1].

    Of several channels with neighbouring slices each slice has those of its channel; of one channel one pair is enough.
    """
    given = [stack for stack in stacks if len(stack)]
    if not given:
        raise ValueError("statistics: no image is given")
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(given[0].image.shape[-1]):
        values = [_present(stack, channel).reshape(-1) for stack in given]
        if not sum(map(len, values)):
            raise ValueError(f"data.channel_names: no training image has channel {channel}; leave its name out")
        counts = sum(torch.bincount(v.cpu(), minlength=256) for v in values)
        share = counts / counts.sum()  # type: ignore[union-attr]
        middle = float((share * levels).sum())
        mean.append(round(middle, 6))
        std.append(round(max(float((share * (levels - middle) ** 2).sum()) ** 0.5, 1e-3), 6))
    if len(mean) > 1:
        mean, std = ([value for value in values for _ in range(given[0].slices)] for values in (mean, std))
    return Normalisation(tuple(mean), tuple(std), per_image)


def _present(stack: SliceDataset, channel: int) -> Tensor:
    """uint8 [n, H, W]: a channel of the images that have it."""
    image = stack.image[..., channel]
    return image if stack.missing is None else image[~stack.missing[:, channel].to(image.device)]


@dataclass(frozen=True)
class TwoStreamBatches:
    """Batches of labelled and unlabelled images. They have no state: batch `index` is a function of (seed, index)."""

    labelled: SliceDataset
    unlabelled: SliceDataset
    batch_size: tuple[int, int] = (8, 8)  # L, U
    augment: AugmentOptions = AugmentOptions()
    normalise: Normalisation = Normalisation()
    seed: int = 0
    alike: bool = False  # the intensity of unlabelled rows changes too, as often as that of labelled ones
    corruptions: tuple[str, ...] = ()  # kinds (`edgemt.data.corruptions`), as often as `augment` states
    rules: LabelRules | None = None  # of pixels without a label, and of classes, in the losses
    planes: tuple[int, ...] = ()  # of each channel, where a case has several: their intensity changes one by one

    def __post_init__(self) -> None:
        check_two_streams(self.labelled, self.unlabelled, self.batch_size, name="TwoStreamBatches")
        stacks = [stack for stack in (self.labelled, self.unlabelled) if len(stack)]
        if len({stack.soft is None for stack in stacks}) > 1:
            raise ValueError("TwoStreamBatches: only one of the two stacks has soft labels; read the bank for both")
        for stack in stacks:
            want = (len(stack), *stack.image.shape[1:3])
            if stack.soft is not None and (len(stack.soft), *stack.soft.shape[2:]) != want:
                raise ValueError(
                    f"TwoStreamBatches: soft labels {tuple(stack.soft.shape)} do not fit {want} frames; fill anew"
                )

    @property
    def epoch(self) -> int:
        """Batches until each unlabelled image was drawn once; each labelled one where there are no unlabelled."""
        count = self.batch_size[1] if len(self.unlabelled) else 0
        return max(1, round(len(self.unlabelled) / count if count else len(self.labelled) / self.batch_size[0]))

    def batch(self, index: int, device: torch.device | str = "cpu") -> Batch:
        """The batch of number `index`, a function of (seed, index). U is 0 without unlabelled images."""
        length, num_unlabelled = self.batch_size[0], self.batch_size[1] if len(self.unlabelled) else 0
        rows = self.labelled.draw(self.seed, 0, first=index * length, length=length)
        assert self.labelled.label is not None
        label = _take(self.labelled.label, rows, device)
        drawn = [(self.labelled, rows)]
        if num_unlabelled:
            rows = self.unlabelled.draw(self.seed, 1, first=index * num_unlabelled, length=num_unlabelled)
            drawn.append((self.unlabelled, rows))
        image = torch.cat([stack.frames(rows, device) for stack, rows in drawn])
        predicted = [
            _predictions(stack, rows, device).to(image.dtype) for stack, rows in drawn if stack.soft is not None
        ]
        channels = image.shape[1]
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, 2, index))
        affine = augmentation_affine(len(image), size=image.shape[2:], options=self.augment, generator=generator)
        # statistics of the unaugmented image: neither padding nor intensity changes them
        mean, std = scales(image, self.normalise)
        darkest = image.amin(dim=(2, 3), keepdim=True)  # `warp` pads with 0
        stacked = torch.cat([image - darkest, torch.cat(predicted)], dim=1) if predicted else image - darkest
        warped, label = warp(stacked, label, options=self.augment, generator=generator)
        image = warped[:, :channels] + darkest
        has_deviation = self.labelled.deviation is not None
        end = warped.shape[1] - has_deviation
        overlapping = self.rules is not None and self.rules.overlapping
        soft = warped[:, channels:end] if predicted else None
        soft = soft if soft is None or overlapping else with_background(soft)
        weak, strong = self._views(image, length, generator)
        weak = (weak - mean) / std
        strong = None if strong is None else (strong - mean[length:]) / std[length:]
        weak, strong = self._without_channels(weak, strong, drawn, length, generator)
        return Batch(
            weak,
            label.long(),
            strong,
            soft,
            global_case_index([rows for _, rows in drawn], self.labelled),
            affine.to(device),
            warped[:, -1] if has_deviation else None,
            self.rules,
        )

    def _without_channels(
        self,
        weak: Tensor,
        strong: Tensor | None,
        drawn: list[tuple[SliceDataset, Tensor]],
        length: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor | None]:
        """Missing channels are 0 in all rows; dropped ones in labelled rows, and in strong views or else the weak."""
        missing = None
        if any(stack.missing is not None for stack, _ in drawn):
            missing = torch.cat([_missing_rows(stack, rows) for stack, rows in drawn])
        chance = self.augment.drop_channel
        return without_channels(
            weak, strong, missing, labelled=length, planes=self.planes, chance=chance, generator=generator
        )

    def _views(self, image: Tensor, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """All rows, and the strong view of those after the first `length`, in [0, 1]."""
        slices = self.labelled.neighbour_rows is not None
        planes = self.planes
        weak, strong = image, None
        if self.augment.labelled_intensity > 0:
            rows = len(image) if self.alike else length
            chosen = torch.rand(rows, generator=generator) < self.augment.labelled_intensity
            chosen = chosen.nonzero()[:, 0].to(image.device)
            weak = image.clone()
            weak[chosen] = augment_intensity_2d(
                image[chosen], options=self.augment, generator=generator, cutout=False, slices=slices, planes=planes
            )
        if len(image) > length and self.augment.strong:
            strong = augment_intensity_2d(
                image[length:], options=self.augment, generator=generator, cutout=True, slices=slices, planes=planes
            )
        if not self.corruptions:
            return weak, strong
        several = slices or bool(planes)  # one pattern for all channels, each with its own noise
        corrupt = partial(corrupt_rows, names=self.corruptions, generator=generator, slices=several)
        rows = len(image) if self.alike else length
        changed = corrupt(weak[:rows], chance=self.augment.corrupt_labelled)
        strong = None if strong is None else corrupt(strong, chance=self.augment.corrupt_strong)
        return torch.cat([changed, weak[rows:]]), strong


def with_background(foreground: Tensor) -> Tensor:
    """[N, C - 1, *space] foreground probabilities -> [N, C, *space] that sum to 1, also where rounding exceeds 1."""
    total = foreground.sum(1, keepdim=True)
    return torch.cat([1 - total.clamp_max(1), foreground / total.clamp_min(1)], dim=1)


def _predictions(stack: SliceDataset, rows: Tensor, device: torch.device | str) -> Tensor:
    """[N, C - 1, H, W]: the stored soft labels of `rows`, with the deviation, 0 to 1, as a further channel if there."""
    assert stack.soft is not None
    soft = _take(stack.soft, rows, device)
    if stack.deviation is None:
        return soft
    return torch.cat([soft, _take(stack.deviation, rows, device)[:, None].to(soft.dtype) / 255], dim=1)


def _missing_rows(stack: SliceDataset, rows: Tensor) -> Tensor:
    """Bool [N, K] on the CPU, with a column for each neighbouring slice."""
    if stack.missing is None:
        return torch.zeros(len(rows), stack.image.shape[-1] * stack.slices, dtype=torch.bool)
    return _take(stack.missing, rows, "cpu").repeat_interleave(stack.slices, dim=1)


def _take(stack: Tensor, rows: Tensor, device: torch.device | str) -> Tensor:
    return stack[rows.to(stack.device)].to(device, non_blocking=True)
