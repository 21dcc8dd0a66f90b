"""How a file becomes the uint8 frame that a network eats: the same functions in training and on the device.

A volume is a NIfTI file, an .h5 file with the datasets `image` and `label`, or a folder of slice images, which
are stacked in the order of the numbers in their names: slice 10 follows slice 9, not slice 1. docs/reading.md lists
what is read, how, and what is refused.

Shapes: H W size in pixels, K channels (1 grey, 3 RGB), X Y Z voxels of a volume, slices along Z.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from logging import Logger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgemt.io.decode_errors import Refused, decoding
from edgemt.io.decode_limits import check_bytes, check_pixels
from edgemt.io.geometry import Geometry, align, arranged, arranged_sizes
from edgemt.io.hdf5_links import inside

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
VOLUME_SUFFIXES = (".nii", ".nii.gz")
H5_SUFFIXES = (".h5", ".hdf5")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # of Pillow; it opens many more by their content
# what Pillow raises for damaged files: its plugins let through whatever goes wrong in them
_BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError),
    *(EOFError, struct.error, Image.DecompressionBombError),
)
NEAR_WHOLE = 1e-3  # so far from a whole number a label may be, as resampling in float leaves it
_CONVERT = {
    **dict.fromkeys((".nrrd", ".nhdr", ".mha", ".mhd"), "SimpleITK.WriteImage(SimpleITK.ReadImage(IN), 'OUT.nii.gz')"),
    **dict.fromkeys((".mgz", ".mgh", ".img", ".hdr", ".mnc"), "nibabel.save(nibabel.load(IN), 'OUT.nii.gz')"),
    **dict.fromkeys((".dcm", ".dicom", ".ima"), "dcm2niix -z y FOLDER"),
    **dict.fromkeys((".gif", ".jp2", ".j2k", ".ppm", ".pgm", ".npy", ".npz", ".mat", ".svg", ".heic", ".avif"), "PNG"),
}  # fmt: skip
_STRAY = ("__macosx", "thumbs.db", "desktop.ini", "@eadir")
_ORIENTATION = 0x0112
_DEEP_COLOUR = "pip install opencv-python-headless, or save it with 8 bits a channel"


@dataclass(frozen=True)
class Volume:
    """`array` [X, Y, Z] with scaled values, in the order that was asked for; `spacing_mm` one number an axis of it, if
    the header has it. `affine`, `codes` and `header` (of nibabel) are those of the file as it is stored."""

    array: np.ndarray
    affine: np.ndarray
    spacing_mm: tuple[float, ...] | None
    codes: str = ""
    header: Any = None


class Header(NamedTuple):
    """Of an image file, without decoding it."""

    size: tuple[int, int]  # rows, columns as stored
    deep: bool  # more than eight bits a channel
    orientation: int  # EXIF, 1 to 8
    mode: str  # Pillow's


def is_image(path: str | Path) -> bool:
    return str(path).lower().endswith(IMAGE_SUFFIXES)


def is_volume(path: str | Path) -> bool:
    return str(path).lower().endswith(VOLUME_SUFFIXES)


def is_stray(path: str | Path) -> bool:
    """Files and folders that systems and editors leave behind: names that begin with a dot, __MACOSX, Thumbs.db ..."""
    name = os.path.basename(path)
    return name.startswith(".") or name.lower() in _STRAY


def is_slice_folder(path: str | Path) -> bool:
    if is_stray(path) or not Path(path).is_dir():
        return False
    return any(is_image(inside) and not is_stray(inside) for inside in Path(path).iterdir())


def is_h5(path: str | Path) -> bool:
    return str(path).lower().endswith(H5_SUFFIXES)


def stem_of(path: str | Path) -> str:
    """The file name without its suffix; `.nii.gz` is one suffix."""
    name = os.path.basename(path)
    return name[:-7] if name.lower().endswith(".nii.gz") else os.path.splitext(name)[0]


def not_read(path: str | Path) -> str | None:
    """For a file of a known kind that is not read: one line that says how to convert it. None for any other file."""
    name = Path(path).name.lower().removesuffix(".gz")
    how = next((how for suffix, how in _CONVERT.items() if name.endswith(suffix)), None)
    if how is None:
        return None
    way = "with" if " " in how or "(" in how else "to"
    return f"{path}: {Path(name).suffix} is not read; convert it {way} {how}"


@contextmanager
def opened_image(path: str | Path, *, what: str = "image") -> Iterator[tuple[Image.Image, int]]:
    """A decoded Pillow image as it is stored, and its EXIF orientation, 1 to 8.

    Raises ValueError, naming the file, for what is not there, not whole, or has several pages.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            check_pixels(path, image.width, image.height)
            _one_page(image, path)
            turn = _orientation(image)
            if image.format == "TIFF":
                image.filename = ""  # type: ignore[attr-defined]  # or Pillow maps it with the sides of the turned one
            image.load()
            yield image, turn
    except FileNotFoundError:
        raise ValueError(f"{path}: no such {what}") from None
    except Refused:
        raise
    except _BROKEN as error:
        raise _undecodable(path, error) from None


