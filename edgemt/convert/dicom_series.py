"""DICOM images by series: slices in the order of their place, with the affine of the volume; cines as frames.

Words of the patient (name, identifier) are collected so that the manifest can leave out file names that hold them;
nothing of a header goes into a name or a message.

Shapes: X Y Z voxels: X along a row of a slice, Y along a column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deploy.dicom.header import is_dicom, read_dataset
from deploy.dicom.pixels import DicomFile
from edgemt.convert.contract import Volume
from edgemt.convert.geometry import LPS_TO_RAS, affine_of
from edgemt.data.layouts.clips import VIDEOS
from edgemt.io.decode_errors import Refused
from edgemt.io.decode_limits import check_bytes
from edgemt.io.file_types import is_image, is_stray, is_volume, natural_sort_key

_SUFFIXES = (".dcm", ".dicom", ".ima")
_GAP = 0.02  # of the distance of two slices
_ANGLE = 1e-3
_SIDEWAYS = 0.25  # of a pixel that a slice may lie beside the line through the others
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
STRUCTURES, DOSE = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.5.1.4.1.1.481.2"


@dataclass(frozen=True)
class Plane:
    """Place of one frame, in LPS mm: the centre of its first pixel, and steps along a row and along a column."""

    position: np.ndarray
    along_row: np.ndarray
    along_column: np.ndarray

    @property
    def normal(self) -> np.ndarray:
        across = np.cross(self.along_row, self.along_column)
        length = np.linalg.norm(across)
        return across / length if length else across


@dataclass(frozen=True)
class Series:
    """Files of one series in the order of their names; `headers` are without pixels."""

    paths: tuple[Path, ...]
    headers: tuple[Any, ...]

    @property
    def uid(self) -> str:
        return str(self.headers[0].get("SeriesInstanceUID", ""))

    @property
    def frame_of_reference(self) -> str:
        return str(self.headers[0].get("FrameOfReferenceUID", ""))

    @property
    def patient(self) -> str:
        """What files of one patient share; only compared, never shown."""
        first = self.headers[0]
        return str(first.get("PatientID") or first.get("PatientName") or first.get("StudyInstanceUID") or self.uid)

    @cached_property
    def planes(self) -> list[Plane | None]:
        """Place of every frame of every file."""
        return [plane for header in self.headers for plane in planes_of(header)]

    @property
    def is_volume(self) -> bool:
        """Whether every frame has a place, as slices of CT and MR have, and as frames of ultrasound have not."""
        return all(plane is not None for plane in self.planes)

    def words(self) -> tuple[str, ...]:
        """Parts of the patient's name and identifiers."""
        first = self.headers[0]
        texts = [
            str(first.get(key) or "") for key in ("PatientName", "PatientID", "OtherPatientIDs", "PatientBirthDate")
        ]
        return tuple(part for text in texts for part in re.split(r"\W+", text) if len(part) > 2)


def dicom_files(source: Path) -> list[Path]:
    """DICOM files of a folder and its folders by suffix or content, or the file itself."""
    if source.is_file():
        return [source] if source.suffix.lower() in _SUFFIXES or is_dicom(source) else []
    found = (p for p in source.rglob("*") if p.is_file() and not is_stray(p) and not p.name.startswith("DICOMDIR"))
    named = (p for p in found if p.suffix.lower() in _SUFFIXES or (not _is_other(p) and is_dicom(p)))
    return sorted(named, key=lambda p: natural_sort_key(str(p)))


def _is_other(path: Path) -> bool:
    """Files that need not be opened: scanners give theirs any suffix, or none."""
    return is_image(path) or is_volume(path) or path.name.lower().endswith((*VIDEOS, ".json", ".xml", ".txt", ".csv"))


