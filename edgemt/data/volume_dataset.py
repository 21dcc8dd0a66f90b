"""Whole volumes cached as uint8, and two-stream batches of patches that are a pure function of (seed, index).

Shapes: n cached volumes, N batch, L labelled, U unlabelled, K channels, C classes, X Y Z voxels (Z the slice axis of
the file).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as nn
from torch import Generator, Tensor

from edgemt.contract import Batch, Case, LabelRules
from edgemt.data import phantom3d
from edgemt.data.augment3d import apply_flip_rotate, augment_intensity_3d, sample_flip_rotate
from edgemt.data.augment_options import VolumeOptions
from edgemt.data.channel_views import missing_planes, without_channels
from edgemt.data.decode import CaseReader, ProgressCall, read_channels
from edgemt.data.options import DataOptions
from edgemt.data.patches import Shape3, crop_patch, foreground_voxels, patch_affine
from edgemt.data.reading import Reading, check_every_class_occurs
from edgemt.data.sampling import check_two_streams, global_case_index, mixed_seed, shuffled_indices
from edgemt.data.slice_dataset import frame_spec
from edgemt.io import file_types
from edgemt.io.channels import fill_values
from edgemt.io.class_regions import in_class
from edgemt.io.volumes import read_volume, volume_spacing
from edgemt.model_card import Normalisation


@dataclass(frozen=True)
class VolumeDataset:
    """Decoded volumes, each at its own size. `label` is None for unlabelled volumes."""

    image: tuple[Tensor, ...]  # uint8 [K, X, Y, Z] each
    label: tuple[Tensor, ...] | None  # uint8 [X, Y, Z] each
    names: tuple[str, ...] = ()
    shapes: tuple[Shape3, ...] = ()  # of the files, before `volume.scale`
    spacing_mm: tuple[tuple[float, ...] | None, ...] = ()  # of the files' voxels
    missing: Tensor | None = None  # bool [n, K] channels that a case lacks, 0 in `image`; None: no case lacks any

    def __len__(self) -> int:
        return len(self.image)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.image, *(self.label or ())))

    def to(self, device: torch.device | str) -> VolumeDataset:
        """The same volumes on a device, which must have memory for all; patches are then cut there."""
        label = tuple(x.to(device) for x in self.label) if self.label is not None else None
        return replace(self, image=tuple(x.to(device) for x in self.image), label=label)

    def filled(self, mean: Sequence[float]) -> VolumeDataset:
        """The same with the data set's mean, of values in [0, 1], in the channels that cases lack."""
        if self.missing is None:
            return self
        values = torch.from_numpy(fill_values(mean, self.missing.shape[1])).view(-1, 1, 1, 1)
        rows = zip(self.image, self.missing, strict=True)
        return replace(self, image=tuple(torch.where(lacks.view(-1, 1, 1, 1), values, x) for x, lacks in rows))