def image_header(path: str | Path) -> Header:
    """Raises ValueError as `read_image` does; pixels are not decoded."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            known = image.format != "PNG" or "exif" in image.info  # a PNG would be decoded for it
            turn, size = _orientation(image) if known else 1, (image.height, image.width)
            if image.format == "TIFF":  # Pillow turns these by itself, its size may be that of the turned picture
                turn = int(_tag(image, _ORIENTATION) or 1)
                size = (int(_tag(image, 257)), int(_tag(image, 256)))
            return Header(size, _deep(image), turn if 1 <= turn <= 8 else 1, image.mode)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such image") from None
    except _BROKEN as error:
        raise _undecodable(path, error) from None


def _undecodable(path: str | Path, error: Exception) -> ValueError:
    if isinstance(error, UnidentifiedImageError):
        kind = "a kind of TIFF that is not read, such as float64" if is_tiff(path) else f"none of {', '.join(FORMATS)}"
        remedy = "save it with 16 bits, or float32" if is_tiff(path) else "convert it to PNG, or remove it"
        return ValueError(f"{path}: cannot be decoded ({kind}); {remedy}")
    reason = str(error).replace(str(path), "").replace("''", "").strip()
    return ValueError(f"{path}: cannot be decoded ({reason}); replace or remove the file")


def is_tiff(path: str | Path) -> bool:
    """By content."""
    with open(path, "rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_image(path: str | Path) -> np.ndarray:
    """[H, W] or [H, W, 3] at full depth, upright: uint8, uint16, int32 or float32; an .h5 slice as it is stored.

    An EXIF orientation is applied. Raises ValueError, naming the file, for one that is not whole, has several pages,
    or more than eight bits a colour where OpenCV is not installed.
    """
    if is_h5(path):
        return _finite(_h5(path, "image", axes=2), path)
    with opened_image(path) as (image, turn):
        array = deep_channels(image, path)[..., :3] if is_deep_colour(image) else _plain(image, path)
        return _finite(upright(array, turn), path)


def _plain(image: Image.Image, path: str | Path) -> np.ndarray:
    if is_grey(image):
        return grey_values(image, path)
    if image.mode in ("1", "LA"):
        return np.asarray(image.convert("L"))
    return np.asarray(image.convert("RGB"))


def is_grey(image: Image.Image) -> bool:
    """Whether a Pillow image has one number a pixel, of more than one bit, that is no palette index."""
    return image.mode in ("L", "I", "F") or image.mode.startswith("I;16")


def grey_values(image: Image.Image, path: str | Path) -> np.ndarray:
    """The numbers of an image that `is_grey`, [H, W]: uint8 and uint16 where that is what the file holds, int32,
    uint32 or float32 otherwise. Raises ValueError for a TIFF of 32 bits whose smallest value is white."""
    array = np.asarray(image)
    if image.mode == "L":
        return array.view(np.int8).astype(np.int32) if _tag(image, 339) == 2 else array
    if image.mode.startswith("I;16"):
        array = array.astype(np.uint16)
    elif _tag(image, 258) == 32 and _tag(image, 339) == 1:
        array = array.view(np.uint32)  # Pillow has no unsigned kind of 32 bits
    if _tag(image, 262) == 0:  # the smallest value is white
        if not image.mode.startswith("I;16"):
            raise Refused(f"{path}: its smallest value is white (TIFF MinIsWhite), with 32 bits; invert and save it")
        array = ((1 << int(_tag(image, 258))) - 1) - array
    return array


def _tag(image: Image.Image, number: int) -> Any:
    """The first value of a TIFF tag; None elsewhere."""
    tags = getattr(image, "tag_v2", None)
    value = tags.get(number) if tags is not None else None
    return value[0] if isinstance(value, tuple) and value else value


def _rawmode(image: Image.Image) -> str:
    tiles: Any = getattr(image, "tile", None)
    tile = tiles[0] if tiles else None
    return str(tile[3]) if tile is not None else getattr(image, "_edgemt_rawmode", "")


def _deep(image: Image.Image) -> bool:
    signed = image.mode == "L" and _tag(image, 339) == 2
    return image.mode in ("I", "F") or image.mode.startswith("I;16") or is_deep_colour(image) or signed


def is_deep_colour(image: Image.Image) -> bool:
    """16 bits a channel, of which Pillow gives the high byte."""
    if image.format == "TIFF":
        return image.mode in ("RGB", "RGBA", "RGBX", "CMYK") and _tag(image, 258) == 16
    if image.format != "PNG" or image.mode not in ("RGB", "RGBA"):
        return False
    return bool(getattr(image, "_edgemt_deep", ";16" in _rawmode(image)))


def deep_channels(image: Image.Image, path: str | Path) -> np.ndarray:
    """uint16 [H, W, 3], or [H, W, 4] with alpha, of an image that `is_deep_colour`, by OpenCV.

    Raises ValueError, naming the file, for CMYK, for planes one after the other, and where OpenCV is not installed.
    """
    if image.mode == "CMYK":
        raise Refused(f"{path}: CMYK with 16 bits is not read; save it as RGB")
    if _tag(image, 284) == 2:  # OpenCV takes the planes for pixels
        raise Refused(f"{path}: colour with 16 bits in separate planes is not read; save it with pixels interleaved")
    try:
        import cv2
    except ImportError:
        raise Refused(f"{path}: colour with 16 bits a channel needs OpenCV; {_DEEP_COLOUR}") from None
    array = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16 or array.ndim != 3:
        raise Refused(f"{path}: colour with 16 bits a channel that OpenCV cannot decode; save it with 8 bits")
    return np.ascontiguousarray(array[..., [2, 1, 0, 3][: array.shape[2]]])


def _one_page(image: Image.Image, path: str | Path) -> None:
    """Raises for a stack: its further pages would be lost. Previews inside a file are no pages."""
    image._edgemt_deep = ";16" in _rawmode(image)  # type: ignore[attr-defined]  # a decoded image knows it no more
    count = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    if count > 1 and image.format == "TIFF":
        pages = 0
        for k in range(count):
            image.seek(k)
            pages += not int(_tag(image, 254) or 0) & 5  # reduced in size, or a transparency mask
        image.seek(0)
        count = max(pages, 1)
    if count > 1:
        raise Refused(
            f"{path}: holds {count} pages or frames, one is read; split it into files (a folder of slices is a volume)"
        )


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(_ORIENTATION, 1)
    return int(value) if isinstance(value, int) and 1 <= value <= 8 and image.format != "TIFF" else 1


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, ...] as stored -> as its EXIF orientation (1 to 8) means it to be looked at."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return np.ascontiguousarray(array) if orientation > 1 else array


def read_label(path: str | Path) -> np.ndarray:
    """[H, W] whole numbers of a mask as stored, in the smallest unsigned kind: palette images give their indices.

    What the numbers mean is decided over a whole set, `edgemt.io.masks`. Raises ValueError for channels that disagree.
    """
    if is_h5(path):
        return whole_numbers(_h5(path, "label", axes=2), path)
    with opened_image(path, what="mask") as (image, _):
        if image.mode in ("P", "L", "I", "1", "F") or image.mode.startswith("I;16"):
            return whole_numbers(np.asarray(image), path)
        colours = np.asarray(image.convert("RGB"))
    if (colours != colours[..., :1]).any():
        raise ValueError(f"{path}: a colour mask, its three channels differ; write class indices")
    return np.ascontiguousarray(colours[..., 0])


def whole_numbers(array: np.ndarray, path: str | Path) -> np.ndarray:
    """The same values in the smallest unsigned kind that holds them; negative ones as int32.

    Numbers within 1e-3 of a whole one are rounded. Raises ValueError, naming the file, for any others.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return (array.view(np.uint8) != 0).view(np.uint8)  # Pillow fills the bytes of a true one
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: a mask must hold whole numbers, this one holds {array.dtype}")
    if array.dtype.kind == "f":
        whole = np.rint(_finite(array, path))
        wrong = np.abs(whole - array) > NEAR_WHOLE
        if wrong.any():
            raise ValueError(f"{path}: a mask must hold whole numbers, this one holds {float(array[wrong][0])!r}")
        array = whole
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    kind = np.int32 if low < 0 else np.uint8 if high < 256 else np.uint16 if high < 65536 else np.uint32
    return array.astype(kind)


