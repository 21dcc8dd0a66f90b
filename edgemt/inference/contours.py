"""Margins of the two contours, fitted on labelled cases and measured on others. No torch: devices calibrate too.

Frames are scored with distances in pixels of the model's mask: every frame is brought to that size, so frames of
different sizes are exchangeable. Volumes are scored in millimetres and in three dimensions, since a slice that the
model leaves empty has no distance within itself.

Shapes: N frames, H W size of the model's mask, n patients, C classes without the background.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from itertools import groupby
from typing import Any

import numpy as np

from edgemt.artefacts.fingerprints import digests_of
from edgemt.contour_margins import ContourMargins, Unit, graph_digest
from edgemt.contract import Case
from edgemt.inference.evaluate import EvalSet, fit_masks
from edgemt.io.class_regions import in_class
from edgemt.io.contour_bands import bands
from edgemt.metrics import conformal


def list_digest(cases: Sequence[Case]) -> str:
    """SHA-256 of the images and masks of a list, by content, whatever their names and order."""
    pairs = {(case.image, case.label or "") for case in cases}
    digests = digests_of({path for pair in pairs for path in pair if path})
    lines = sorted(f"{digests.get(image, '')} {digests.get(label, '')}" for image, label in pairs)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def patients_of(cases: Sequence[Case]) -> tuple[str, ...]:
    """The patient of each image or volume, in the order of `EvalSet.names`."""
    return tuple(next(run).patient for _, run in groupby(cases, key=lambda case: case.image))


def unit_of(cases: EvalSet) -> Unit:
    """The unit of margins: px of frames, mm of volumes.

    Raises ValueError for a list of both, and for a volume without a voxel size.
    """
    deep = [truth.ndim == 3 for truth in cases.truths]
    if any(deep) and not all(deep):
        raise ValueError(
            f"calibration: {cases.names[deep.index(True)]} is a volume and {cases.names[deep.index(False)]} an image; "
            "their margins have different units, name a list of one kind"
        )
    for name, spacing in zip(cases.names, cases.spacing_mm, strict=True):
        if any(deep) and spacing is None:
            raise ValueError(f"calibration: {name} states no voxel size; margins of volumes are in mm, take it off")
    return "mm" if any(deep) else "px"


def score_masks(masks: Sequence[np.ndarray], cases: EvalSet, *, tolerance: float) -> np.ndarray:
    """Outer and inner score of each case and class, float [N, C, 2]; `masks` are those of `frame_masks`."""
    options: dict[str, Any] = {
        "classes": len(cases.classes), "tolerance": tolerance, "overlapping": cases.overlapping
    }  # fmt: skip
    if unit_of(cases) == "mm":
        volumes = zip(fit_masks(masks, cases), cases.truths, cases.spacing_mm, strict=True)
        return np.stack([conformal.case_scores(m, t, spacing=s, **options) for m, t, s in volumes])
    frames = zip((masks[rows.start] for rows in cases.rows), cases.truths, strict=True)
    return np.stack([conformal.case_scores(mask, truth, **options) for mask, truth in frames])


def calibrate(
    masks: Sequence[np.ndarray],
    cases: EvalSet,
    *,
    patients: Sequence[str],
    digest: str,
    alpha: float,
    tolerance: float,
) -> ContourMargins:
    """The margins of a model from its masks (`frame_masks`) of the calibration list.

    Raises ValueError in one line where the patients are too few for `alpha`; before any distance is computed.
    """
    conformal.quantile_rank(len(set(patients)), alpha)
    scores = conformal.worst_of_patient(score_masks(masks, cases, tolerance=tolerance), patients)
    margins = conformal.fit_margins(scores, alpha=alpha)
    outer, inner = (
        {name: float(m) if np.isfinite(m) else None for name, m in zip(cases.classes[1:], margins[:, k], strict=True)}
        for k in (0, 1)
    )
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return ContourMargins(
        alpha, tolerance, unit_of(cases), outer, inner, len(scores), len(cases), digest, created=created
    )


def bound_to(margins: ContourMargins, file: str, digests: Mapping[str, str], *, runtime: str) -> ContourMargins:
    """The margins as they go on a card: they hold for `file` with the hash that it has there."""
    return replace(margins, graph=graph_digest(file, digests), runtime=runtime)


def measure_contours(
    masks: Sequence[np.ndarray], cases: EvalSet, margins: ContourMargins, *, patients: Sequence[str], digest: str
) -> dict[str, Any]:
    """Coverage and width of the contours on a list, class by class: a JSON record.

    `outer`, `inner`, `both`: share of the patients for whom the line holds what it claims in all of their cases.
    `width`: from the inner to the outer line, in the unit of the margins; for frames `width_px` is the mean of it in
    pixels of the frames' own size. `outer_area`, `inner_area`: mean of the regions' areas over that of the prediction.
    Raises ValueError where cases and margins have different units.
    """
    if unit_of(cases) != margins.unit:
        raise ValueError(
            f"contours: the margins are in {margins.unit}, this list needs {unit_of(cases)} (px of frames, mm of "
            "volumes); calibrate on cases of its kind"
        )
    names = cases.classes[1:]
    scores = conformal.worst_of_patient(score_masks(masks, cases, tolerance=margins.tolerance), patients)
    fitted = np.array([[_number(margins.outer.get(name)), _number(margins.inner.get(name))] for name in names])
    covered = conformal.covered(scores, fitted)
    areas = _areas(masks, cases, margins)
    scale = float(np.mean([(truth.size / masks[0].size) ** 0.5 for truth in cases.truths]))
    per_class = {}
    for c, name in enumerate(names):
        width = float(fitted[c].sum())
        per_class[name] = {
            "outer": _share(covered[:, c, 0], fitted[c, 0]),
            "inner": _share(covered[:, c, 1], fitted[c, 1]),
            "both": _share(np.asarray(covered[:, c].all(-1)), width),
            "outer_margin": margins.outer.get(name),
            "inner_margin": margins.inner.get(name),
            "width": _finite(width),
            "width_px": _finite(width * scale) if margins.unit == "px" else None,
            **areas[name],
        }
    return {
        "alpha": margins.alpha,
        "tolerance": margins.tolerance,
        "unit": margins.unit,
        "patients": len(scores),
        "calibrated_patients": margins.patients,
        "calibration_list": digest == margins.list,
        "per_class": per_class,
    }


def _areas(masks: Sequence[np.ndarray], cases: EvalSet, margins: ContourMargins) -> dict[str, dict[str, Any]]:
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in cases.classes[1:]}
    fitted = fit_masks(masks, cases) if margins.unit == "mm" else [masks[rows.start] for rows in cases.rows]
    for mask, spacing in zip(fitted, cases.spacing_mm, strict=True):
        for band in bands(mask, margins, classes=cases.classes, spacing_mm=spacing, overlapping=cases.overlapping):
            own = np.count_nonzero(in_class(mask, band.value, overlapping=cases.overlapping))
            outer, inner = (np.nan if r is None else np.count_nonzero(r) / own for r in (band.outer, band.inner))
            ratios[cases.classes[band.value]].append((outer, inner))
    found = {}
    for name, rows in ratios.items():
        table = np.array(rows).reshape(-1, 2)
        means = [_finite(float(table[:, k].mean())) if len(table) else None for k in (0, 1)]
        empty = float((table[:, 1] == 0).mean()) if len(table) else None
        found[name] = {"outer_area": means[0], "inner_area": means[1], "inner_empty": empty}
    return found


def coverage_text(record: dict[str, Any]) -> str:
    """The record of `measure_contours` in lines for a terminal."""
    stated = f"{100 * (1 - record['alpha']):.4g} %"
    share = f", a share of {record['tolerance']:g} tolerated" if record["tolerance"] else ""
    lines = [
        f"contours: coverage in {record['patients']} patients, {stated} stated for each line{share}; margins of "
        f"{record['calibrated_patients']} calibration patients"
    ]
    for name, row in record["per_class"].items():
        outer, inner, both = (_percent(row[key]) for key in ("outer", "inner", "both"))
        width = "no finite width" if row["width"] is None else f"width {row['width']:.1f} {record['unit']}"
        width += f" ({row['width_px']:.0f} px of the frames)" if row["width_px"] is not None else ""
        empty = f", no inner line in {_percent(row['inner_empty'])} of masks" if row["inner_empty"] else ""
        lines.append(f"  {name}: outer {outer}, inner {inner}, both {both}; {width}{empty}")
    if record["calibration_list"]:
        lines.append("warning: this is the list that the margins were fitted on, so its coverage proves nothing")
    return "\n".join(lines)


def _number(margin: float | None) -> float:
    return np.inf if margin is None else margin


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _share(covered: np.ndarray, margin: float) -> float | None:
    return float(covered.mean()) if np.isfinite(margin) else None


def _percent(value: float | None) -> str:
    return "no claim" if value is None else f"{100 * value:.1f} %"