def read_head(path: Path) -> Any:
    """The data set without pixels. Raises ValueError, naming the file, for one that cannot be read."""
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise ValueError(f"{path}: reading DICOM needs pydicom; pip install pydicom") from None
    try:
        return read_dataset(path, pixels=False)
    except Refused:
        raise
    except Exception as error:  # the library raises many kinds
        raise ValueError(f"{path}: cannot be read as DICOM ({_first(error)}); copy or export it again") from None


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def planes_of(header: Any) -> list[Plane | None]:
    """The place of each frame of a file; None where it states none."""
    count = int(header.get("NumberOfFrames") or 1)
    groups = header.get("PerFrameFunctionalGroupsSequence") or [None] * count
    shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]
    return [_plane(header, group, shared) for group in groups]


def _plane(header: Any, group: Any, shared: Any) -> Plane | None:
    def value(keyword: str, sequence: str) -> Any:
        for holder in (group, shared):
            items = holder.get(sequence) if holder is not None else None
            if items and keyword in items[0]:
                return items[0].get(keyword)
        return header.get(keyword)

    position = value("ImagePositionPatient", "PlanePositionSequence")
    directions = value("ImageOrientationPatient", "PlaneOrientationSequence")
    spacing = value("PixelSpacing", "PixelMeasuresSequence")
    if position is None or directions is None or spacing is None:
        return None
    try:
        origin, axes, steps = (np.array([float(v) for v in part]) for part in (position, directions, spacing))
    except (TypeError, ValueError):
        return None
    if (len(origin), len(axes), len(steps)) != (3, 6, 2) or not np.isfinite([*origin, *axes, *steps]).all():
        return None
    return Plane(origin, axes[:3] * steps[1], axes[3:] * steps[0])


def stacked(series: Series) -> tuple[list[int], np.ndarray]:
    """(order of the frames along the normal, affine [4, 4] in RAS of [X, Y, Z]).

    Raises ValueError, naming a file, for slices of several orientations, two in one place, and missing ones.
    """
    where = series.paths[0]
    planes = [plane for plane in series.planes if plane is not None]
    first = planes[0]
    for plane in planes:
        turned = np.abs(plane.along_row - first.along_row).max() + np.abs(plane.along_column - first.along_column).max()
        if turned > _ANGLE * np.linalg.norm(first.along_row):
            raise ValueError(
                f"{where}: its series has slices of several orientations; export them as series of their own"
            )
    if not first.normal.any():
        raise ValueError(f"{where}: its axes do not span a volume (a pixel spacing of 0?); export it again")
    heights = np.array([plane.position @ first.normal for plane in planes])
    order = np.argsort(heights, kind="stable")
    if len(planes) < 2:
        raise ValueError(f"{where}: its series has one slice, a volume needs two; leave it out")
    steps = np.diff(heights[order])
    if steps.min() < _GAP * max(steps.max(), 1e-6):
        raise ValueError(
            f"{where}: its series has two slices in one place (phases, echoes, copies); export each phase as a series"
        )
    if steps.max() - steps.min() > _GAP * np.median(steps):
        k = int(np.argmax(np.abs(steps - np.median(steps))))
        raise ValueError(
            f"{_path_of(series, int(order[k]))}: {steps[k]:.3f} mm to the next slice, not {np.median(steps):.3f}; "
            "a slice is missing or the gantry moved: export the series again"
        )
    low, high = planes[order[0]], planes[order[-1]]
    across = (high.position - low.position) / (len(planes) - 1)
    for number, k in enumerate(order.tolist()):
        beside = np.linalg.norm(planes[k].position - low.position - number * across)
        if beside > max(_SIDEWAYS * np.linalg.norm(first.along_row), _GAP * np.median(steps)):
            raise ValueError(
                f"{_path_of(series, k)}: lies {beside:.1f} mm beside the line through the slices of its series "
                "(the table or the field of view moved); export the parts as series of their own"
            )
    return order.tolist(), LPS_TO_RAS @ affine_of(np.stack([low.along_row, low.along_column, across], 1), low.position)


