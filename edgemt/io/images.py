"""How a file becomes the uint8 frame that a network eats: the same functions in training and on the device.

A volume is a NIfTI file, an .h5 file with the datasets `image` and `label`, or a folder of slice images, which
are stacked in the order of the numbers in their names: slice 10 follows slice 9, not slice 1. docs/reading.md lists
what is read, how, and what is refused.

Shapes: H W size in pixels, K channels (1 grey, 3 RGB), X Y Z voxels of a volume, slices along Z.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgemt.io.array_values import check_finite, to_unsigned_integers
from edgemt.io.decode_errors import Refused
from edgemt.io.decode_limits import check_pixels
from edgemt.io.file_types import is_h5
from edgemt.io.hdf5 import read_dataset

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # of Pillow; it opens many more by their content
# what Pillow raises for damaged files: its plugins let through whatever goes wrong in them
_BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError),
    *(EOFError, struct.error, Image.DecompressionBombError),
)
_ORIENTATION, _XMP = 0x0112, "XML:com.adobe.xmp"
_DEEP_COLOUR = "pip install opencv-python-headless, or save it with 8 bits a channel"


class Header(NamedTuple):
    """Of an image file, without decoding it."""

    size: tuple[int, int]  # rows, columns as stored
    deep: bool  # more than eight bits a channel
    orientation: int  # EXIF, 1 to 8
    mode: str  # Pillow's


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
            known = image.format != "PNG" or {"exif", _XMP} & set(image.info)  # a PNG would be decoded for it
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
        return check_finite(read_dataset(path, "image", axes=2), path)
    with opened_image(path) as (image, turn):
        array = deep_channels(image, path)[..., :3] if is_deep_colour(image) else _plain(image, path)
        return check_finite(upright(array, turn), path)


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
    """The numbers of an image that `is_grey`, [H, W].

    They are uint8 and uint16 where that is what the file holds, int32, uint32 or float32 otherwise. Raises ValueError
    for a TIFF of 32 bits whose smallest value is white.
    """
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
    image._edgemt_deep = ";16" in _rawmode(image)  # type: ignore[attr-defined]  # lost once the image is decoded
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
        return to_unsigned_integers(read_dataset(path, "label", axes=2), path)
    with opened_image(path, what="mask") as (image, _):
        if image.mode in ("P", "L", "I", "1", "F") or image.mode.startswith("I;16"):
            return to_unsigned_integers(np.asarray(image), path)
        colours = np.asarray(image.convert("RGB"))
    if (colours != colours[..., :1]).any():
        raise ValueError(f"{path}: a colour mask, its three channels differ; write class indices")
    return np.ascontiguousarray(colours[..., 0])


def as_grey(array: np.ndarray) -> np.ndarray:
    """[H, W, 3] -> [H, W] of the same kind, by luminance."""
    if array.dtype == np.uint8:
        return np.asarray(Image.fromarray(array).convert("L"))
    return (array.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)).astype(array.dtype)


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
    """uint8 [H, W] or [H, W, 3] -> uint8 [*size, channels]: bilinear with antialiasing, as Pillow does it.

    With other numbers of `channels` the array has as many planes, [H, W, channels], and each is fitted by itself.
    """
    if channels not in (1, 3):
        if array.ndim != 3 or array.shape[2] != channels:
            raise ValueError(f"fit_frame: an array of shape {array.shape} has not the {channels} planes of a frame")
        planes = (np.ascontiguousarray(array[..., k]) for k in range(channels))
        return np.concatenate([fit_frame(plane, size=size, channels=1) for plane in planes], axis=2)
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
