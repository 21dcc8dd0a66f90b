"""The report of a run: report.html for reading, report.json for machines, three pictures for slides.

    write_report(folder, record, gallery)

`record` is a plain mapping: name, created, recipe, device, classes, counts, stages, controls, curves, bench,
messages; "delivered" may name the stage that is shipped (otherwise it is the fastest of the last stages).
`gallery` is a list of {"name", "image": uint8 [H, W, K], "masks": {"true"|"teacher"|...: integers [H, W]}}.
Shapes: H W size in pixels, K image channels (1 grey, 3 RGB).
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemt.io.atomic import atomic_write, write_text
from edgemt.report import figures
from edgemt.report.gallery import contact_sheet
from edgemt.report.run_page import page

__all__ = ["plain", "write_report"]


def write_report(
    folder: str | Path, record: Mapping[str, Any], gallery: Sequence[Mapping[str, Any]] = ()
) -> tuple[Path, ...]:
    """Write report.html, report.json and the pictures there is something for; return what was written.

    The accuracy and curve pictures need matplotlib and are left out, with a warning, where it is missing.
    """
    folder, record = Path(folder), plain(record)
    write_text(folder / "report.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    pictures = _pictures(record)
    inlined = pictures and {
        name: figures.inline_svg(picture, figures.TITLES[name]) for name, picture in pictures.items()
    }
    write_text(folder / "report.html", page(record, gallery, inlined))
    written = [folder / "report.html", folder / "report.json"]
    classes = [str(c) for c in record.get("classes") or ()]
    sheet = contact_sheet(classes, gallery, overlapping=bool(record.get("overlapping")))
    if sheet is not None:
        with atomic_write(folder / "gallery.png") as part:
            sheet.save(part, "PNG", compress_level=4)  # the default takes twice as long for 1 to 3 % of the size
        written.append(folder / "gallery.png")
    for name, picture in (pictures or {}).items():
        figures.save_png(picture, folder / f"{name}.png")
        written.append(folder / f"{name}.png")
    return tuple(written)


def _pictures(record: Mapping[str, Any]) -> dict[figures.Picture, Any] | None:
    """The pictures as figures of matplotlib; None, with a warning, where it is missing."""
    try:
        return figures.draw_pictures(record)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        warnings.warn(
            "accuracy_latency.png and curves.png are left out: matplotlib is missing; pip install matplotlib",
            stacklevel=3,
        )
        return None


def plain(value: Any) -> Any:
    """The same value in JSON's own types: NaN and infinities become null, paths become strings."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
