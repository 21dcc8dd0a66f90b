"""The metrics of a segmentation, class by class and case by case. Empty masks are NaN and counted.

Shapes: *space 2 or 3 axes, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgemt.contract import IGNORE
from edgemt.io.class_regions import in_class, largest_value
from edgemt.metrics.surface_distance import bounding_box, surface_scores

EMPTY = ("both_empty", "missed", "invented")


def confusion(prediction: np.ndarray, truth: np.ndarray, *, classes: int) -> np.ndarray:
    """int64 [C, C], rows are the truth. Both masks hold class indices, shape [*space]."""
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    if truth.size and (int(prediction.max()) >= classes or int(truth.max()) >= classes):
        raise ValueError(f"a mask holds a value above {classes - 1}, the last of {classes} classes")
    box = bounding_box((prediction != 0) | (truth != 0))  # most of a volume is background in both
    joint = truth[box].reshape(-1).astype(np.int64) * classes + prediction[box].reshape(-1)
    table = np.bincount(joint, minlength=classes * classes).reshape(classes, classes)
    table[0, 0] += truth.size - joint.size
    return table


def overlap(table: np.ndarray, index: int) -> dict[str, float]:
    """Overlap metrics of class `index` from a confusion table; 0/0 is NaN."""
    hit = float(table[index, index])
    missed, invented = float(table[index].sum()) - hit, float(table[:, index].sum()) - hit
    rest = float(table.sum()) - hit - missed - invented
    both = 2 * hit + missed + invented
    return {
        "dice": _ratio(2 * hit, both),
        "jaccard": _ratio(hit, hit + missed + invented),
        "accuracy": _ratio(hit + rest, hit + missed + invented + rest),
        "recall": _ratio(hit, hit + missed),
        "specificity": _ratio(rest, rest + invented),
        "volumetric_similarity": 1 - _ratio(abs(missed - invented), both),
    }


def compare(
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    classes: int,
    spacing_mm: Sequence[float] | None = None,
    tolerance: float = 2.0,
    dice_only: bool = False,
    with_distances: bool = True,
    overlapping: bool = False,
) -> list[dict[str, float]]:
    """The metrics of each foreground class of one case, class 1 first.

    Distances are those of `surface_scores`: in voxels, and in millimetres under NAME_mm where `spacing_mm` (one number
    an axis) is given. Pixels that are `IGNORE` in the truth count in nothing; for distances they are background in both
    masks. Both empty: dice NaN. One empty: dice 0, distances NaN. both_empty, missed and invented are 0
    or 1. `overlapping`: both masks are bits, and each class is compared by itself (`edgemt.io.class_regions`).
    """
    ignored = 0
    if truth.size and int(truth.max()) == IGNORE:
        hidden = truth == IGNORE
        ignored = int(np.count_nonzero(hidden))
        prediction, truth = (np.where(hidden, 0, mask).astype(mask.dtype) for mask in (prediction, truth))
    rows = []
    for index, table, column in _tables(prediction, truth, classes=classes, overlapping=overlapping):
        table[0, 0] -= ignored
        present, predicted = bool(table[column].any()), bool(table[:, column].any())
        scores = overlap(table, column)
        if dice_only:
            scores = {"dice": scores["dice"]}
        elif with_distances:
            masks = tuple(in_class(mask, index, overlapping=overlapping) for mask in (prediction, truth))
            scores |= surface_scores(*masks, spacing_mm=spacing_mm, tolerance=tolerance)
        scores |= {
            "both_empty": float(not present and not predicted),
            "missed": float(present and not predicted),
            "invented": float(predicted and not present),
        }
        rows.append(scores)
    return rows


def _tables(
    prediction: np.ndarray, truth: np.ndarray, *, classes: int, overlapping: bool
) -> Iterator[tuple[int, np.ndarray, int]]:
    """(class, its confusion table, its row in it) for each foreground class, a copy each."""
    if not overlapping:
        table = confusion(prediction, truth, classes=classes)
        yield from ((index, table.copy(), index) for index in range(1, classes))
        return
    most = largest_value(classes, overlapping=True)
    if truth.size and (int(prediction.max()) > most or int(truth.max()) > most):
        raise ValueError(f"a mask holds a value above {most}, all bits of {classes - 1} overlapping classes")
    for index in range(1, classes):
        pair = (in_class(mask, index, overlapping=True).view(np.uint8) for mask in (prediction, truth))
        yield index, confusion(*pair, classes=2), 1


@dataclass(frozen=True)
class Scores:
    """Metrics of a model on a list of cases. `classes` are the foreground names."""

    classes: tuple[str, ...]
    cases: list[dict[str, Any]]  # {"name": ..., class: {metric: value}}
    unit: str = "px"  # of the distances; a key that ends in _mm is in millimetres
    tolerance: float = 2.0  # of nsd in `unit`, of nsd_mm in millimetres

    @property
    def per_class(self) -> dict[str, dict[str, float]]:
        """Means over the cases where a metric is defined; how many were counted, how many were empty."""
        out: dict[str, dict[str, float]] = {}
        for name in self.classes:
            rows = [case[name] for case in self.cases]
            metrics = [key for key in {k: 0 for row in rows for k in row} or ("dice",) if key not in EMPTY]
            out[name] = {key: _mean([row.get(key, math.nan) for row in rows]) for key in metrics}
            out[name]["counted"] = float(sum(not math.isnan(row["dice"]) for row in rows))
            out[name] |= {key: float(sum(row[key] for row in rows)) for key in EMPTY}
        return out

    def mean(self, metric: str) -> float:
        """Mean over the foreground classes of the mean over cases; NaN where nothing was defined."""
        per_class = self.per_class
        return _mean([per_class[name].get(metric, math.nan) for name in self.classes])

    @property
    def dice(self) -> float:
        return self.mean("dice")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; NaN becomes None."""
        raw = {"dice": self.dice, "unit": self.unit, "nsd_tolerance": self.tolerance}
        return _no_nan(raw | {"per_class": self.per_class, "cases": self.cases})


def _no_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _no_nan(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_no_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _mean(values: Sequence[float]) -> float:
    """NaN values are left out; NaN when none is left."""
    present = [v for v in values if not math.isnan(v)]
    return sum(present) / len(present) if present else math.nan
