"""How a file becomes the uint8 frame that a network eats: the same functions in training and on the device.

Shapes: H W size in pixels, K channels (1 grey, 3 RGB).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
VOLUME_SUFFIXES = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Volume:
    """`array` [X, Y, Z] with scaled values; `spacing_mm` one number an axis, from the header as it stands."""

    array: np.ndarray
    affine: np.ndarray
    spacing_mm: tuple[float, ...]


def is_image(path: str | Path) -> bool:
    return str(path).lower().endswith(IMAGE_SUFFIXES)


def is_volume(path: str | Path) -> bool:
    return str(path).lower().endswith(VOLUME_SUFFIXES)


def read_image(path: str | Path) -> np.ndarray:
    """[H, W] or [H, W, 3], uint8 or uint16. ValueError names a file that cannot be decoded whole."""
    try:
        with Image.open(path) as image:
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
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode in ("P", "L", "I", "1") or image.mode.startswith("I;16"):
                return np.asarray(image).astype(np.int64) if image.mode != "1" else np.asarray(image).astype(np.int64)
            return np.asarray(image.convert("RGB"))[..., 0].astype(np.int64)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such mask") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be decoded ({error}); replace or remove the file") from None


def volume_shape(path: str | Path) -> tuple[int, int, int]:
    """Of a 3-D NIfTI file, from its header alone. Raises ValueError as `read_volume` does."""
    image, _ = _nifti(path, whole=False)
    return tuple(int(n) for n in image.shape)  # type: ignore[return-value]


def read_volume(path: str | Path) -> Volume:
    """A 3-D NIfTI file. Raises ValueError, naming the file, for anything else, and for a gzip cut short."""
    image, array = _nifti(path, whole=True)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{path}: holds NaN or infinite values; mend or remove the file")
    spacing = tuple(float(v) for v in image.header.get_zooms()[:3])
    return Volume(array, np.asarray(image.affine), spacing)


def _nifti(path: str | Path, *, whole: bool) -> tuple[Any, np.ndarray]:
    try:
        import nibabel
    except ImportError:
        raise ValueError(f"{path}: reading NIfTI needs nibabel; pip install nibabel") from None
    try:
        image: Any = nibabel.load(path)
        array = np.asarray(image.dataobj) if whole else np.empty(0)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such volume") from None
    except (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError) as error:
        raise ValueError(f"{path}: cannot be read as NIfTI ({error}); copy the file again") from None
    if len(image.shape) != 3:
        raise ValueError(f"{path}: a volume must have 3 axes, this one has shape {image.shape}; split it first")
    return image, array


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
