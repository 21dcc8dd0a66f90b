"""Results by centre, device or subgroup: `edgemt eval SHIP --data.by centre.csv`. No torch.

The file has a header and a row for each case or patient: `case,centre` (or `patient,centre`), separated by comma,
semicolon or tab. Several further columns give a table each.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemt.data.layouts.case_files import normalise_name
from edgemt.io.file_types import is_image, is_volume, stem_of

_DRAWS = 2000  # of the bootstrap
_REST = "(not in the file)"


def read_groups(file: Path) -> dict[str, dict[str, str]]:
    """Column -> case or patient -> group. Raises ValueError, naming the file and line, for what is no such table."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not a readable table ({error}); save it as CSV in UTF-8") from None
    lines = [line for line in text.splitlines() if line.strip()]
    mark = max(",;\t", key=lines[0].count) if lines else ","
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=mark)]
    if len(rows) < 2 or len(rows[0]) < 2:
        raise ValueError(f"{file}: needs a header such as case,centre and a row for each case or patient")
    columns: dict[str, dict[str, str]] = {name: {} for name in rows[0][1:]}
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(rows[0]):
            raise ValueError(f"{file}: line {number} has {len(row)} columns, the header {len(rows[0])}; mend it")
        name = _name(row[0])
        for column, value in zip(rows[0][1:], row[1:], strict=True):
            if columns[column].setdefault(name, value) != value:
                raise ValueError(f"{file}: line {number}: {row[0]!r} has a second {column}, {value!r}; keep one")
    return columns


def _name(text: str) -> str:
    return normalise_name(stem_of(text) if is_image(text) or is_volume(text) else text)


def by_group(
    scores: Mapping[str, float], patients: Mapping[str, str], columns: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Column -> group -> n, patients, mean Dice and its bootstrap interval of 95 %, over patients.

    scores: case -> Dice, mean over classes (NaN where it is not defined; such a case is left out). patients: case ->
    patient. A case goes by its own name or else by its patient; `unmatched` has names of the file that match none,
    and cases in none of the rows are a group of their own.
    """
    found: dict[str, Any] = {}
    known = set(scores) | set(patients.values())
    for column, groups in columns.items():
        cases: dict[str, list[str]] = {}
        for case in scores:
            cases.setdefault(groups.get(case, groups.get(patients[case], _REST)), []).append(case)
        found[column] = {
            "groups": {group: _record(names, scores, patients) for group, names in sorted(cases.items())},
            "unmatched": sorted(set(groups) - known),
        }
    return found


def _record(names: Sequence[str], scores: Mapping[str, float], patients: Mapping[str, str]) -> dict[str, Any]:
    by_patient: dict[str, list[float]] = {}
    for name in names:
        if not math.isnan(scores[name]):
            by_patient.setdefault(patients[name], []).append(scores[name])
    values = [value for own in by_patient.values() for value in own]
    record: dict[str, Any] = {"n": len(values), "patients": len(by_patient), "dice": None, "low": None, "high": None}
    if not values:
        return record
    record["dice"] = float(np.mean(values))
    if len(by_patient) > 1:
        draw, groups = np.random.default_rng(0), [np.array(own) for own in by_patient.values()]
        sums, counts = np.array([own.sum() for own in groups]), np.array([len(own) for own in groups])
        chosen = draw.integers(0, len(groups), (_DRAWS, len(groups)))
        means = sums[chosen].sum(1) / counts[chosen].sum(1)
        record["low"], record["high"] = (float(v) for v in np.quantile(means, (0.025, 0.975)))
    return record


def case_dice(cases: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Case -> Dice, mean over the classes where it is defined; `cases` of the record of `edgemt eval`."""
    found = {}
    for case in cases:
        values = [row["dice"] for row in case.values() if isinstance(row, Mapping) and row.get("dice") is not None]
        found[str(case["name"])] = float(np.mean(values)) if values else math.nan
    return found


def group_table(record: Mapping[str, Any]) -> str:
    """The record of `by_group` as text."""
    lines = []
    for column, found in record.items():
        rows = [[column, "cases", "patients", "Dice", "95 %"]]
        for group, row in found["groups"].items():
            interval = "-" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"
            dice = "-" if row["dice"] is None else f"{row['dice']:.4f}"
            rows.append([group, str(row["n"]), str(row["patients"]), dice, interval])
        width = max(len(row[0]) for row in rows)
        lines += ["", *("  ".join([row[0].ljust(width), *(c.rjust(8) for c in row[1:])]) for row in rows)]
        if found["unmatched"]:
            names = found["unmatched"]
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            lines.append(f"{len(names)} names match no case and no patient: {', '.join(names[:5])}{more}")
    return "\n".join(lines)
