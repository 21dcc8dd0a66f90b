"""Several methods under one budget: `edgemt compare`. Same recipe, batches, augmentation, schedule and seeds for all.

Only the teacher's stage is trained. What a method delivers is what is measured, with its last weights, on the
validation list, and it is compared with supervised training that delivers the same: the student's average, or the
student as it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np

import teachers
from edgemt import workspace
from edgemt.artefact import WEIGHTS
from edgemt.comparing.beside import train_beside
from edgemt.comparing.paired import DRAWS, dice, difference
from edgemt.comparing.published import SAYS, published
from edgemt.comparing.runs import (
    AVERAGED,
    RAW,
    One,
    control_of,
    dice_of_cases,
    planned,
    step_seconds,
    train_all,
)
from edgemt.files import write_text
from edgemt.methods.table import costs
from edgemt.recipes import Recipe
from edgemt.report import plain
from edgemt.report.comparison import comparison_page, comparison_picture, comparison_table

Done = Mapping[One, str]


def compare(
    methods: Sequence[str],
    recipe: Recipe,
    *,
    seeds: Sequence[int],
    out: Path,
    jobs: int = 1,
    command: Callable[[One], Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Train what is missing; table.md, table.json, picture.svg and report.html are written anew after each run.

    `jobs` above 1 needs `command`, the words that make `edgemt` train one run. Raises ValueError for an unknown method
    and for data that cannot be read; a method that fails is a row that says so.
    """
    at = workspace.start(recipe, out)
    plan = planned(methods, seeds=seeds, out=out)
    groups = {_case_name(case.name, case.slice): case.group for case in at.cohort.val}
    known = len({case.group for case in at.cohort.labelled})
    done: dict[One, str] = {}
    beside = jobs > 1 and command is not None
    finished = train_beside(plan, command, jobs=jobs) if beside and command else train_all(plan, recipe)
    record: dict[str, Any] = {}
    with closing(finished):  # an interruption here ends the processes there
        for one, failed in finished:
            done[one] = failed
            at.say(f"{one.folder.name}: {failed or 'done'} ({len(done)} of {len(plan)})")
            record = record_of(plan, done, recipe, groups, labelled=known)
            write(record, out)
    return record


def write(record: Mapping[str, Any], out: Path) -> None:
    write_text(out / "table.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    write_text(out / "table.md", comparison_table(record))
    write_text(out / "picture.svg", comparison_picture(record))
    write_text(out / "report.html", comparison_page(record))


def record_of(
    plan: Sequence[One], done: Done, recipe: Recipe, groups: Mapping[str, str], *, labelled: int
) -> dict[str, Any]:
    """Everything the table says, as JSON's own types; `labelled` is the number of labelled patients or volumes."""
    found = {one: dice_of_cases(one.card) for one, failed in done.items() if not failed}
    by_method: dict[str, list[One]] = {}
    for one in plan:
        by_method.setdefault(one.method, []).append(one)
    rows = [_row(name, runs, done, found, groups) for name, runs in by_method.items()]
    _cost_of_steps(rows, volumes=teachers.dims(recipe.teacher.network) == 3)
    for row in rows:
        row["published"] = published(row["method"], recipe=recipe.name, labelled=labelled)
    controls = [row for row in rows if row["method"] in (AVERAGED, RAW)]
    others = [row for row in rows if row not in controls]
    others.sort(key=lambda row: -1.0 if row["dice"] is None else row["dice"], reverse=True)
    schedule = recipe.teacher.schedule
    return plain(
        {
            "format": 1,
            "recipe": recipe.name,
            "network": recipe.teacher.network,
            "classes": list(recipe.data.classes[1:]),
            "steps": schedule.steps,
            "batch": [schedule.labelled, schedule.unlabelled],
            "labelled": labelled,
            "published": SAYS if any(row["published"] for row in rows) else None,
            "seeds": sorted({one.seed for one in plan}),
            "runs": len(plan),
            "finished": len(done),
            "cases": len(groups),
            "groups": len(set(groups.values())),
            "draws": DRAWS,
            "created": time.strftime("%Y-%m-%d %H:%M"),
            "device": _device(),
            "rows": [*controls, *others],
        }
    )


def _cost_of_steps(rows: Sequence[dict[str, Any]], *, volumes: bool) -> None:
    """`times` supervised: as the table of methods has it, measured in turns; of others by the runs' own log."""
    known = costs().get("relative", {})
    own = next((row["step_seconds"] for row in rows if row["method"] == AVERAGED), None)
    for row in rows:
        logged = row["step_seconds"] / own if own and row["step_seconds"] else None
        row["times"] = known.get(row["method"], {}).get("3d" if volumes else "2d", logged)
        if row["method"] in (AVERAGED, RAW):
            row["times"] = 1.0


def _row(
    name: str,
    runs: Sequence[One],
    done: Done,
    found: Mapping[One, Mapping[str, Sequence[float]]],
    groups: Mapping[str, str],
) -> dict[str, Any]:
    whole = [one for one in runs if one in found]
    against = {one.seed: one for one in found if one.method == control_of(name) and name not in (AVERAGED, RAW)}
    measured = [one.card.measured[WEIGHTS] for one in whole]
    each = {str(one.seed): float(m["dice"]) for one, m in zip(whole, measured, strict=True) if m["dice"] is not None}
    pairs = [(one, against[one.seed]) for one in whole if one.seed in against]
    took = [seconds for one in whole if (seconds := step_seconds(one)) is not None]
    return {
        "method": name,
        "delivers": "average" if control_of(name) == AVERAGED else "student",
        "control": control_of(name),
        "each": each,
        "dice": mean(each.values()) if each else None,
        "sd": stdev(each.values()) if len(each) > 1 else None,
        "difference": asdict(_paired(pairs, found, groups)) if pairs else None,
        "per_class": _per_class(measured),
        "hd95": _mean([_over_classes(m, "hd95") for m in measured]),
        "step_seconds": median(took) if took else None,
        "failed": {str(one.seed): done[one] for one in runs if done.get(one)},
    }


def _paired(pairs: Sequence[tuple[One, One]], found: Mapping[One, Any], groups: Mapping[str, str]) -> Any:
    """Over the seeds that both finished, case by case."""
    names = list(found[pairs[0][0]])
    mine, control = (np.array([[found[pair[i]][case] for case in names] for pair in pairs]) for i in (0, 1))
    return difference(mine, control, groups=[groups.get(case, case) for case in names])


def _per_class(measured: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    names = list(measured[0]["per_class"]) if measured else []
    return {name: _mean([m["per_class"][name].get("dice") for m in measured]) for name in names}


def _over_classes(measured: Mapping[str, Any], metric: str) -> float | None:
    return _mean([values.get(metric) for values in measured["per_class"].values()])


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return mean(there) if there else None


def _case_name(name: str, slice: int | None) -> str:
    """A volume's slices are one case of the measure, which has the volume's name."""
    return name if slice is None else name.rpartition("/")[0]


def _device() -> str:
    import torch

    from deploy.machine import describe

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return str(describe().get("cpu") or "")


__all__ = ["compare", "dice", "record_of", "write"]
