"""Whole volumes cached as small integers, and two-stream batches of patches, a pure function of (seed, index).

Shapes: n cached volumes, N batch, L labelled, U unlabelled, C classes, X Y Z voxels (Z the slice axis of the file).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as nn
from torch import Generator, Tensor

from edgemt.contract import Batch, Case
from edgemt.data import phantom3d
from edgemt.data.augment3d import Turns, draw_turns, intensified, turned
from edgemt.data.cohort import DataOptions
from edgemt.data.decode import Decoder, ProgressCall
from edgemt.data.options import VolumeOptions
from edgemt.data.reading import Reading, need_every_class
from edgemt.data.slice_dataset import form_of, mixed_seed, numbered, rows_of
from edgemt.io import file_types
from edgemt.io.bit_depth import Depth
from edgemt.io.volumes import read_volume
from edgemt.model_card import Normalisation

ANCHORS = 4096  # voxels of a class that a patch may be centred on, spread evenly over what there is
Shape3 = tuple[int, int, int]


@dataclass(frozen=True)
class VolumeStack:
    """Decoded volumes, each at its own size. `label` is None for volumes whose mask may not be read."""

    image: tuple[Tensor, ...]  # uint8 [X, Y, Z] each
    label: tuple[Tensor, ...] | None  # uint8 [X, Y, Z] each
    names: tuple[str, ...] = ()
    shapes: tuple[Shape3, ...] = ()  # of the files, before `volume.scale`
    spacing_mm: tuple[tuple[float, ...] | None, ...] = ()  # of the files' voxels

    def __len__(self) -> int:
        return len(self.image)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.image, *(self.label or ())))

    def to(self, device: torch.device | str) -> VolumeStack:
        """The same volumes on a device, where all of them fit; patches are then cut there."""
        label = tuple(x.to(device) for x in self.label) if self.label is not None else None
        image = tuple(x.to(device) for x in self.image)
        return VolumeStack(image, label, self.names, self.shapes, self.spacing_mm)


def load_volumes(
    cases: Sequence[Case],
    data: DataOptions,
    volume: VolumeOptions,
    *,
    reading: Reading | None = None,
    progress: ProgressCall | None = None,
) -> VolumeStack:
    """Decodes whole volumes at `volume.scale`. Labels are read when every case has one, and never otherwise.

    `reading` holds the rules of the whole set; without it they are decided by these cases alone.
    Raises ValueError, naming the file, for whatever cannot be read, and the class when one never occurs.
    """
    if data.channels != 1:
        raise ValueError(f"data.channels: a volume has 1 channel, not {data.channels}; set it to 1")
    seen = bool(cases) and all(case.label is not None for case in cases)
    if not seen and any(case.label is not None for case in cases):
        raise ValueError("load_volumes: labelled and unlabelled cases are mixed; load each kind by itself")
    image, label, shapes, spacings = [], [], [], []
    for case in cases:
        if case.slice is None and file_types.is_image(case.image):
            raise ValueError(f"{case.image}: is one 2-D image; a 3-D network needs volumes, choose a 2-D teacher")
        if case.slice is not None:
            raise ValueError(
                f"{case.name}: is a slice, a 3-D network needs whole volumes; list them with find(whole=True)"
            )
    form = form_of(data)
    reading = reading or form.reading(cases)
    decoder = Decoder(form, reading)
    counts = np.zeros(len(data.classes), np.int64)
    for i, case in enumerate(cases):
        array, spacing = _image(case, reading.depth)
        image.append(scaled(torch.from_numpy(array), volume.scale))
        shapes.append(array.shape)
        spacings.append(spacing)
        if seen:
            truth = decoder.class_indices(case)
            if truth.shape != array.shape:
                raise ValueError(f"{case.label}: mask is {truth.shape}, its image {case.image} is {array.shape}")
            label.append(_scaled_label(torch.from_numpy(truth), volume.scale))
            counts += np.bincount(truth.reshape(-1), minlength=len(counts))
        if progress is not None:
            progress(i + 1, len(cases))
    if seen:
        present = np.repeat(np.arange(len(counts)), np.minimum(counts, 1))
        need_every_class(present, data.classes, where=f"masks of the {len(cases)} labelled volumes")
    names = tuple(case.name for case in cases)
    return VolumeStack(tuple(image), tuple(label) if seen else None, names, tuple(shapes), tuple(spacings))


def _image(case: Case, depth: Depth) -> tuple[np.ndarray, tuple[float, ...] | None]:
    """uint8 [X, Y, Z] and the voxel size."""
    if case.image.startswith(phantom3d.PREFIX):
        array = phantom3d.volume(phantom3d.seed_of(case.image))[0]
        return array, phantom3d.spacing_mm(array.shape)
    read = read_volume(case.image, axes=case.axes)
    return np.ascontiguousarray(depth(read.array)), read.spacing_mm


def scaled(image: Tensor, scale: float) -> Tensor:
    """uint8 [X, Y, Z] -> uint8 at `scale` of every axis: linear, antialiased where it shrinks."""
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
    x, y, z = (max(1, round(n * scale)) for n in shape)
    return x, y, z


def at_file_size(probabilities: Tensor, shape: Shape3) -> Tensor:
    """[C, X, Y, Z] of the scaled volume -> [C, *shape] at the file's own size, linear."""
    if tuple(probabilities.shape[1:]) == tuple(shape):
        return probabilities
    return nn.interpolate(probabilities[None], size=shape, mode="trilinear", align_corners=False)[0]