def load_volumes(
    cases: Sequence[Case],
    data: DataOptions,
    volume: VolumeOptions,
    *,
    reading: Reading | None = None,
    progress: ProgressCall | None = None,
) -> VolumeDataset:
    """Decode whole volumes at `volume.scale`. Labels are read where every case has one, otherwise none is.

    `reading`: the rules for the files of the whole set; by default they are decided from these cases.
    Raises ValueError, naming the file, for whatever cannot be read, and the class when one never occurs.
    """
    if data.channels != 1 and not data.channel_names:
        raise ValueError(f"data.channels: a volume has 1 channel, not {data.channels}; set it to 1")
    with_labels = bool(cases) and all(case.label is not None for case in cases)
    if not with_labels and any(case.label is not None for case in cases):
        raise ValueError("load_volumes: labelled and unlabelled cases are mixed; load each kind by itself")
    image, label, shapes, spacings = [], [], [], []
    for case in cases:
        if case.slice is None and file_types.is_image(case.image):
            raise ValueError(f"{case.image}: is one 2-D image; a 3-D network needs volumes, choose a 2-D teacher")
        if case.slice is not None:
            raise ValueError(
                f"{case.name}: is a slice, a 3-D network needs whole volumes; list them with "
                "split_dataset(whole_volumes=True)"
            )
        if len(case.channels) != len(data.channel_names):
            listed = ", ".join(data.channel_names) or "no names"
            raise ValueError(f"{case.image}: is one file, each case has the channels {listed}; list them as channels")
    spec = frame_spec(data)
    reading = reading or spec.reading(cases)
    reader = CaseReader(spec, reading)
    counts = np.zeros(len(data.classes), np.int64)
    for i, case in enumerate(cases):
        array, spacing = _image(case, data.channel_names, reading)
        shape = array.shape[1:]
        image.append(torch.stack([scaled(torch.from_numpy(plane), volume.scale) for plane in array]))
        shapes.append(shape)
        spacings.append(spacing)
        if with_labels:
            truth = reader.class_indices(case)
            if truth.shape != shape:
                raise ValueError(f"{case.label}: mask is {truth.shape}, its image {case.image} is {shape}")
            label.append(_scaled_label(torch.from_numpy(truth), volume.scale))
            counts += _voxels_of_classes(truth, len(counts), overlapping=data.overlapping)
        if progress is not None:
            progress(i + 1, len(cases))
    if with_labels:
        present = np.repeat(np.arange(len(counts)), np.minimum(counts, 1))
        check_every_class_occurs(present, data.classes, where=f"masks of the {len(cases)} labelled volumes")
    names = tuple(case.name for case in cases)
    truths, missing = tuple(label) if with_labels else None, missing_planes(cases, data.planes)
    return VolumeDataset(tuple(image), truths, names, tuple(shapes), tuple(spacings), missing)


def _voxels_of_classes(truth: np.ndarray, classes: int, *, overlapping: bool) -> np.ndarray:
    """int64 [C]: the voxels of each class; overlapping ones count in several, and the background always."""
    if not overlapping:
        return np.bincount(truth.reshape(-1), minlength=classes)[:classes]
    found = [np.count_nonzero(in_class(truth, k, overlapping=True)) for k in range(1, classes)]
    return np.array([truth.size, *found], np.int64)


def _image(case: Case, names: Sequence[str], reading: Reading) -> tuple[np.ndarray, tuple[float, ...] | None]:
    """uint8 [K, X, Y, Z] and the voxel size."""
    if names:
        depths = reading.channel_depths or (reading.depth,) * len(names)
        several = read_channels(case, names, depths, compare=reading.compare)
        return np.ascontiguousarray(np.moveaxis(several, 2, 0)), volume_spacing(case.image, axes=case.axes)
    if case.image.startswith(phantom3d.PREFIX):
        array = phantom3d.volume(phantom3d.seed_of(case.image))[0]
        return array[None], phantom3d.spacing_mm(array.shape)
    read = read_volume(case.image, axes=case.axes)
    return np.ascontiguousarray(reading.depth(read.array))[None], read.spacing_mm


def scaled(image: Tensor, scale: float) -> Tensor:
    """uint8 [X, Y, Z] -> uint8 resized by `scale` on every axis, linearly, with antialiasing."""
    if scale == 1:
        return image
    x, y, z = shape_at(image.shape, scale)
    flat = image.permute(2, 0, 1)[:, None].float()  # [Z, 1, X, Y]
    flat = nn.interpolate(flat, size=(x, y), mode="bilinear", antialias=True, align_corners=False)
    flat = flat[:, 0].permute(1, 2, 0)[:, None]  # [X, 1, Y, Z]
    flat = nn.interpolate(flat, size=(y, z), mode="bilinear", antialias=True, align_corners=False)
    return flat[:, 0].round_().clamp_(0, 255).to(torch.uint8)


