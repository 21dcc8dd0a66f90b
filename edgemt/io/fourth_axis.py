"""NIfTI files with a fourth axis: the channels of a case, as Task01 and Task05 of the Medical Segmentation Decathlon.

Such a file stands once for each channel in `Case.channels`. No header tells channels from moments of a time series, so
the names of the channels must be given, as many as there are images, and nothing may indicate time.

Facts: https://nifti.nimh.nih.gov/nifti-1/documentation/nifti1fields (xyzt_units, pixdim[4], intent codes). ITK writes
the unit seconds into every file, with the step 0 or 1: these two tell nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgemt.io.file_types import is_volume
from edgemt.io.geometry import Geometry

STACKED = "files with a fourth axis have them all along it"
_TIME_SERIES = 2001  # NIFTI_INTENT_TIME_SERIES
_TIME_UNITS = ("sec", "msec", "usec")
_NAME = re.compile(r"(?:^|[^a-z0-9])(4d|cine|bold|fmri|dce|dsc|dwi|time)(?=$|[^a-z0-9])")


def time_hint(header: Any) -> str:
    """What a header of nibabel states of time along the fourth axis; empty where it states nothing."""
    if int(header["intent_code"]) == _TIME_SERIES:
        return "its header calls it a time series"
    unit, step = header.get_xyzt_units()[1], float(header["pixdim"][4])
    return f"its header states a step of {step:g} {unit}" if unit in _TIME_UNITS and step not in (0.0, 1.0) else ""


def is_stacked(files: Sequence[Path | str | None]) -> bool:
    """Whether the files of the channels of a case are one file with a fourth axis."""
    there = {str(file) for file in files if file}
    return len(files) > 1 and len(there) == 1 and is_volume(there.pop())


def check_fourth_axis(path: str | Path, geometry: Geometry, names: Sequence[str]) -> None:
    """Raises ValueError for a file whose fourth axis is not that of the channels `names`; none for one image a file.

    A file without a fourth axis passes.
    """
    count = geometry.channels
    if count == 1:
        return
    shape = (*geometry.shape, count)
    if not names:
        raise ValueError(
            f"{path}: a volume must have 3 axes, this one has shape {shape}; if the {count} are channels of a case, "
            "name them in their order in training: --data.channel-names; split a time series into one file each"
        )
    listed = ", ".join(names)
    if count != len(names):
        raise ValueError(
            f"{path}: has {count} images along its fourth axis (shape {shape}), the channels are {len(names)} "
            f"({listed}); name as many channels, in the order of the file"
        )
    found = _NAME.search(Path(path).name.casefold())
    hint = geometry.time or (f"its name has {found[1]!r}" if found else "")
    if hint:
        raise ValueError(
            f"{path}: its {count} images may be moments of a time series ({hint}), not the channels {listed}; write "
            "one file a channel, CASE_0000.nii.gz and so on, or, if they are channels, take that out of the file"
        )
