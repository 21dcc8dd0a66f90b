"""DICOM files of a study: the images among them, grouped by series, with one window for each series.

Shapes: F frames, H W size in pixels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.dicom.header import NotAnImageError, is_dicom
from deploy.dicom.pixels import AUTO, DicomFile, window_of
from deploy.dicom.windows import Range, Window
from edgemt.io.atomic import Failures
from edgemt.io.bit_depth import Depth

_SUFFIXES = (".dcm", ".dicom", ".ima")
SEG_SUFFIX = ".seg.dcm"


@dataclass(frozen=True)
class Series:
    """Files that share a segmentation, in the order of their instance numbers, and their common window."""

    files: tuple[DicomFile, ...]
    window: Window | Range | None

    @property
    def images(self) -> list[Any]:
        return [file.header for file in self.files]

    def frames(self, file: DicomFile) -> np.ndarray:
        """uint8 [F, H, W] or [F, H, W, 3] of one of the files."""
        return np.stack([file.view(k, self.window) for k in range(file.count)])

    def about(self) -> str | None:
        """One line that names the common window, where several grey files share one; else None."""
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
    """The images among `inputs` (files, or folders of them) by series; an image that cannot share a SEG is alone.

    Slices of several orientations, as of a localizer, are a `Series` for each; so are slices in one place, as the
    phases of a cine: the second one of each place and orientation belongs to the second `Series`.

    `depth`: the rule by which training converted grey values to 8 bits.

    In a folder, objects of other kinds (reports, presentation states) are skipped and reported to `tell`. Raises
    ValueError, in one line that names the file or folder, for a file that is no DICOM image; with `failures`, only
    where nothing can be read at all.
    """
    by_series: dict[Any, list[DicomFile]] = defaultdict(list)
    named = {path for path in inputs if not path.is_dir()}
    skipped: list[str] = []
    for path in _files(inputs):
        try:
            file = DicomFile(path)
        except NotAnImageError as error:
            if path in named:
                raise
            skipped.append(str(error))
            continue
        except ValueError as error:
            if failures is None:
                raise
            failures.add(path, error)
            continue
        header = file.header
        single = path if "NumberOfFrames" in header or "FrameOfReferenceUID" not in header else None
        key = (header.get("SeriesInstanceUID"), file.size, header.PhotometricInterpretation, single)
        by_series[(*key, _rounded(header.get("ImageOrientationPatient")))].append(file)
    if skipped:
        more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        tell(f"left out, no pictures: {'; '.join(skipped[:5])}{more}")
    if not by_series and not failures:
        raise ValueError(f"{inputs[0]}: holds no DICOM picture; name another folder")
    stacks = [stack for files in by_series.values() for stack in _stacks(sorted(files, key=_number))]
    return [_series(files, depth) for files in stacks]


def _stacks(files: list[DicomFile]) -> list[list[DicomFile]]:
    """The first file of each place, the second of each place, and so on; one list where no place is there twice."""
    stacks: list[list[DicomFile]] = []
    seen: dict[tuple[float, ...], int] = {}
    for file in files:
        place = _rounded(file.header.get("ImagePositionPatient"))
        number = seen.get(place, 0) if place else 0
        seen[place] = number + 1
        if number == len(stacks):
            stacks.append([])
        stacks[number].append(file)
    return stacks


def _rounded(values: Any) -> tuple[float, ...]:
    """Numbers of an element to a thousandth; empty for an absent or damaged one."""
    try:
        return tuple(round(float(value), 3) for value in values or ())
    except (TypeError, ValueError):
        return ()


def _series(files: list[DicomFile], depth: Depth) -> Series:
    if not files[0].grey:
        return Series(tuple(files), None)
    try:
        return Series(tuple(files), window_of(files, depth))
    except ValueError:  # one of them is damaged; it is reported when it is read
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
    """True for a DICOM file by suffix or content: many archives name files by their UID, without a suffix."""
    if not path.is_file() or path.name.startswith((".", "DICOMDIR")) or path.name.endswith(SEG_SUFFIX):
        return False
    return path.suffix.lower() in _SUFFIXES or path.suffix == "" or is_dicom(path)


def library(name: str) -> Any:
    """Import pydicom or highdicom. Raises ValueError, naming what to install."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise ValueError(f"format dicom-seg: needs {name}; pip install highdicom pydicom") from None
