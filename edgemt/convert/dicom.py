"""DICOM: series of slices with DICOM SEG or RT-STRUCT to volumes; cines of ultrasound, X-ray and endoscopy to clips.

Patients are numbered in the order of their files: patient001, patient002; further series of one are patient001_t02.
Names and identifiers of the header are compared and never written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from edgemt.convert.contract import (
    BACKGROUND,
    Format,
    ImportOptions,
    Listing,
    Loaded,
    OverlapCount,
    Sample,
    Unit,
    Volume,
)
from edgemt.convert.dicom_labels import contour_notes, label_names, read_areas, referenced_series
from edgemt.convert.dicom_series import Series, cine_frames, dicom_files, read_volume, series_in, stacked
from edgemt.convert.label_volumes import combined
from edgemt.convert.names import class_names
from edgemt.convert.video import check_options, chosen_frames, clip_samples

_LOCALIZER = 4  # slices: so few of several orientations are a localizer


def read(source: Path, options: ImportOptions) -> Listing:
    """All series of a folder. Raises ValueError, naming a file, where volumes and cines are mixed."""
    paths = dicom_files(source)
    if not paths:
        raise ValueError(f"{source}: holds no DICOM file; name the folder of a series or of an archive")
    check_options(options)
    found, labels, notes = series_in(paths)
    found = [series for series in found if not _left_out(series, notes)]
    if not found:
        raise ValueError(f"{source}: holds no DICOM series of images; name another folder")
    volumes = [series for series in found if series.is_volume]
    if volumes and len(volumes) < len(found):
        cine = next(series for series in found if not series.is_volume)
        raise ValueError(
            f"{source}: holds volumes ({volumes[0].paths[0].name}) and cines ({cine.paths[0].name}); import each kind "
            "from a folder of its own"
        )
    names = _pseudonyms(found)
    notes.append("patients are numbered, their names and identifiers are not stored")
    if not volumes:
        if labels:
            raise ValueError(f"{labels[0].paths[0]}: labels of cines are not read; leave it out")
        units = [_cine(series, name, options) for series, name in zip(found, names, strict=True)]
        return Listing("clips", (BACKGROUND,), units, notes=(*notes, chosen_frames(options)))
    _check_series(volumes)
    for series in volumes:
        stacked(series)  # a series with a missing slice is refused before anything is written
    paired = _paired(labels, volumes)
    for series, name in zip(volumes, names, strict=True):
        notes += contour_notes(series, paired.get(series.uid), name=name)
    classes: tuple[str, ...] = (BACKGROUND,)
    if labels:
        classes = class_names(
            [n for label in labels for n in label_names(label)], wanted=options.classes, source=source
        )
    overlap = OverlapCount()
    units = []
    for series, name in zip(volumes, names, strict=True):
        own = paired.get(series.uid)
        files = (*series.paths, *(own.paths if own is not None else ()))
        samples = _samples(series, name, own, classes, overlap)
        units.append(Unit(name, files, samples, name.partition("_")[0], series.words()))
    return Listing("volumes", classes, units, notes=tuple(notes), overlap=overlap)


def _check_series(volumes: Sequence[Series]) -> None:
    """Raises ValueError, naming a file, for slices of several sizes or patients under one number of a series."""
    sizes: dict[str, tuple[int, int]] = {}
    for series in volumes:
        first = series.headers[0]
        size = (int(first.Rows), int(first.Columns))
        if sizes.setdefault(series.uid, size) != size:
            raise ValueError(
                f"{series.paths[0]}: has {size[0]} x {size[1]} pixels, other slices of its series have "
                f"{sizes[series.uid][0]} x {sizes[series.uid][1]}; export them as series of their own"
            )
        for path, header in zip(series.paths, series.headers, strict=True):
            if header.get("PatientID") != first.get("PatientID"):
                raise ValueError(
                    f"{path}: has another patient identifier than {series.paths[0].name} of the same series; was one "
                    "number given to two series? export them again"
                )


def _left_out(series: Series, notes: list[str]) -> bool:
    """A single slice, or a few in several orientations: a localizer, which nearly every study has."""
    planes = series.planes
    if not series.is_volume or len(planes) > _LOCALIZER:
        return False
    normals = [plane.normal for plane in planes if plane is not None]
    if len(planes) > 1 and all(abs(normal @ normals[0]) > 0.99 for normal in normals):
        return False
    notes.append(f"{series.paths[0].name} and its series are left out: {len(planes)} slices, a localizer")
    return True


def _pseudonyms(found: Sequence[Series]) -> list[str]:
    patients = list(dict.fromkeys(series.patient for series in found))
    counts: dict[str, int] = {}
    names = []
    for series in found:
        number = patients.index(series.patient) + 1
        counts[series.patient] = counts.get(series.patient, 0) + 1
        several = sum(other.patient == series.patient for other in found) > 1
        names.append(f"patient{number:03d}" + (f"_t{counts[series.patient]:02d}" if several else ""))
    return names


def _paired(labels: Sequence[Series], volumes: Sequence[Series]) -> dict[str, Series]:
    """UID of a series -> its label file."""
    paired: dict[str, Series] = {}
    for label in labels:
        wanted = referenced_series(label)
        fits = [series for series in volumes if series.uid in wanted]
        if not wanted:
            fits = [s for s in volumes if s.frame_of_reference and s.frame_of_reference == label.frame_of_reference]
        if len(fits) != 1:
            raise ValueError(
                f"{label.paths[0]}: {len(fits)} series fit this label file; put the one it was drawn on beside it"
            )
        if fits[0].uid in paired:
            other = paired[fits[0].uid].paths[0].name
            raise ValueError(f"{label.paths[0]}: {other} labels the same series; keep the file that counts")
        paired[fits[0].uid] = label
    return paired


def _samples(
    series: Series, name: str, label: Series | None, classes: tuple[str, ...], overlap: OverlapCount
) -> Callable[[], Iterator[Sample]]:
    def load() -> Loaded:
        image = read_volume(series)
        return Loaded(image, None if label is None else _mask(label, image, series.paths[0], classes, overlap))

    return lambda: iter([Sample(name, label is not None, load)])


def _mask(
    label: Series, image: Volume, image_path: Path, classes: tuple[str, ...], overlap: OverlapCount
) -> np.ndarray:
    areas = read_areas(label.paths[0], image, image_path=image_path)
    return combined(areas, classes, overlap) if areas else np.zeros(image.array.shape, np.uint8)


def _cine(series: Series, name: str, options: ImportOptions) -> Unit:
    def frames() -> Iterator:
        return cine_frames(series.paths)

    samples = clip_samples(series.paths[0], frames, name, options, {})
    return Unit(name, series.paths, samples, name, series.words())


FORMAT = Format(
    about="DICOM: series with DICOM SEG or RT-STRUCT as volumes, cines as clips; patients are numbered",
    detects=lambda source: bool(dicom_files(source)),
    read=read,
)
