"""DICOM files as frames: which belong together, and their pixels as they are meant to be looked at.

Shapes: F frames, H W size in pixels.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemt.frames import to_uint8

_SUFFIXES = (".dcm", ".dicom", ".ima", "")
_MOST_PIXELS = 1 << 31  # of one file; more would fill the memory


def pixels_of(image: Any) -> np.ndarray:
    """uint8 [F, H, W] or [F, H, W, 3], as it is meant to be looked at."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

    path = path_of(image)
    try:
        raw = pixel_array(image)
    except Exception as error:  # each decoder has its own
        raise ValueError(f"{path}: its pixels cannot be decoded ({said(error)}); convert it to plain DICOM") from None
    if raw.ndim == 2 or (raw.ndim == 3 and image.SamplesPerPixel == 3 and int(image.get("NumberOfFrames") or 1) == 1):
        raw = raw[None]
    if image.SamplesPerPixel == 1:
        raw = apply_voi_lut(apply_modality_lut(raw, image), image)
    pixels = to_uint8(raw)
    return 255 - pixels if image.PhotometricInterpretation == "MONOCHROME1" else pixels


def series_of(inputs: Sequence[Path]) -> list[list[Any]]:
    """Datasets by series, in the order of their instance numbers; what cannot share a SEG stands alone.

    Raises ValueError, in one line that names the file or folder, for what is no DICOM image.
    """
    found: dict[Any, list[Any]] = defaultdict(list)
    for path in _files(inputs):
        image = _read(path)
        alone = path if int(image.get("NumberOfFrames") or 1) > 1 or "FrameOfReferenceUID" not in image else None
        found[image.get("SeriesInstanceUID"), image.Rows, image.Columns, alone].append(image)
    return [sorted(images, key=lambda image: int(image.get("InstanceNumber") or 0)) for images in found.values()]


def _read(path: Path) -> Any:
    pydicom = library("pydicom")
    try:
        image = pydicom.dcmread(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except Exception as error:  # the library raises many kinds
        raise ValueError(f"{path}: cannot be read as DICOM ({said(error)}); export it again") from None
    if "PixelData" not in image or "Rows" not in image:
        raise ValueError(f"{path}: holds no picture; name files of images")
    pixels = int(image.Rows) * int(image.Columns) * int(image.get("NumberOfFrames") or 1)
    if not 0 < pixels < _MOST_PIXELS:
        raise ValueError(f"{path}: says that it has {pixels} pixels; export it again, in parts")
    return image


def _files(inputs: Sequence[Path]) -> list[Path]:
    out: list[Path] = []
    for given in inputs:
        if given.is_dir():
            inside = sorted(p for p in given.iterdir() if p.is_file() and p.suffix.lower() in _SUFFIXES)
            inside = [p for p in inside if not p.name.startswith((".", "DICOMDIR")) and not p.name.endswith(".seg.dcm")]
            if not inside:
                raise ValueError(f"{given}: holds no DICOM file; name another folder")
            out += inside
        else:
            out.append(given)
    if not out:
        raise ValueError("inputs: none given; name DICOM files or folders of them")
    return out


def path_of(image: Any) -> str:
    return os.fspath(getattr(image, "filename", "") or "image")


def said(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def library(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise ValueError(f"format dicom-seg: needs {name}; pip install highdicom pydicom") from None
