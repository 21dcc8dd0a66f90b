"""DICOM files of a study: which are pictures, which belong together, and the one window of those that do.

Shapes: F frames, H W size in pixels.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.dicom.pixels import AUTO, DicomFile, NotAPicture, Range, Window, first_line, is_dicom, window_of
from edgemt.io.atomic import Failures
from edgemt.io.bit_depth import Depth

_SUFFIXES = (".dcm", ".dicom", ".ima")
SEG_SUFFIX = ".seg.dcm"
said = first_line


@dataclass(frozen=True)
class Series:
    """Files that share a segmentation, in the order of their instance numbers, and how grey values are seen."""

    files: tuple[DicomFile, ...]
    window: Window | Range | None

    @property
    def images(self) -> list[Any]:
        return [file.header for file in self.files]

    def frames(self, file: DicomFile) -> np.ndarray:
        """uint8 [F, H, W] or [F, H, W, 3] of one of the files."""
        return np.stack([file.view(k, self.window) for k in range(file.count)])

    def about(self) -> str | None:
        """One line where grey values of several files were seen through one window."""
        if len(self.files) < 2 or self.window is None:
            return None
        what = f"{self.files[0].path}: {len(self.files)} slices as one volume"
        if isinstance(self.window, Range):
            return f"{what}, values {self.window.low:g} to {self.window.high:g} of all of them, as in training"
        return f"{what}, window {self.window.centre:g}/{self.window.width:g} of the files"


def series_of(
    inputs: Sequence[Path], *, depth: Depth = AUTO, failures: Failures | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Series]:  # fmt: skip
    """The pictures among `inputs`, files or folders of them, by series; what cannot share a SEG stands alone.
    `depth`: the rule by which the model's training made eight bits of grey values.

    In a folder, objects of other kinds (reports, presentation states) are left out and named to `tell`. Raises
    ValueError, in one line that names the file or folder, for what is no DICOM image; with `failures`, only where
    nothing can be read at all.
    """
    found: dict[Any, list[DicomFile]] = defaultdict(list)
    named = {path for path in inputs if not path.is_dir()}
    others: list[str] = []
    for path in _files(inputs):
        try:
            file = DicomFile(path)
        except NotAPicture as error:
            if path in named:
                raise
            others.append(str(error))
            continue
        except ValueError as error:
            if failures is None:
                raise
            failures.add(path, error)
            continue
        header = file.header
        alone = path if "NumberOfFrames" in header or "FrameOfReferenceUID" not in header else None
        found[header.get("SeriesInstanceUID"), file.size, header.PhotometricInterpretation, alone].append(file)
    if others:
        tell(
            f"left out, no pictures: {'; '.join(others[:5])}{f' and {len(others) - 5} more' if len(others) > 5 else ''}"
        )
    if not found and not failures:
        raise ValueError(f"{inputs[0]}: holds no DICOM picture; name another folder")
    return [_series(sorted(files, key=_number), depth) for files in found.values()]


def _series(files: list[DicomFile], depth: Depth) -> Series:
    if not files[0].grey:
        return Series(tuple(files), None)
    try:
        return Series(tuple(files), window_of(files, depth))
    except ValueError:  # one of them is damaged; which one is told when its turn comes
        sound = [file for file in files if _decodes(file)]
        return Series(tuple(files), window_of(sound, depth) if sound else None)


def _decodes(file: DicomFile) -> bool:
    try:
        return all(file.values(k) is not None for k in range(file.count))
    except ValueError:
        return False


def _number(file: DicomFile) -> int:
    return int(file.header.get("InstanceNumber") or 0)


def _files(inputs: Sequence[Path]) -> list[Path]:
    out: list[Path] = []
    for given in inputs:
        if given.is_dir():
            inside = [path for path in sorted(given.iterdir()) if _is_candidate(path)]
            if not inside:
                raise ValueError(f"{given}: holds no DICOM file; name another folder")
            out += inside
        else:
            out.append(given)
    if not out:
        raise ValueError("inputs: none given; name DICOM files or folders of them")
    return list(dict.fromkeys(out))


def _is_candidate(path: Path) -> bool:
    """By suffix, or by content: many archives name files by their UID, without a suffix."""
    if not path.is_file() or path.name.startswith((".", "DICOMDIR")) or path.name.endswith(SEG_SUFFIX):
        return False
    return path.suffix.lower() in _SUFFIXES or path.suffix == "" or is_dicom(path)


def path_of(image: Any) -> str:
    return os.fspath(getattr(image, "filename", "") or "image")


def library(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise ValueError(f"format dicom-seg: needs {name}; pip install highdicom pydicom") from None
