"""Readers of three-dimensional sets: NIfTI, NRRD, MetaImage, HDF5, NIfTI with several images, DICOM with NIfTI labels.

The label of a voxel is the one with the same indices, as the published loaders of these sets read them: shapes must be
equal, and the header of the label is not compared. Written volumes have the geometry of their image.

Shapes: X Y Z voxels of a volume, C images of a case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemt.convert.contract import Loaded, Volume
from edgemt.convert.datasets.pictures import Load, mapped
from edgemt.convert.datasets.row import DataSet, Found
from edgemt.convert.label_volumes import read_file
from edgemt.io.array_values import check_finite, to_unsigned_integers
from edgemt.io.decode_errors import decoding
from edgemt.io.decode_limits import check_bytes
from edgemt.io.file_types import is_volume
from edgemt.io.hdf5 import read_dataset
from edgemt.io.volumes import read_label_volume


def volumes(classes: Mapping[int, int]) -> Load:
    """Volumes of any kind that is read; `classes`: value of a voxel -> class, other values are refused."""

    def load(found: Found, row: DataSet) -> Loaded:
        images = [_image(path, found.images[0]) for path in found.images]
        return _loaded(images, found, row, classes, _label)

    return load


def numbered(count: int) -> dict[int, int]:
    """Values 0, 1 ... `count` that are the classes themselves."""
    return {value: value for value in range(count + 1)}


def several_images(count: int) -> Load:
    """NIfTI with the axes X Y Z, or X Y Z C where a case has several images, as the decathlon has them."""

    def load(found: Found, row: DataSet) -> Loaded:
        return _loaded(_split(found.images[0], row), found, row, numbered(count), _label)

    return load


def hdf5(spacing_mm: float) -> Load:
    """Datasets image and label of one .h5 file; isotropic voxels, whose orientation the file does not state."""

    def load(found: Found, row: DataSet) -> Loaded:
        path = found.images[0]
        image = check_finite(read_dataset(path, "image", axes=3), path)
        affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
        return _loaded([Volume(_compact(image), affine)], found, row, numbered(1), _h5_label)

    return load


def dicom_with_nifti(found: Found, row: DataSet) -> Loaded:
    """A DICOM series, with a NIfTI label whose voxel i, j, k is column i, row j of the slice with the number k + 1."""
    from edgemt.convert.dicom_series import read_volume, series_in, stacked

    series, _, _ = series_in(found.images)
    if len(series) != 1 or not series[0].is_volume:
        raise ValueError(f"{found.images[0].parent}: holds {len(series)} DICOM series, {row.title} has one a patient")
    order, _ = stacked(series[0])  # series_in sorts by the number of the instance

    def label(path: Path) -> np.ndarray:
        stored = read_label_volume(path)
        if stored.shape[2] != len(order):
            raise ValueError(f"{path}: has {stored.shape[2]} slices, its series {len(order)}; copy {row.title} again")
        return stored[:, :, order]

    return _loaded([read_volume(series[0])], found, row, numbered(1), label)


def _loaded(
    images: Sequence[Volume],
    found: Found,
    row: DataSet,
    classes: Mapping[int, int],
    read: Callable[[Path], np.ndarray],
) -> Loaded:
    for path, image in zip(found.images, images, strict=False):
        if image.array.shape != images[0].array.shape:
            raise ValueError(f"{path}: {image.array.shape} voxels, {found.images[0].name} {images[0].array.shape}")
    mask = None
    if found.labels:
        path = found.labels[0]
        mask = mapped(read(path), classes, path, row)
        if mask.shape != images[0].array.shape:
            raise ValueError(
                f"{path}: {mask.shape} voxels, its image {images[0].array.shape}; copy {row.title} again, {row.home}"
            )
    return Loaded(images[0] if len(images) == 1 else tuple(images), mask)


def _image(path: Path, first: Path) -> Volume:
    volume = read_file(path)
    check_finite(volume.array, path)
    return Volume(_compact(volume.array), volume.affine)


def _label(path: Path) -> np.ndarray:
    return read_label_volume(path) if is_volume(path) else to_unsigned_integers(read_file(path).array, path)


def _h5_label(path: Path) -> np.ndarray:
    return to_unsigned_integers(read_dataset(path, "label", axes=3), path)


def _compact(array: np.ndarray) -> np.ndarray:
    """float64 as int16 where all values are whole and fit, else as float32; other kinds as they are."""
    if array.dtype != np.float64:
        return array
    whole = bool((array == np.rint(array)).all()) and array.min() >= -32768 and array.max() <= 32767
    return array.astype(np.int16 if whole else np.float32)


def _split(path: Path, row: DataSet) -> list[Volume]:
    import nibabel

    with decoding(path, "NIfTI"):
        image: Any = nibabel.load(path)
        shape = image.shape
        if len(shape) not in (3, 4):
            raise ValueError(f"{path}: has the shape {shape}; {row.title} has three axes, or a fourth for its images")
        check_bytes(path, shape, 8)
        array = np.asarray(image.dataobj)
    check_finite(array, path)
    parts = [array] if array.ndim == 3 else [array[..., k] for k in range(shape[3])]
    wanted = max(len(row.channels), 1)
    if len(parts) != wanted:
        raise ValueError(f"{path}: holds {len(parts)} images, {row.title} has {wanted}; is it the right data set?")
    return [Volume(_compact(part), np.asarray(image.affine)) for part in parts]