def volume_statistics(*stacks: VolumeStack, per_image: bool = False) -> Normalisation:
    """Mean and standard deviation over all voxels, in units of 1/255; `per_image` is one volume's own, later."""
    images = [image for stack in stacks for image in stack.image]
    if not images:
        raise ValueError("volume_statistics: no volume is given")
    mean, std = _moments(sum(_histogram(image) for image in images))  # type: ignore[arg-type]
    return Normalisation((round(mean, 6),), (round(std, 6),), per_image)


def moments(image: Tensor, normalise: Normalisation) -> tuple[float, float]:
    """What a volume's voxels are normalised by: of the set, or with `per_image` of this whole volume.

    Taken from the whole volume also where a network sees only a patch, so that one voxel has one value.
    """
    if normalise.per_image:
        return _moments(_histogram(image))
    return normalise.mean[0], normalise.std[0]


def _histogram(image: Tensor) -> Tensor:
    return torch.bincount(image.reshape(-1).cpu(), minlength=256)


def _moments(counts: Tensor) -> tuple[float, float]:
    levels = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum()
    mean = float((share * levels).sum())
    return mean, max(float((share * (levels - mean) ** 2).sum()) ** 0.5, 1e-3)


@dataclass(frozen=True)
class VolumeStream:
    """Patches of labelled and unlabelled volumes side by side. Nothing is remembered: resume needs the index."""

    labelled: VolumeStack
    unlabelled: VolumeStack
    batch_size: tuple[int, int] = (2, 2)  # L, U
    volume: VolumeOptions = VolumeOptions()
    normalise: Normalisation = Normalisation()
    seed: int = 0
    alike: bool = False  # the intensity of unlabelled rows changes too, as often as that of labelled ones

    def __post_init__(self) -> None:
        if self.labelled.label is None or not len(self.labelled):
            raise ValueError("VolumeStream: the labelled stack has no labels or no volumes")
        if self.unlabelled.label is not None:
            raise ValueError("VolumeStream: the unlabelled stack carries labels; build it from cases without a label")
        if self.batch_size[0] < 1 or self.batch_size[1] < 0:
            raise ValueError(f"batch_size: needs at least 1 labelled and 0 unlabelled patches, not {self.batch_size}")

    @property
    def epoch(self) -> int:
        """Batches until each unlabelled volume (or labelled, when there are no others) was seen once."""
        count = self.batch_size[1] if len(self.unlabelled) else 0
        return max(1, round(len(self.unlabelled) / count if count else len(self.labelled) / self.batch_size[0]))

    @cached_property
    def _moments(self) -> Tensor:
        """float32 [n, 2]: mean and deviation of every volume, labelled first."""
        images = (*self.labelled.image, *self.unlabelled.image)
        return torch.tensor([moments(image, self.normalise) for image in images])

    @cached_property
    def _anchors(self) -> tuple[Tensor, ...]:
        """Voxels that a patch may be centred on, int16 [m, 3] for each labelled volume."""
        assert self.labelled.label is not None
        return tuple(anchors(label) for label in self.labelled.label)

    def batch(self, index: int, device: torch.device | str = "cpu") -> Batch:
        """The same for the same (seed, index), whatever came before. U is 0 without unlabelled volumes."""
        length, others = self.batch_size[0], self.batch_size[1] if len(self.unlabelled) else 0
        rows = rows_of(self.seed, 0, count=len(self.labelled), first=index * length, length=length).tolist()
        assert self.labelled.label is not None
        images = [self.labelled.image[row] for row in rows]
        if others:
            free = rows_of(self.seed, 1, count=len(self.unlabelled), first=index * others, length=others).tolist()
            images += [self.unlabelled.image[row] for row in free]
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, 2, index))
        corners = self._corners(images, rows, generator=generator)
        truths = [self.labelled.label[row] for row in rows]
        image, label = (
            torch.stack([cut(x, at, patch=self.volume.patch) for x, at in zip(volumes, corners, strict=False)])
            for volumes in (images, truths)  # labelled rows come first
        )
        turns = draw_turns(len(images), options=self.volume, generator=generator)
        image = turned(image.to(device, non_blocking=True), turns)[:, None].to(torch.float32) / 255
        label = turned(label.to(device, non_blocking=True), turns[:length])
        which = rows + [len(self.labelled) + row for row in (free if others else [])]
        batch = self._seen(image, label, self._moments[which], length=length, generator=generator)
        place = placed(corners, turns, shapes=[x.shape for x in images], patch=self.volume.patch)
        cases = numbered([rows, free] if others else [rows], self.labelled)
        return replace(batch, index=cases, place=place.to(device, non_blocking=True))

    def _seen(self, image: Tensor, label: Tensor, scales: Tensor, *, length: int, generator: Generator) -> Batch:
        """Intensity, then normalisation by what the volumes were before it."""
        mean, std = scales.to(image.device).view(-1, 2, 1, 1, 1, 1).unbind(1)
        weak, strong = image, None
        rows = len(image) if self.alike else length
        chosen = torch.rand(rows, generator=generator) < self.volume.labelled_intensity
        if chosen.any():
            where = chosen.nonzero()[:, 0].to(image.device)
            weak = image.clone()
            weak[where] = intensified(image[where], options=self.volume, generator=generator)
        if self.volume.strong and len(image) > length:
            strong = intensified(image[length:], options=self.volume, generator=generator)
            strong = (strong - mean[length:]) / std[length:]
        return Batch((weak - mean) / std, label.long(), strong)

    def _corners(self, images: list[Tensor], rows: list[int], *, generator: Generator) -> list[list[int]]:
        """Where each patch begins; negative where a volume is smaller than the patch."""
        patch = torch.tensor(self.volume.patch)
        room = torch.tensor([x.shape for x in images]) - patch  # [N, 3]
        draw = torch.rand(len(images), 3, generator=generator)
        corners = (draw * (room + 1).clamp_min(1)).long()
        at, centred = torch.rand(2, len(rows), generator=generator)  # drawn, used or not
        if self.volume.foreground > 0:
            for i, row in enumerate(rows):
                voxels = self._anchors[row]
                if centred[i] < self.volume.foreground and len(voxels):
                    corners[i] = voxels[int(at[i] * len(voxels))].long() - patch // 2
        corners = corners.clamp(min=0).minimum(room.clamp_min(0))
        return torch.where(room < 0, room.div(2, rounding_mode="trunc"), corners).tolist()