def _scaled_label(label: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return label
    size = shape_at(label.shape, scale)
    return nn.interpolate(label[None, None].float(), size=size, mode="nearest-exact")[0, 0].to(torch.uint8)


def shape_at(shape: Sequence[int], scale: float) -> Shape3:
    """The shape of a volume scaled by `scale`: rounded, at least 1 voxel along each axis."""
    x, y, z = (max(1, round(n * scale)) for n in shape)
    return x, y, z


def resize_to_original(probabilities: Tensor, shape: Shape3) -> Tensor:
    """[C, X, Y, Z] of the scaled volume -> [C, *shape] at the size of the file, linearly."""
    if tuple(probabilities.shape[1:]) == tuple(shape):
        return probabilities
    return nn.interpolate(probabilities[None], size=shape, mode="trilinear", align_corners=False)[0]


def volume_statistics(*stacks: VolumeDataset, per_image: bool = False) -> Normalisation:
    """Mean and standard deviation of each channel over all voxels of the volumes that have it, of values in [0, 1].

    `per_image`: each volume by its own instead. Raises ValueError where no volume, or none with some channel, is given.
    """
    given = [stack for stack in stacks if len(stack)]
    if not given:
        raise ValueError("volume_statistics: no volume is given")
    found = []
    for channel in range(len(given[0].image[0])):
        counts = [_histogram(image[channel]) for stack in given for image in _having(stack, channel)]
        if not counts:
            raise ValueError(f"data.channel_names: no training image has channel {channel}; leave its name out")
        found.append(_moments(sum(counts)))  # type: ignore[arg-type]
    mean, std = (tuple(round(value, 6) for value in values) for values in zip(*found, strict=True))
    return Normalisation(mean, std, per_image)


def _having(stack: VolumeDataset, channel: int) -> list[Tensor]:
    """The volumes that have a channel."""
    if stack.missing is None:
        return list(stack.image)
    return [image for image, lacks in zip(stack.image, stack.missing[:, channel].tolist(), strict=True) if not lacks]


def mean_std(image: Tensor, normalise: Normalisation) -> tuple[tuple[float, float], ...]:
    """(mean, deviation) that normalise each channel of a volume: of the data set, or with `per_image` of this volume.

    A patch is normalised by those of its whole volume, so that a voxel has the same value in every patch.
    """
    if normalise.per_image:
        return tuple(_moments(_histogram(plane)) for plane in image)
    if len(normalise.mean) != len(image):
        raise ValueError(f"normalise: has {len(normalise.mean)} channels, the volume has {len(image)}; train anew")
    return tuple(zip(normalise.mean, normalise.std, strict=True))


def _histogram(image: Tensor) -> Tensor:
    return torch.bincount(image.reshape(-1).cpu(), minlength=256)


def _moments(counts: Tensor) -> tuple[float, float]:
    levels = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum()
    mean = float((share * levels).sum())
    return mean, max(float((share * (levels - mean) ** 2).sum()) ** 0.5, 1e-3)


@dataclass(frozen=True)
class TwoStreamPatches:
    """Batches of labelled and unlabelled patches. They have no state: batch `index` is a function of (seed, index)."""

    labelled: VolumeDataset
    unlabelled: VolumeDataset
    batch_size: tuple[int, int] = (2, 2)  # L, U
    volume: VolumeOptions = VolumeOptions()
    normalise: Normalisation = Normalisation()
    seed: int = 0
    rules: LabelRules | None = None  # of pixels without a label, and of classes, in the losses
    alike: bool = False  # the intensity of unlabelled rows changes too, as often as that of labelled ones
    drop_channel: float = 0.0  # how often a labelled row or a strong view is without one of several channels

    def __post_init__(self) -> None:
        check_two_streams(self.labelled, self.unlabelled, self.batch_size, name="TwoStreamPatches")

    @property
    def epoch(self) -> int:
        """Batches until each unlabelled volume was drawn once; each labelled one where there are no unlabelled."""
        count = self.batch_size[1] if len(self.unlabelled) else 0
        return max(1, round(len(self.unlabelled) / count if count else len(self.labelled) / self.batch_size[0]))

    @cached_property
    def _mean_std(self) -> Tensor:
        """float32 [n, K, 2]: mean and deviation of every channel of every volume, labelled first."""
        images = (*self.labelled.image, *self.unlabelled.image)
        return torch.tensor([mean_std(image, self.normalise) for image in images])

    @cached_property
    def _missing(self) -> Tensor | None:
        """Bool [n, K]: the channels that a volume lacks, labelled ones first."""
        stacks = [stack for stack in (self.labelled, self.unlabelled) if len(stack)]
        if all(stack.missing is None for stack in stacks):
            return None
        none = [torch.zeros(len(stack), len(stack.image[0]), dtype=torch.bool) for stack in stacks]
        return torch.cat([zeros if x.missing is None else x.missing for x, zeros in zip(stacks, none, strict=True)])

    @cached_property
    def _foreground(self) -> tuple[Tensor, ...]:
        """int16 [m, 3] for each labelled volume: foreground voxels as possible centres of patches."""
        assert self.labelled.label is not None
        return tuple(foreground_voxels(label) for label in self.labelled.label)

    def batch(self, index: int, device: torch.device | str = "cpu") -> Batch:
        """The batch of number `index`, a function of (seed, index). U is 0 without unlabelled volumes."""
        length, others = self.batch_size[0], self.batch_size[1] if len(self.unlabelled) else 0
        rows = shuffled_indices(self.seed, 0, count=len(self.labelled), first=index * length, length=length).tolist()
        assert self.labelled.label is not None
        images = [self.labelled.image[row] for row in rows]
        if others:
            free = shuffled_indices(
                self.seed, 1, count=len(self.unlabelled), first=index * others, length=others
            ).tolist()
            images += [self.unlabelled.image[row] for row in free]
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, 2, index))
        corners = self._corners(images, rows, generator=generator)
        truths = [self.labelled.label[row] for row in rows]
        image, label = (
            torch.stack([crop_patch(x, at, patch=self.volume.patch) for x, at in zip(volumes, corners, strict=False)])
            for volumes in (images, truths)  # labelled rows come first
        )
        turns = sample_flip_rotate(len(images), options=self.volume, generator=generator)
        image = apply_flip_rotate(image.to(device, non_blocking=True), turns).to(torch.float32) / 255
        label = apply_flip_rotate(label.to(device, non_blocking=True), turns[:length])
        which = rows + [len(self.labelled) + row for row in (free if others else [])]
        batch = self._views(image, label, which, length=length, generator=generator)
        place = patch_affine(corners, turns, shapes=[x.shape[1:] for x in images], patch=self.volume.patch)
        cases = global_case_index([rows, free] if others else [rows], self.labelled)
        return replace(batch, rules=self.rules, index=cases, place=place.to(device, non_blocking=True))

    def _views(self, image: Tensor, label: Tensor, which: list[int], *, length: int, generator: Generator) -> Batch:
        """The batch of augmented intensities, normalised by the statistics of the unaugmented volumes `which`."""
        mean, std = self._mean_std[which].to(image.device)[..., None, None, None].unbind(2)
        weak, strong = image, None
        rows = len(image) if self.alike else length
        chosen = torch.rand(rows, generator=generator) < self.volume.labelled_intensity
        if chosen.any():
            where = chosen.nonzero()[:, 0].to(image.device)
            weak = image.clone()
            weak[where] = augment_intensity_3d(image[where], options=self.volume, generator=generator)
        if self.volume.strong and len(image) > length:
            strong = augment_intensity_3d(image[length:], options=self.volume, generator=generator)
            strong = (strong - mean[length:]) / std[length:]
        missing = None if self._missing is None else self._missing[which]
        weak, strong = without_channels(
            (weak - mean) / std,
            strong,
            missing,
            labelled=length,
            planes=(1,) * image.shape[1],
            chance=self.drop_channel,
            generator=generator,
        )
        return Batch(weak, label.long(), strong)

    def _corners(self, images: list[Tensor], rows: list[int], *, generator: Generator) -> list[list[int]]:
        """The corner of each patch in its volume; negative where a volume is smaller than the patch."""
        patch = torch.tensor(self.volume.patch)
        room = torch.tensor([x.shape[1:] for x in images]) - patch  # [N, 3]
        draw = torch.rand(len(images), 3, generator=generator)
        corners = (draw * (room + 1).clamp_min(1)).long()
        at, centred = torch.rand(2, len(rows), generator=generator)  # drawn, used or not
        if self.volume.foreground > 0:
            for i, row in enumerate(rows):
                voxels = self._foreground[row]
                if centred[i] < self.volume.foreground and len(voxels):
                    corners[i] = voxels[int(at[i] * len(voxels))].long() - patch // 2
        corners = corners.clamp(min=0).minimum(room.clamp_min(0))
        return torch.where(room < 0, room.div(2, rounding_mode="trunc"), corners).tolist()
