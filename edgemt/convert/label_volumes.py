"""Label volumes: the segments of a .seg.nrrd of 3D Slicer, or the values of a plain label map, as class indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgemt.convert.contract import BACKGROUND, ImportOptions, OverlapCount, Volume
from edgemt.convert.metaimage_file import read_metaimage
from edgemt.convert.names import class_names, is_background
from edgemt.convert.nrrd_file import Nrrd, read_nrrd
from edgemt.io.array_values import to_unsigned_integers
from edgemt.io.geometry import in_mm, unit_in_mm
from edgemt.io.volumes import read_volume


@dataclass(frozen=True)
class Segment:
    """One segment of a .seg.nrrd: its name, and where it is stored."""

    name: str
    layer: int
    value: int


def segments_of(path: Path) -> list[Segment]:
    """The segments that a .seg.nrrd names; none for a plain label map."""
    if not path.name.lower().endswith((".nrrd", ".nhdr")):
        return []
    volume = read_nrrd(path)
    found: list[Segment] = []
    layered = volume.array.ndim == 4
    while any(f"Segment{len(found)}_{key}" in volume.pairs for key in ("ID", "Name")):
        number = len(found)
        pairs = {k: volume.pairs.get(f"Segment{number}_{k}", "") for k in ("ID", "Name", "Layer", "LabelValue")}
        try:
            layer = int(pairs["Layer"] or (number if layered else 0))
            value = int(pairs["LabelValue"] or (1 if layered else number + 1))
        except ValueError:
            raise ValueError(f"{path}: segment {number} has no whole layer and label value; save it again") from None
        if not 0 <= layer < (volume.array.shape[_layer_axis(volume)] if layered else 1):
            raise ValueError(f"{path}: segment {number} lies in layer {layer}, which is not there; save it again")
        found.append(Segment(pairs["Name"] or pairs["ID"], layer, value))
    if found:
        _check_segments(path, volume, found)
    return found


def _check_segments(path: Path, volume: Nrrd, found: Sequence[Segment]) -> None:
    """Raises ValueError for a fractional segmentation, and where voxels have other values than their segments."""
    kind = volume.pairs.get("Segmentation_MasterRepresentation", "")
    if "fractional" in kind.lower():
        raise ValueError(
            f"{path}: is a {kind.lower()}, which has no edge; export it as binary labelmap (3D Slicer: Segmentations)"
        )
    layers = [volume.array] if volume.array.ndim == 3 else np.moveaxis(volume.array, _layer_axis(volume), 0)
    for number, layer in enumerate(layers):
        values, own = set(np.unique(layer).tolist()) - {0}, [one for one in found if one.layer == number]
        unknown, empty = sorted(values - {one.value for one in own}), [one for one in own if one.value not in values]
        if unknown and empty:
            raise ValueError(
                f"{path}: segment {empty[0].name!r} has the value {empty[0].value}, which no voxel has, and voxels "
                f"have {unknown[0]}, which no segment has; save it again in the program that drew it"
            )


def _layer_axis(volume: Nrrd) -> int:
    return next(axis for axis in range(volume.array.ndim) if axis not in volume.space_axes)


def _numbered(labels: Sequence[Path], options: ImportOptions) -> tuple[str, ...]:
    """Classes of plain label maps: --classes names the values 1, 2 ...; class1, class2 ... without it."""
    top = 0
    for path in labels:
        values = to_unsigned_integers(read_file(path).array, path)
        if values.min() < 0:
            raise ValueError(f"{path}: a label map must not hold negative values, this one holds {values.min()}")
        top = max(top, int(values.max()))
        names = [name for name in options.classes if not is_background(name)]
        if options.classes and top > len(names):
            raise ValueError(f"{path}: holds value {top}, --classes names {len(names)}; name a class for each value")
    names = [name for name in options.classes if not is_background(name)] or [f"class{k}" for k in range(1, top + 1)]
    return class_names(names, wanted=names, source=labels[0])


def read_file(path: Path) -> Volume:
    """A volume of any kind that is read here. Raises ValueError, naming the file."""
    name = path.name.lower()
    if name.endswith((".nrrd", ".nhdr")):
        found = read_nrrd(path)
        if found.array.ndim != 3:
            raise ValueError(f"{path}: has {found.array.ndim} axes, a volume has three; split it first")
        return Volume(found.array, found.affine)
    if name.endswith((".mha", ".mhd")):
        return read_metaimage(path)
    volume = read_volume(path)
    return Volume(volume.array, in_mm(volume.affine, unit_in_mm(volume.header)))


def label_classes(
    segments: Mapping[Path, Sequence[Segment]], options: ImportOptions, *, source: Path
) -> tuple[str, ...]:
    """Background and the classes of all label files; without a file, the background alone.

    Raises ValueError where some files name their segments and others do not.
    """
    plain = [path for path, found in segments.items() if not found]
    if plain and len(plain) < len(segments):
        raise ValueError(f"{plain[0]}: has no names of segments, other label files have; import them one by one")
    if plain:
        return _numbered(plain, options)
    if not segments:
        return (BACKGROUND,)
    found = [segment.name for rows in segments.values() for segment in rows]
    return class_names(found, wanted=options.classes, source=source)


@dataclass(frozen=True)
class LabelVolume:
    """A label file: `layers` [L, X, Y, Z] as stored, its affine, its segments (none: a plain label map), its header."""

    layers: np.ndarray
    affine: np.ndarray
    segments: Sequence[Segment]
    pairs: Mapping[str, str]

    def mask(self, classes: tuple[str, ...], overlap: OverlapCount, frame: int | None = None) -> np.ndarray:
        """uint8 class indices [X, Y, Z], or [X, Y] of one slice of the last axis."""
        layers = self.layers if frame is None else self.layers[..., frame]
        if not self.segments:
            return layers[0].astype(np.uint8)
        areas = [(segment.name, layers[segment.layer] == segment.value) for segment in self.segments]
        return combined(areas, classes, overlap)


def read_labels(path: Path, segments: Sequence[Segment]) -> LabelVolume:
    """The labels of one file, whose `segments` are those of `segments_of`."""
    if not segments:
        plain = read_file(path)
        return LabelVolume(to_unsigned_integers(plain.array, path)[None], plain.affine, (), {})
    found = read_nrrd(path)
    layers = found.array[None] if found.array.ndim == 3 else np.moveaxis(found.array, _layer_axis(found), 0)
    return LabelVolume(layers, found.affine, segments, found.pairs)


def combined(areas: Sequence[tuple[str, np.ndarray]], classes: tuple[str, ...], overlap: OverlapCount) -> np.ndarray:
    """uint8 class indices of named areas of one shape; the later on top, pixels that two classes claim are counted."""
    mask = np.zeros(areas[0][1].shape, np.uint8)
    for name, area in areas:
        if name not in classes and not is_background(name):
            continue
        value = 0 if is_background(name) else classes.index(name)
        overlap.pixels += int(np.count_nonzero(area & (mask != 0) & (mask != value)))
        mask[area] = value
    return mask