def _path_of(series: Series, frame: int) -> Path:
    for path, header in zip(series.paths, series.headers, strict=True):
        frame -= int(header.get("NumberOfFrames") or 1)
        if frame < 0:
            return path
    return series.paths[-1]


def read_volume(series: Series) -> Volume:
    """Values after the modality rescale, as whole numbers where they are whole. ValueError as `stacked`."""
    order, affine = stacked(series)
    header = series.headers[0]
    check_bytes(series.paths[0], (int(header.Rows), int(header.Columns), len(order)), 8)
    slices = [values for path in series.paths for values in _values(path)]
    sizes = {values.shape for values in slices}
    if len(sizes) > 1 or len(slices) != len(order):
        raise ValueError(f"{series.paths[0]}: its series has slices of several sizes, {sorted(sizes)}; export it again")
    array = np.stack([slices[k].T for k in order], -1)
    return Volume(_smallest(array), affine)


def _values(path: Path) -> Iterator[np.ndarray]:
    file = DicomFile(path)
    if not file.grey or file.header.PhotometricInterpretation == "MONOCHROME1":
        raise ValueError(f"{path}: {file.header.PhotometricInterpretation} is no volume of grey values; leave it out")
    for index in range(file.count):
        yield file.values(index)


def _smallest(array: np.ndarray) -> np.ndarray:
    """Int16 where all values are whole and fit, else int32 or float32; uint8 stays."""
    if array.dtype == np.uint8:
        return array
    whole = array.dtype.kind in "iu" or bool((array == np.rint(array)).all())
    if not whole:
        return array.astype(np.float32)
    fits = array.min() >= -32768 and array.max() <= 32767
    return array.astype(np.int16 if fits else np.int32)


class CineFrame:
    """One frame of a cine through the window that all of its frames share."""

    def __init__(self, number: int, file: DicomFile, index: int, window: Any) -> None:
        self.number = number
        self._file, self._index, self._window = file, index, window

    def pixels(self) -> np.ndarray:
        """uint8 [H, W] or [H, W, 3]."""
        return self._file.view(self._index, self._window)

    def small(self) -> np.ndarray:
        """uint8 [h, w] for hashes."""
        pixels = self.pixels()
        return pixels if pixels.ndim == 2 else pixels[..., 1]


def cine_frames(paths: Sequence[Path]) -> Iterator[CineFrame]:
    """Frames of one file after the other, numbered from 0. Raises ValueError, naming the file."""
    number = 0
    for path in paths:
        file = DicomFile(path)
        window = file.shared_window()
        for index in range(file.count):
            yield CineFrame(number, file, index, window)
            number += 1
        file.close()


def series_in(paths: Sequence[Path]) -> tuple[list[Series], list[Series], list[str]]:
    """(series of images, label files as series of one, lines on what is left out)."""
    images: dict[tuple[Any, ...], list[tuple[Path, Any]]] = {}
    labels: list[Series] = []
    others = doses = 0
    for path in paths:
        header = read_head(path)
        kind = str(header.get("SOPClassUID", ""))
        if kind in SEGMENTATIONS or kind == STRUCTURES:
            labels.append(Series((path,), (header,)))
        elif kind == DOSE:
            doses += 1
        elif "Rows" in header and "Columns" in header:
            alone = path if int(header.get("NumberOfFrames") or 1) > 1 else None
            key = (header.get("SeriesInstanceUID"), header.Rows, header.Columns, alone)
            images.setdefault(key, []).append((path, header))
        else:
            others += 1
    ordered = []
    for found in images.values():
        found.sort(key=lambda pair: int(pair[1].get("InstanceNumber") or 0))
        ordered.append(Series(tuple(p for p, _ in found), tuple(h for _, h in found)))
    notes = [f"{others} DICOM objects without pictures are left out"] if others else []
    notes += [f"{doses} files of radiation dose are left out"] if doses else []
    return ordered, labels, notes