def geometry_of(path: str | Path) -> Geometry:
    """Shape, spacing and place from the header alone: [X, Y, Z], or [H, W] of an .h5 slice.

    Raises ValueError as `read_volume` does.
    """
    if is_h5(path):
        return Geometry(_h5_shape(path))
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
    affines = [a for a in affines if np.isfinite(a).all() and abs(np.linalg.det(a[:3, :3])) > 1e-12]
    return Geometry(tuple(int(n) for n in image.shape[:3]), _spacing(path, image), tuple(affines))


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
        with _h5_file(path) as file:
            return "image" not in file or file["image"].dtype != np.uint8
    if Path(path).is_dir():
        return image_header(slice_files(path)[0]).deep
    stat = os.stat(path)
    return _nifti_header(str(path), stat.st_mtime_ns, stat.st_size)[1]


def read_volume(path: str | Path, *, axes: str = "") -> Volume:
    """NIfTI, .h5, or a folder of slices, brought to the order `axes`: three axes, finite, more than one grey value.

    Raises ValueError, naming the file, for anything else, and for a file cut short. A header without a usable
    voxel size (zero, negative, not a number) gives `spacing_mm` None.
    """
    spacing, affine, codes, header = None, np.eye(4), "", None
    if is_h5(path):
        array = _h5(path, "image", axes=3)
    elif Path(path).is_dir():
        array = _slices(path, read_image)
    else:
        image, array = _nifti(path, whole=True)
        geometry = _geometry(path, image)
        spacing, affine, codes, header = geometry.spacing_mm, np.asarray(image.affine), geometry.codes, image.header
    array = several_values(_finite(array, path), path)
    if spacing is not None:
        spacing = arranged_sizes(spacing, codes, axes)
    return Volume(arranged(array, codes, axes), affine, spacing, codes, header)


