"""How a file becomes the uint8 frame that a network eats: the same functions in training and on the device.

A volume is a NIfTI file, an .h5 file with the datasets `image` and `label`, or a folder of slice images, which
are stacked in the order of the numbers in their names: slice 10 follows slice 9, not slice 1.

Shapes: H W size in pixels, K channels (1 grey, 3 RGB), X Y Z voxels of a volume, slices along Z.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import Logger
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgemt.decode_limits import check_bytes, check_pixels
from edgemt.decoding import decoding
from edgemt.h5_links import inside

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
VOLUME_SUFFIXES = (".nii", ".nii.gz")
H5_SUFFIXES = (".h5", ".hdf5")


@dataclass(frozen=True)
class Volume:
    """`array` [X, Y, Z] with scaled values; `spacing_mm` one number an axis, as the header has it, if it has one."""

    array: np.ndarray
    affine: np.ndarray
    spacing_mm: tuple[float, ...] | None


def is_image(path: str | Path) -> bool:
    return str(path).lower().endswith(IMAGE_SUFFIXES)


def is_volume(path: str | Path) -> bool:
    return str(path).lower().endswith(VOLUME_SUFFIXES)


def is_slice_folder(path: str | Path) -> bool:
    return Path(path).is_dir() and any(is_image(inside) for inside in Path(path).iterdir())


def is_h5(path: str | Path) -> bool:
    return str(path).lower().endswith(H5_SUFFIXES)


def read_image(path: str | Path) -> np.ndarray:
    """[H, W] or [H, W, 3], uint8 or uint16; an .h5 slice as it is stored. ValueError names a file that is not whole."""
    if is_h5(path):
        return _finite(_h5(path, "image", axes=2), path)
    try:
        with Image.open(path) as image:
            check_pixels(path, image.width, image.height)
            image.load()
            if image.mode in ("I;16", "I;16B", "I;16L", "I"):
                return np.clip(np.asarray(image.convert("I")), 0, 65535).astype(np.uint16)
            if image.mode in ("1", "L", "LA"):
                return np.asarray(image.convert("L"))
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such image") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be decoded ({error}); replace or remove the file") from None


def read_label(path: str | Path) -> np.ndarray:
    """[H, W] integers: palette images keep their indices, RGB masks their first channel."""
    if is_h5(path):
        return _whole_numbers(_h5(path, "label", axes=2), path)
    try:
        with Image.open(path) as image:
            check_pixels(path, image.width, image.height)
            image.load()
            if image.mode in ("P", "L", "I", "1") or image.mode.startswith("I;16"):
                return np.asarray(image).astype(np.int64)
            return np.asarray(image.convert("RGB"))[..., 0].astype(np.int64)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such mask") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be decoded ({error}); replace or remove the file") from None


def volume_shape(path: str | Path) -> tuple[int, ...]:
    """[X, Y, Z] from the header alone; [H, W] of an .h5 slice. Raises ValueError as `read_volume` does."""
    if is_h5(path):
        return _h5_shape(path)
    if Path(path).is_dir():
        files = _slice_files(path)
        return (*read_image(files[0]).shape[:2], len(files))
    image, _ = _nifti(path, whole=False)
    return tuple(int(n) for n in image.shape)


def read_volume(path: str | Path) -> Volume:
    """NIfTI, .h5, or a folder of slices: three axes, finite, more than one grey value.

    Raises ValueError, naming the file, for anything else, and for a file cut short. A header without a usable
    voxel size (zero, negative, not a number) gives `spacing_mm` None.
    """
    spacing, affine = None, np.eye(4)
    if is_h5(path):
        array = _h5(path, "image", axes=3)
    elif Path(path).is_dir():
        array = _slices(path, read_image)
    else:
        image, array = _nifti(path, whole=True)
        spacing, affine = _spacing(path, image), np.asarray(image.affine)
    array = _finite(array, path)
    if array.size == 0 or array.min() == array.max():
        raise ValueError(f"{path}: holds one value everywhere; it is no image, replace or remove the file")
    return Volume(array, affine, spacing)


def read_label_volume(path: str | Path) -> np.ndarray:
    """[X, Y, Z] integers of a mask; of an .h5 file its dataset `label`. Raises ValueError, naming the file."""
    if is_h5(path):
        return _whole_numbers(_h5(path, "label", axes=3), path)
    if Path(path).is_dir():
        return _slices(path, read_label)
    return _whole_numbers(_nifti(path, whole=True)[1], path)


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts `slice_9` before `slice_10`."""
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", name) if part)


