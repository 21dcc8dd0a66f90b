"""Read volumes (NIfTI, .h5, folders of slice images), and combine neighbouring slices to frames.

The same functions run in training and on the device.

Shapes: X Y Z voxels, S slices of a volume, H W size in pixels, K neighbouring slices of a frame.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from logging import Logger
from pathlib import Path
from typing import Any

import numpy as np

from edgemt.io.array_values import check_finite, check_not_constant, to_unsigned_integers
from edgemt.io.decode_errors import decoding
from edgemt.io.decode_limits import check_bytes
from edgemt.io.file_types import is_h5, is_image, is_volume, slice_files
from edgemt.io.fourth_axis import check_fourth_axis, time_hint
from edgemt.io.geometry import Geometry, align, arranged, arranged_sizes, in_mm, unit_in_mm
from edgemt.io.hdf5 import image_shape, open_h5, read_dataset
from edgemt.io.images import as_grey, image_header, read_image, read_label


def neighbour_indices(depth: int, slices: int) -> np.ndarray:
    """int64 [depth, slices]: the indices seen around each slice, its own in the middle, the ends repeated.

    Raises ValueError for an even number: no slice would be in the middle.
    """
    if slices < 1 or slices % 2 == 0:
        raise ValueError(f"slices: {slices} has no middle; use 1, 3 or 5")
    reach = slices // 2
    return np.clip(np.arange(depth)[:, None] + np.arange(-reach, reach + 1), 0, depth - 1)


def stack_neighbours(frames: np.ndarray, at: int, *, slices: int) -> np.ndarray:
    """[S, H, W, C], every slice of a volume -> [H, W, C * K], of each channel slice `at` among its neighbours."""
    around = np.moveaxis(frames[neighbour_indices(len(frames), slices)[at]], 0, -1)  # [H, W, C, K]
    return np.ascontiguousarray(around.reshape(*around.shape[:2], -1))


@dataclass(frozen=True)
class Volume:
    """A volume: `array` [X, Y, Z] with scaled values, in the requested axis order.

    `spacing_mm` has one number an axis of it, if the header has it. `affine`, `codes` and `header` (of nibabel) are
    those of the file as it is stored.
    """

    array: np.ndarray
    affine: np.ndarray
    spacing_mm: tuple[float, ...] | None
    codes: str = ""
    header: Any = None


def geometry_of(path: str | Path) -> Geometry:
    """Shape, spacing and place from the header alone: [X, Y, Z], or [H, W] of an .h5 slice.

    A fourth axis is no mistake here: `channels` is its length. Raises ValueError otherwise as `read_volume` does.
    """
    if is_h5(path):
        return Geometry(image_shape(path))
    if Path(path).is_dir():
        files = slice_files(path)
        header = image_header(files[0])
        rows, columns = header.size[::-1] if header.orientation > 4 else header.size
        return Geometry((rows, columns, len(files)))
    try:
        stat = os.stat(path)
    except OSError:
        raise ValueError(f"{path}: no such volume") from None
    return _nifti_header(str(path), stat.st_mtime_ns, stat.st_size)[0]


@lru_cache(maxsize=65536)
def _nifti_header(path: str, mtime_ns: int, size: int) -> tuple[Geometry, bool]:
    """And whether its values are other than unsigned bytes as they stand."""
    image, _ = _nifti(path, whole=False)
    deep = image.dataobj.dtype != np.uint8 or (image.dataobj.slope, image.dataobj.inter) != (1.0, 0.0)
    return _geometry(path, image), bool(deep)


def _geometry(path: str | Path, image: Any) -> Geometry:
    header = image.header
    affines = [header.get_sform()] if int(header["sform_code"]) > 0 else []
    with suppress(ValueError, np.linalg.LinAlgError):  # a quaternion that is none
        affines += [header.get_qform()] if int(header["qform_code"]) > 0 else []
    unit = unit_in_mm(header)
    affines = [in_mm(a, unit) for a in affines if np.isfinite(a).all()]
    affines = [a for a in affines if abs(np.linalg.det(a[:3, :3])) > 1e-12]
    channels = max(1, *map(int, image.shape[3:])) if len(image.shape) > 3 else 1
    hint = time_hint(header) if channels > 1 else ""
    shape = tuple(int(n) for n in image.shape[:3])
    return Geometry(shape, _spacing(path, image), tuple(affines), channels, hint, unit)


def volume_shape(path: str | Path, *, axes: str = "") -> tuple[int, ...]:
    """[X, Y, Z] from the header alone, in the order `axes`; [H, W] of an .h5 slice. ValueError as `read_volume`."""
    geometry = geometry_of(path)
    return arranged_sizes(geometry.shape, geometry.codes, axes) if len(geometry.shape) == 3 else geometry.shape


def volume_spacing(path: str | Path, *, axes: str = "") -> tuple[float, ...] | None:
    """Voxel size from the header alone, one number an axis in the order `axes`; None where it states none."""
    geometry = geometry_of(path)
    if geometry.spacing_mm is None:
        return None
    return arranged_sizes(geometry.spacing_mm, geometry.codes, axes)


def is_deep(path: str | Path) -> bool:
    """Whether an image or a volume has more than eight bits, from its header alone."""
    if is_image(path):
        return image_header(path).deep
    if is_h5(path):
        with open_h5(path) as file:
            return "image" not in file or file["image"].dtype != np.uint8
    if Path(path).is_dir():
        return image_header(slice_files(path)[0]).deep
    stat = os.stat(path)
    return _nifti_header(str(path), stat.st_mtime_ns, stat.st_size)[1]


def read_volume(path: str | Path, *, axes: str = "", channel: int | None = None) -> Volume:
    """NIfTI, .h5, or a folder of slices, brought to the order `axes`: three axes, finite, more than one grey value.

    `channel`: which image along a fourth axis, where there is one; without it a fourth axis is refused.
    Raises ValueError, naming the file, for anything else, and for a file cut short. A header without a usable
    voxel size (zero, negative, not a number) gives `spacing_mm` None.
    """
    spacing, affine, codes, header = None, np.eye(4), "", None
    if is_h5(path):
        array = read_dataset(path, "image", axes=3)
    elif Path(path).is_dir():
        array = _slices(path, read_image)
    else:
        image, array = _nifti(path, whole=True)
        geometry = _geometry(path, image)
        if geometry.channels > 1:
            if channel is None:
                check_fourth_axis(path, geometry, ())
            array = array[..., channel]
        spacing, affine, codes, header = geometry.spacing_mm, np.asarray(image.affine), geometry.codes, image.header
    array = check_not_constant(check_finite(array, path), path)
    if spacing is not None:
        spacing = arranged_sizes(spacing, codes, axes)
    return Volume(arranged(array, codes, axes), affine, spacing, codes, header)


def read_stacked_channels(path: str | Path, names: Sequence[str], *, axes: str = "") -> list[np.ndarray]:
    """[X, Y, Z] of each channel of a file with a fourth axis, in the order `axes`.

    Raises ValueError, naming the file, where that axis is not the one of `names`, and as `read_volume` does.
    """
    image, array = _nifti(path, whole=True)
    geometry = _geometry(path, image)
    check_fourth_axis(path, geometry, names)
    check_finite(array, path)
    parts = [check_not_constant(array[..., k], f"{path}: channel {name}") for k, name in enumerate(names)]
    return [arranged(part, geometry.codes, axes) for part in parts]


def read_channel_volume(path: str | Path, *, like: str | Path | None, axes: str = "") -> np.ndarray:
    """[X, Y, Z] of a further channel of a case, brought onto the grid of `like`, then both to the order `axes`.

    Raises ValueError, naming both files, for one at another place; `like` None relies on the order of the voxels.
    """
    if like is None or not is_volume(path) or not is_volume(like):
        return read_volume(path, axes=axes).array
    theirs = geometry_of(like)
    move = align(geometry_of(path), theirs, label_path=path, image_path=like, what="channel")
    array = read_volume(path).array
    if move is not None:
        from nibabel import orientations

        array = np.ascontiguousarray(orientations.apply_orientation(array, move))
    if array.shape != theirs.shape:
        raise ValueError(f"{path}: is {array.shape}, channel {like} of the same case is {theirs.shape}; resample it")
    return arranged(array, theirs.codes, axes)


def read_label_volume(
    path: str | Path, *, image: str | Path | None = None, axes: str = "", compare: bool = True
) -> np.ndarray:
    """[X, Y, Z] whole numbers of a mask, in the smallest unsigned kind; of an .h5 file its dataset `label`.

    With `image`, NIfTI voxels are brought onto those of the image that they belong to, then both to the order `axes`.
    Raises ValueError, naming the file, and both when `compare` finds them in different places.
    """
    if is_h5(path):
        return arranged(to_unsigned_integers(read_dataset(path, "label", axes=3), path), "", axes)
    if Path(path).is_dir():
        return arranged(_slices(path, read_label), "", axes)
    read, array = _nifti(path, whole=True)
    own, codes = _geometry(path, read), ""
    if own.channels > 1:
        raise ValueError(f"{path}: a label must have 3 axes, this one has shape {read.shape}; write one value a voxel")
    array = to_unsigned_integers(array, path)
    if image is not None and is_volume(image):
        theirs = geometry_of(image)
        codes = theirs.codes
        move = align(own, theirs, label_path=path, image_path=image) if compare else None
        if move is not None:
            from nibabel import orientations

            array = np.ascontiguousarray(orientations.apply_orientation(array, move))
    return arranged(array, codes, axes)


def _slices(folder: str | Path, read: Callable[[str | Path], np.ndarray]) -> np.ndarray:
    """[H, W, S] of a folder of grey slices."""
    slices: list[np.ndarray] = []
    for path in slice_files(folder):
        slice_ = read(path)
        if slice_.ndim == 3:  # grey, saved as colour
            slice_ = as_grey(slice_)
        if slices and slice_.shape != slices[0].shape:
            raise ValueError(f"{path}: is {slice_.shape}, the slices before it are {slices[0].shape} (rows, columns)")
        if slices and (slice_.dtype == np.uint8) != (slices[0].dtype == np.uint8) and read is read_image:
            raise ValueError(
                f"{path}: is {slice_.dtype}, the slices before it are {slices[0].dtype}; save all with the same type"
            )
        slices.append(slice_)
    return np.stack(slices, axis=-1)


def _nifti(path: str | Path, *, whole: bool) -> tuple[Any, np.ndarray]:
    try:
        import nibabel
    except ImportError:
        raise ValueError(f"{path}: reading NIfTI needs nibabel; pip install nibabel") from None
    try:
        with decoding(path, "NIfTI"), _silent(nibabel.imageglobals.logger):  # a voxel size is `_spacing`'s affair
            image: Any = nibabel.load(path)
            stored = image.dataobj
            scaled = getattr(stored, "slope", 1) != 1 or getattr(stored, "inter", 0) != 0
            if whole:
                check_bytes(path, image.shape, 8 if scaled else stored.dtype.itemsize)
            array = np.asarray(stored) if whole else np.empty(0)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such volume") from None
    if image.get_data_dtype().kind not in "iuf":
        raise ValueError(
            f"{path}: its voxels are colours or complex ({image.get_data_dtype()}); save one grey value each"
        )
    if not hasattr(image.header, "get_sform"):
        raise ValueError(f"{path}: an Analyze file, which states no orientation; save it as NIfTI")
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:  # a time axis of one moment
        shape = shape[:-1]
    if len(shape) not in (3, 4):
        hint = "a 2-D recipe reads PNG slices" if len(shape) == 2 else "split it first"
        raise ValueError(f"{path}: a volume must have 3 axes, this one has shape {image.shape}; {hint}")
    return image, array.reshape(shape) if whole else array


@contextmanager
def _silent(logger: Logger) -> Iterator[None]:
    was, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was


def _spacing(path: str | Path, image: Any) -> tuple[float, ...] | None:
    """From the header as it is written: nibabel turns a missing voxel size into 1 mm while it loads."""
    from nibabel.openers import ImageOpener

    with decoding(path, "NIfTI"), ImageOpener(str(path)) as file:
        zooms = type(image.header).from_fileobj(file, check=False).get_zooms()[:3]
    return (
        tuple(float(v) * unit_in_mm(image.header) for v in zooms)
        if all(np.isfinite(v) and v > 0 for v in zooms)
        else None
    )
