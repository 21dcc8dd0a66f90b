"""From cases to arrays: frames at the size of the network, labels at the size of their file.

Shapes: n cases, H W the frame size, K channels (times the neighbouring slices), S slices of a volume.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgemt.contract import Case
from edgemt.data import phantom2d, phantom3d
from edgemt.data.reading import Reading, decide_reading
from edgemt.io import array_values, channels, file_types, images
from edgemt.io.bit_depth import Depth, Rule
from edgemt.io.fourth_axis import is_stacked
from edgemt.io.mask_rule import MaskValues
from edgemt.io.volumes import (
    geometry_of,
    read_channel_volume,
    read_stacked_channels,
    read_volume,
    stack_neighbours,
    volume_shape,
)

ProgressCall = Callable[[int, int], None]


@dataclass(frozen=True)
class FrameSpec:
    """Size, channels and classes that every frame of a data set is decoded to."""

    size: tuple[int, int]
    channels: int
    classes: tuple[str, ...]
    mask_threshold: int | None = None
    slices: int = 1  # neighbouring slices of a volume in one frame
    depth: Rule = "auto"
    window: tuple[float, float] | None = None
    compare: bool = True  # check that the headers of label and image state the same position
    channel_names: tuple[str, ...] = ()  # of cases of several files; their planes are `channels` together
    channel_depth: tuple[Rule, ...] = ()
    values: MaskValues = MaskValues()

    def reading(self, cases: Sequence[Case]) -> Reading:
        """How the files of `cases` are read. Raises ValueError, naming the file, where no rule fits all of them."""
        return decide_reading(
            cases,
            classes=self.classes,
            mask_threshold=self.mask_threshold,
            depth=self.depth,
            window=self.window,
            compare=self.compare,
            channel_names=self.channel_names,
            channel_depth=self.channel_depth,
            values=self.values,
        )

    @property
    def frame_channels(self) -> int:
        """K."""
        return self.channels * self.slices


@dataclass
class CaseReader:
    """Reads cases one by one. It caches the last volume, since the slices of a volume follow each other."""

    spec: FrameSpec
    reading: Reading
    fill: np.ndarray | None = None  # uint8 [K]: what a channel is that a case lacks; None: 0
    _image: tuple[str, np.ndarray] = field(default=("", np.empty(0)), repr=False)
    _label: tuple[str, np.ndarray] = field(default=("", np.empty(0)), repr=False)
    _fitted: tuple[str, np.ndarray] = field(default=("", np.empty(0)), repr=False)

    def frame(self, case: Case) -> np.ndarray:
        """uint8 [H, W, K]: the frame of a case, with `spec.slices` as the middle of its neighbours."""
        raw = self._raw(case)
        if self.spec.slices == 1:
            return self._fit(raw)
        if case.slice is None:
            raise ValueError(f"data.slices: {case.name} is no slice of a volume and has no neighbours; set it to 1")
        if self._fitted[0] != case.image:
            volume = self._image[1]
            self._fitted = case.image, np.stack([self._fit(_slice_of(volume, k)) for k in range(volume.shape[-1])])
        return stack_neighbours(self._fitted[1], case.slice, slices=self.spec.slices)

    def _fit(self, raw: np.ndarray) -> np.ndarray:
        if self.spec.channel_names:
            return images.fit_frame(raw, size=self.spec.size, channels=raw.shape[2])
        return images.fit_frame(raw, size=self.spec.size, channels=self.spec.channels)

    def label(self, case: Case) -> np.ndarray:
        """uint8 class indices, or bits of overlapping classes, at the size of the file.

        Raises ValueError where mask and image differ in size.
        """
        if case.label is None:
            raise ValueError(f"{case.name}: has no mask that may be read here")
        if case.label.startswith("phantom:"):
            overlapping = self.spec.values.overlapping
            return phantom2d.frame(_seed(case.label), size=self.spec.size, overlapping=overlapping)[1]
        if case.slice is None:
            label = self.class_indices(case)
        else:
            if self._label[0] != case.label:
                self._label = case.label, self.class_indices(case)
            label = self._slice(self._label[1], case, path=case.label)
        shape = self._raw(case).shape[:2]
        if label.shape != shape:
            raise ValueError(f"{case.label}: mask is {label.shape}, its image {case.image} is {shape} (rows, columns)")
        return label

    def _raw(self, case: Case) -> np.ndarray:
        if case.image.startswith("phantom:"):
            return phantom2d.frame(_seed(case.image), size=self.spec.size)[0]
        if self.spec.channel_names:
            return self._several(case)
        if self._image[0] != case.image:
            if case.slice is None:
                array = array_values.check_not_constant(images.read_image(case.image), case.image)
            else:
                array = image_volume(case.image, axes=case.axes)
            self._image = case.image, self.reading.depth(array)
        array = self._image[1]
        return array if case.slice is None else self._slice(array, case, path=case.image)

    def _several(self, case: Case) -> np.ndarray:
        """uint8 [H, W, K] of a case of several channels."""
        if len(case.channels) != len(self.spec.channel_names):
            names = ", ".join(self.spec.channel_names)
            raise ValueError(f"{case.image}: is one file, each case has the channels {names}; list them as channels")
        if self._image[0] != case.image:
            self._image = case.image, self._read_channels(case)
        array = self._image[1]
        return array if case.slice is None else self._slice(array, case, path=case.image)

    def _read_channels(self, case: Case) -> np.ndarray:
        names, reading = self.spec.channel_names, self.reading
        depths = reading.channel_depths or (reading.depth,) * len(names)
        return read_channels(case, names, depths, compare=reading.compare, fill=self.fill)

    def _slice(self, array: np.ndarray, case: Case, *, path: str) -> np.ndarray:
        if case.slice is None or case.slice >= array.shape[-1]:
            raise ValueError(f"{path}: has {array.shape[-1]} slices, {case.name} is slice {case.slice}")
        return _slice_of(array, case.slice)

    def class_indices(self, case: Case) -> np.ndarray:
        """uint8 class indices [H, W], or [X, Y, Z] of the whole volume of a case; bits of overlapping classes."""
        return self.reading.class_indices(case)


def read_channels(
    case: Case, names: Sequence[str], depths: Sequence[Depth], *, compare: bool = True, fill: np.ndarray | None = None
) -> np.ndarray:
    """uint8 [H, W, K], or [X, Y, K, Z] of a volume: the planes of all channels, each by its own depth rule.

    `compare` brings volumes onto the grid of the first one by their headers; `fill`, uint8 [K], stands for a missing
    channel.
    """
    planes = channels.planes_of(names)
    parts: list[np.ndarray | None] = []
    if is_stacked(case.channels) and geometry_of(case.files[0]).channels > 1:
        stack = read_stacked_channels(case.files[0], names, axes=case.axes)
        for one, rule, path in zip(stack, depths, case.channels, strict=True):
            parts.append(rule(one)[:, :, None] if path else None)
        return channels.join(parts, planes, fill=fill)
    for path, count, depth in zip(case.channels, planes, depths, strict=True):
        if not path:
            parts.append(None)
        elif file_types.is_image(path):
            array = depth(array_values.check_not_constant(images.read_image(path), path))
            parts.append(channels.picture_planes(array, count, path=path))
        else:
            like = case.image if compare and path != case.image else None
            parts.append(depth(read_channel_volume(path, like=like, axes=case.axes))[:, :, None])
    return channels.join(parts, planes, fill=fill)


def image_volume(path: str, *, axes: str = "") -> np.ndarray:
    """[X, Y, Z] of a file in the order `axes`, or of a phantom volume."""
    if path.startswith(phantom3d.PREFIX):
        return phantom3d.volume(phantom3d.seed_of(path))[0]
    return read_volume(path, axes=axes).array


def depth_of(path: str, *, axes: str = "") -> int:
    """Number of slices of a volume in the order `axes`, from its header alone."""
    if path.startswith(phantom3d.PREFIX):
        return phantom3d.SHAPE[2]
    return volume_shape(path, axes=axes)[2]


def _slice_of(volume: np.ndarray, k: int) -> np.ndarray:
    return np.ascontiguousarray(volume[..., k])


def _seed(path: str) -> int:
    return int(path.partition(":")[2])


def decode_frames(
    cases: Sequence[Case], spec: FrameSpec, *, reading: Reading | None = None, progress: ProgressCall | None = None
) -> np.ndarray:
    """uint8 [n, H, W, K] without reading any label. `reading` is by default decided from these cases."""
    cases = [dataclasses.replace(case, label=None, labels=()) for case in cases]
    out = np.empty((len(cases), *spec.size, spec.frame_channels), np.uint8)
    reader = CaseReader(spec, reading or spec.reading(cases))
    for i, case in enumerate(cases):
        out[i] = reader.frame(case)
        if progress is not None:
            progress(i + 1, len(cases))
    return out


def decode_pairs(
    cases: Sequence[Case],
    spec: FrameSpec,
    *,
    reading: Reading | None = None,
    fill: np.ndarray | None = None,
    progress: ProgressCall | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield, case by case, a uint8 frame [H, W, K] and its label at the size of the file.

    `fill`, uint8 [K], stands for a channel that a case lacks.
    """
    reader = CaseReader(spec, reading or spec.reading(cases), fill)
    for i, case in enumerate(cases):
        label = reader.label(case)
        yield reader.frame(case), label
        if progress is not None:
            progress(i + 1, len(cases))