def _slice_files(folder: str | Path) -> list[Path]:
    files = sorted((p for p in Path(folder).iterdir() if is_image(p)), key=lambda p: natural(p.stem))
    if not files:
        raise ValueError(f"{folder}: holds no slice images; a volume is a NIfTI file, an .h5 file or such a folder")
    return files


def _slices(folder: str | Path, read: Callable[[str | Path], np.ndarray]) -> np.ndarray:
    """[H, W, S] of a folder of grey slices."""
    slices: list[np.ndarray] = []
    for path in _slice_files(folder):
        slice_ = read(path)
        if slice_.ndim == 3:  # grey, saved as colour
            slice_ = np.asarray(Image.fromarray(slice_).convert("L"))
        if slices and slice_.shape != slices[0].shape:
            raise ValueError(f"{path}: is {slice_.shape}, the slices before it are {slices[0].shape} (rows, columns)")
        slices.append(slice_)
    return np.stack(slices, axis=-1)


def _finite(array: np.ndarray, path: str | Path) -> np.ndarray:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{path}: holds NaN or infinite values; mend or remove the file")
    return array


def _whole_numbers(array: np.ndarray, path: str | Path) -> np.ndarray:
    if array.dtype.kind != "f":
        return array
    whole = np.rint(_finite(array, path))
    if (whole != array).any():
        raise ValueError(f"{path}: a mask must hold whole numbers, this one holds {array[whole != array][0]:g}")
    return whole.astype(np.int64)


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
    if len(image.shape) != 3:
        hint = "a 2-D recipe reads PNG slices" if len(image.shape) == 2 else "split it first"
        raise ValueError(f"{path}: a volume must have 3 axes, this one has shape {image.shape}; {hint}")
    return image, array


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
    return tuple(float(v) for v in zooms) if all(np.isfinite(v) and v > 0 for v in zooms) else None


def _h5(path: str | Path, name: str, *, axes: int) -> np.ndarray:
    """One dataset, read whole. `label` is not touched while `image` is asked for."""
    with decoding(path, "HDF5"), _h5_file(path) as file:
        if name not in file:
            raise ValueError(f"{path}: has no dataset {name!r}, only {sorted(file)}; rename it")
        found = inside(file, name, path=path)
        shape = found.shape
        if len(shape) != axes:
            hint = "a 3-D recipe needs whole volumes" if axes == 3 else "is it a volume?"
            raise ValueError(f"{path}: {name!r} must have {axes} axes, it has shape {shape}; {hint}")
        try:
            check_bytes(path, shape, found.dtype.itemsize)
            return np.asarray(found)
        except OSError as error:
            raise ValueError(f"{path}: {name!r} cannot be read ({error}); copy the file again") from None


def h5_datasets(path: str | Path) -> tuple[str, ...]:
    """The names inside an .h5 file; nothing is read."""
    with decoding(path, "HDF5"), _h5_file(path) as file:
        return tuple(sorted(file))


def _h5_shape(path: str | Path) -> tuple[int, ...]:
    with decoding(path, "HDF5"), _h5_file(path) as file:
        if "image" not in file:
            raise ValueError(f"{path}: has no dataset 'image', only {sorted(file)}; rename it")
        shape = tuple(int(n) for n in inside(file, "image", path=path).shape)
    if len(shape) not in (2, 3):
        raise ValueError(f"{path}: 'image' must have 2 or 3 axes, it has shape {shape}; split it first")
    return shape


def _h5_file(path: str | Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise ValueError(f"{path}: reading .h5 needs h5py; pip install h5py") from None
    try:
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as HDF5 ({error}); copy the file again") from None


def to_uint8(array: np.ndarray, *, window: tuple[float, float] | None = None) -> np.ndarray:
    """uint8 passes untouched. Other depths are mapped from `window`, or from the 0.5 to 99.5 percentiles."""
    if array.dtype == np.uint8:
        return array
    low, high = window if window is not None else tuple(float(v) for v in np.percentile(array, (0.5, 99.5)))
    scaled = (array.astype(np.float32) - low) * (255.0 / max(high - low, 1e-6))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def fit_frame(array: np.ndarray, *, size: tuple[int, int], channels: int) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] -> uint8 [*size, channels]: bilinear with antialiasing, as Pillow does it."""
    image = Image.fromarray(array)
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    out = np.asarray(image)
    return out[..., None] if channels == 1 else out


def fit_label(label: np.ndarray, *, size: tuple[int, int]) -> np.ndarray:
    """Integers [H, W] -> uint8 [*size], nearest neighbour."""
    label = label.astype(np.uint8)
    if label.shape == tuple(size):
        return label
    return np.asarray(Image.fromarray(label).resize((size[1], size[0]), Image.Resampling.NEAREST))