def several_values(array: np.ndarray, path: str | Path) -> np.ndarray:
    """The array. Raises ValueError, naming the file, when it is empty or holds one value everywhere."""
    if array.size == 0 or array.min() == array.max():
        raise ValueError(f"{path}: holds one value everywhere; it is no image, replace or remove the file")
    return array


def read_label_volume(
    path: str | Path, *, image: str | Path | None = None, axes: str = "", compare: bool = True
) -> np.ndarray:
    """[X, Y, Z] whole numbers of a mask, in the smallest unsigned kind; of an .h5 file its dataset `label`.

    With `image`, NIfTI voxels are brought onto those of the image that they belong to, then both to the order `axes`.
    Raises ValueError, naming the file, and both when `compare` finds them in different places.
    """
    if is_h5(path):
        return arranged(whole_numbers(_h5(path, "label", axes=3), path), "", axes)
    if Path(path).is_dir():
        return arranged(_slices(path, read_label), "", axes)
    read, array = _nifti(path, whole=True)
    own, codes = _geometry(path, read), ""
    array = whole_numbers(array, path)
    if image is not None and is_volume(image):
        theirs = geometry_of(image)
        codes = theirs.codes
        move = align(own, theirs, label_path=path, image_path=image) if compare else None
        if move is not None:
            from nibabel import orientations

            array = np.ascontiguousarray(orientations.apply_orientation(array, move))
    return arranged(array, codes, axes)


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts `slice_9` before `slice_10`."""
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", name) if part)


def slice_files(folder: str | Path) -> list[Path]:
    inside = (p for p in Path(folder).iterdir() if is_image(p) and not is_stray(p))
    files = sorted(inside, key=lambda p: natural(p.stem))
    if not files:
        raise ValueError(f"{folder}: holds no slice images; a volume is a NIfTI file, an .h5 file or such a folder")
    return files


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
            raise ValueError(f"{path}: is {slice_.dtype}, the slices before it are {slices[0].dtype}; save all alike")
        slices.append(slice_)
    return np.stack(slices, axis=-1)


def _finite(array: np.ndarray, path: str | Path) -> np.ndarray:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{path}: holds NaN or infinite values; mend or remove the file")
    return array


def as_grey(array: np.ndarray) -> np.ndarray:
    """[H, W, 3] -> [H, W] of the same kind, by luminance."""
    if array.dtype == np.uint8:
        return np.asarray(Image.fromarray(array).convert("L"))
    return (array.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)).astype(array.dtype)


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
    if len(shape) != 3:
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
    """uint8 passes untouched. Other depths are mapped from `window`, or from the 0.5 to 99.5 percentiles.

    Where both percentiles are one value (a few bright spots on an even ground) the darkest and brightest take their
    place. `edgemt.io.bit_depth` chooses among these for a whole set.
    """
    if array.dtype == np.uint8:
        return array
    ends = window if window is not None else np.percentile(array, (0.5, 99.5))
    low, high = (float(value) for value in ends)
    if window is None and not high > low:
        low, high = float(array.min()), float(array.max())
    wide: type[np.floating[Any]] = np.float64 if array.dtype.kind in "iu" and array.dtype.itemsize > 2 else np.float32
    scaled = (array.astype(wide) - low) * (255.0 / max(high - low, 1e-6))
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
    label = label.astype(np.uint8, copy=False)
    if label.shape == tuple(size):
        return label
    return np.asarray(Image.fromarray(label).resize((size[1], size[0]), Image.Resampling.NEAREST))
