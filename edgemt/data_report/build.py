"""The record of the data report: plain values for JSON and for the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from edgemt.data_report.checks import check_files
from edgemt.data_report.finding import SEVERITIES, Finding, below, ordered
from edgemt.data_report.inspect_folder import Inspection
from edgemt.data_report.listing import PARTS
from edgemt.data_report.pair_checks import check_pairs
from edgemt.data_report.scan import FileScan
from edgemt.io.masks import values_of
from edgemt.io.volumes import geometry_of

FORMAT = 1


def all_findings(found: Inspection, more: Sequence[Finding] = ()) -> list[Finding]:
    """Every finding of an inspected folder, errors first; `more` are those of a teacher or of features."""
    pairs, _ = check_pairs(found.scans)
    single = check_files(found.listing, found.scans, found.meaning, found.refused)
    return below(ordered([*found.listing.findings, *single, *pairs, *more]), str(found.listing.options.root))


def build_record(found: Inspection, findings: Sequence[Finding], *, seconds: float) -> dict[str, Any]:
    """The record; its keys are those that docs/data-report.md lists."""
    listing, scans = found.listing, found.scans
    return {
        "format": FORMAT,
        "root": str(listing.options.root),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "layout": listing.options.layout,
        "size": list(listing.options.size),
        "parts": {part: _part(scans, part) for part in PARTS if any(s.item.part == part for s in scans)},
        "closed_masks": listing.closed_masks,
        "images": _images(found),
        "masks": found.meaning.rule.text,
        "overlapping": found.meaning.overlapping,
        "ignored": _ignored(found),
        "classes": _classes(found),
        "counts": {severity: sum(f.severity == severity for f in findings) for severity in SEVERITIES},
        "findings": [f.to_json() for f in findings],
        "suggestion": found.suggestion().to_json(),
        "files": [_file(s) for s in scans],
    }


def _part(scans: Sequence[FileScan], part: str) -> dict[str, Any]:
    here = [s for s in scans if s.item.part == part]
    read = [s for s in here if s.image.shape]
    slices = [s.image.shape[2] for s in read if not s.item.is_frame and len(s.image.shape) == 3]
    return {
        "files": len(here),
        "slices": sum(slices) or None,
        "patients": len({s.item.patient for s in here}),
        "masks": sum(s.mask is not None for s in here),
        "with_object": sum(s.mask is not None and any(s.mask.pixels[1:]) for s in here),
        "brightness": _spread([s.image.mean for s in read]),
        "contrast": _spread([s.image.deviation for s in read]),
    }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    """Percentiles of some numbers; None without any."""
    if not values:
        return None
    points = np.percentile(values, (0, 10, 50, 90, 100)).round(2).tolist()
    return dict(zip(("min", "p10", "median", "p90", "max"), points, strict=True))


def _images(found: Inspection) -> dict[str, Any]:
    listing, scans = found.listing, found.scans
    read = [s for s in scans if s.image.shape]
    record: dict[str, Any] = {
        "depth": str(found.options.depth),
        "deep": sum(listing.deep.values()),
        "modes": dict(Counter(h.mode for h in listing.headers.values()).most_common()),
        "colour": sum(not s.image.grey for s in read),
        "shapes": [
            {"shape": list(shape), "files": n}
            for shape, n in Counter(
                s.image.shape if not s.item.is_frame else s.image.shape[:2] for s in read
            ).most_common(8)
        ],
        "rotated_by_exif": sum(h.orientation > 1 for h in listing.headers.values()),
    }
    for axis, name in enumerate(("rows", "columns", "slices")):
        values = [s.image.shape[axis] for s in read if len(s.image.shape) > axis and (axis < 2 or not s.item.is_frame)]
        record[name] = _spread(values)
    volumes = [geometry_of(item.image) for item in listing.items if not item.is_frame]
    if volumes:
        record["orientation"] = dict(Counter(g.codes or "not stated" for g in volumes).most_common())
        record["read_as"] = next((item.axes for item in listing.items if item.axes), "") or "stored"
        known = [g.spacing_mm for g in volumes if g.spacing_mm is not None]
        record["spacing_mm"] = [_spread([s[k] for s in known]) for k in range(3)] if known else None
        record["spacing_unknown"] = len(volumes) - len(known)
    return record


def _classes(found: Inspection) -> list[dict[str, Any]]:
    """Of each class: its share of all pixels, the files and slices with it, the share of a file that it fills.

    Ignored pixels are in no share; those of overlapping classes count in each.
    """
    masks = [s.mask for s in found.scans if s.mask is not None and s.mask.pixels]
    total = sum(m.counted for m in masks)
    rows = []
    for value, name in enumerate(found.meaning.classes):
        there = [m for m in masks if m.pixels[value]]
        rows.append(
            {
                "name": name,
                "values": _values(found, value),
                "share": sum(m.pixels[value] for m in masks) / total if total else None,
                "files": len(there),
                "slices": sum(m.slices[value] for m in masks),
                "area": _spread([100 * m.pixels[value] / m.counted for m in there]),
                "by_part": {
                    part: sum(
                        bool(s.mask.pixels[value])
                        for s in found.scans
                        if s.item.part == part and s.mask is not None and s.mask.pixels
                    )
                    for part in PARTS
                },
            }
        )
    return rows


def _values(found: Inspection, index: int) -> list[int]:
    """The values of masks that are a class, where the user states them or they are its index."""
    rule = found.meaning.rule
    if rule.table is None or found.meaning.class_masks:
        return [index] if rule.threshold is None and not found.meaning.class_masks else []
    return values_of(rule.table, index, overlapping=rule.overlapping)


def _ignored(found: Inspection) -> dict[str, Any] | None:
    """The ignored value, its share of the pixels of all masks that were read, the files with it; None for no value."""
    value = found.meaning.values.ignore
    masks = [s.mask for s in found.scans if s.mask is not None and s.mask.pixels]
    if value is None:
        return None
    total = sum(m.counted + m.ignored for m in masks)
    share = sum(m.ignored for m in masks) / total if total else 0.0
    return {"value": value, "share": share, "files": sum(m.ignored > 0 for m in masks)}


def _file(scan: FileScan) -> dict[str, Any]:
    item, mask = scan.item, scan.mask
    return {
        "name": item.name,
        "image": item.image,
        "patient": item.patient,
        "part": item.part,
        "shape": list(scan.image.shape),
        "brightness": round(scan.image.mean, 1),
        "contrast": round(scan.image.deviation, 1),
        "pixels": list(mask.pixels) if mask is not None else None,
        "counted": mask.counted if mask is not None and mask.pixels else None,
        "ignored": mask.ignored if mask is not None and mask.pixels else None,
        "objects": mask.objects if mask is not None and mask.pixels else None,
    }