def placed(corners: Sequence[Sequence[int]], turns: Turns, *, shapes: Sequence[Sequence[int]], patch: Shape3) -> Tensor:
    """[N, 3, 4]: where the voxels of each turned patch lie in its volume, as `affine_grid` writes it (Z, Y, X)."""
    at, side, whole = (torch.tensor(x, dtype=torch.float32) for x in (corners, patch, shapes))
    signs = 1.0 - 2.0 * nn.pad(turns.reverse.float(), (0, 1))
    swapped = torch.eye(3)[[1, 0, 2]].expand(len(at), 3, 3)
    turn = torch.where(turns.swap[:, None, None], swapped, torch.eye(3)) * signs[:, None]
    shift = (2 * at + side) / whole - 1
    return torch.cat([(turn * (side / whole)[:, :, None]).flip(1, 2), shift.flip(1)[:, :, None]], 2)


def anchors(label: Tensor) -> Tensor:
    """int16 [m, 3]: at most ANCHORS voxels of each class but the background, so that a small organ counts too."""
    found = []
    for value in range(1, int(label.max()) + 1):
        voxels = (label == value).nonzero().cpu()
        found.append(voxels[:: max(1, -(-len(voxels) // ANCHORS))].to(torch.int16))
    return torch.cat(found) if found else torch.empty(0, 3, dtype=torch.int16)


def cut(volume: Tensor, at: Sequence[int], *, patch: Sequence[int]) -> Tensor:
    """[X, Y, Z] -> [*patch] from corner `at`; beyond the rim it is 0, the darkest value and the background."""
    inside = volume[tuple(slice(max(a, 0), a + side) for a, side in zip(at, patch, strict=True))]
    if inside.shape == tuple(patch):
        return inside
    before = [max(-a, 0) for a in at]
    pad = [(b, side - n - b) for b, side, n in zip(before, patch, inside.shape, strict=True)]
    return nn.pad(inside, [n for pair in reversed(pad) for n in pair])
