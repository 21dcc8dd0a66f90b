"""Write the files of a data report: data.html, data.json, recipe.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemt.data_report.finding import Example, Finding
from edgemt.data_report.inspect_folder import Inspection
from edgemt.data_report.listing import Item
from edgemt.data_report.scan import as_picture, class_indices
from edgemt.io.atomic import write_text
from edgemt.report import plain
from edgemt.report.data_page import beside, data_page, drawn

_PICTURES = {"error": 6, "warning": 6, "note": 4}  # of one finding
_NOT_DRAWN = ("near_copy_of_patient", "images_without_mask")


def write_report(
    folder: Path, record: Mapping[str, Any], found: Inspection, findings: Sequence[Finding], *, pictures: bool
) -> tuple[Path, ...]:
    """Write the three files into `folder`; returns their paths, the page first."""
    record = plain(record)
    shown = {n: _pictures(one, found) for n, one in enumerate(findings)} if pictures else {}
    paths = folder / "data.html", folder / "data.json", folder / "recipe.json"
    write_text(paths[0], data_page(record, shown))
    write_text(paths[1], json.dumps(record, indent=1, allow_nan=False) + "\n")
    write_text(paths[2], json.dumps(record["suggestion"], indent=1, allow_nan=False) + "\n")
    return paths


def _pictures(one: Finding, found: Inspection) -> list[tuple[str, np.ndarray]]:
    """Caption and picture of the first files of a finding that can be drawn."""
    shown: list[tuple[str, np.ndarray]] = []
    for example in one.examples if one.kind not in _NOT_DRAWN else ():
        if example.image and len(shown) < _PICTURES[one.severity] and (picture := _picture(example, found)) is not None:
            shown.append((f"{Path(example.file).name}: {example.detail}", picture))
    return shown


def _picture(example: Example, found: Inspection) -> np.ndarray | None:
    """The image with its mask; beside it the second image, or the same with a prediction. None: cannot be read."""
    items = {s.item.image: s.item for s in found.scans}
    try:
        first = _with_mask(items[example.image], found, example.slice)
        if example.prediction is not None:
            image = as_picture(items[example.image], found.options, slice_=example.slice)
            return beside([first, drawn(image, example.prediction)])
        return beside([first, _with_mask(items[example.other], found, None)]) if example.other else first
    except (ValueError, KeyError, IndexError):
        return None


def _with_mask(item: Item, found: Inspection, slice_: int | None) -> np.ndarray:
    image = as_picture(item, found.options, slice_=slice_)
    mask = class_indices(item, found.options) if item.label is not None else None
    if mask is not None and mask.ndim == 3:
        mask = np.ascontiguousarray(mask[..., mask.shape[-1] // 2 if slice_ is None else slice_])
    shown = mask if mask is not None and mask.shape == image.shape[:2] else None
    return drawn(image, shown, overlapping=found.meaning.overlapping)
