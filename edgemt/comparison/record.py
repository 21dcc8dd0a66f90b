"""What a table states, from the results of finished runs: means, differences to supervised training, and tiers.

Shapes: S seeds, N cases, K foreground classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import mean, median, stdev
from typing import Any

import numpy as np

from edgemt.comparison.bootstrap import DRAWS, PairedDifference, dice, difference
from edgemt.comparison.published import SOURCE_NOTE, published
from edgemt.comparison.results import Result, row_name
from edgemt.comparison.runs import EMA_CONTROL, STUDENT_CONTROL, TrainingRun, control_of
from edgemt.comparison.tiers import Place, Scores, paired, tiers
from edgemt.methods.catalogue import costs
from edgemt.report import plain

Rows = Mapping[str, Sequence[Result]]  # name of a row -> its results, by seed


def record_of(
    results: Sequence[Result], *, plan: Sequence[TrainingRun] = (), failures: Mapping[TrainingRun, str] | None = None
) -> dict[str, Any]:
    """Everything the table states, as JSON's own types: a pure function of its arguments, rows sorted by tier.

    `plan` names runs that may still be to come; `failures` those that ended without a result, and why.
    """
    failures = failures or {}
    rows: dict[str, list[Result]] = {row_name(run.method, run.settings): [] for run in plan}
    for result in sorted(results, key=lambda result: result.seed):
        rows.setdefault(result.name, []).append(result)
    whole = [result for result in results if not result.failed]
    order = list(whole[0].cases) if whole else []
    groups = [whole[0].groups[case] for case in order] if whole else []
    scores = {name: {r.seed: _scores(r, order) for r in runs if not r.failed} for name, runs in rows.items()}
    places = tiers(scores, groups=groups, control=EMA_CONTROL)
    names = [*places, *sorted(name for name in rows if name not in places)]
    failed = _failures(results, failures)
    made = [_row(name, rows[name], scores, groups, places.get(name), failed.get(name, {}), plan) for name in names]
    _cost_of_steps(made, dims=whole[0].dims if whole else 2)
    runs = {(result.name, result.seed) for result in results}
    runs_all = runs | {(row_name(run.method, run.settings), run.seed) for run in plan}
    over = runs | {(row_name(run.method, run.settings), run.seed) for run in failures}
    return plain(_head(results, groups=groups, runs=len(runs_all), finished=len(over)) | {"rows": made})


def _head(results: Sequence[Result], *, groups: Sequence[str], runs: int, finished: int) -> dict[str, Any]:
    if not results:
        return {}
    run = results[0]
    drawn = {str(r.seed): list(r.drawn) for r in sorted(results, key=lambda r: r.seed) if r.drawn}
    shown = any(published(r.method, recipe=r.recipe, labelled=r.labelled) for r in results)
    return {
        "format": 2,
        "recipe": run.recipe,
        "network": run.network,
        "classes": list(run.classes),
        "steps": run.steps,
        "batch": list(run.batch),
        "labelled": run.labelled,
        "drawn": drawn,
        "published": SOURCE_NOTE if shown else None,
        "seeds": sorted({r.seed for r in results}),
        "runs": runs,
        "finished": finished,
        "cases": len(groups),
        "groups": len(set(groups)),
        "draws": DRAWS,
        "created": max(r.created for r in results),
        "device": ", ".join(sorted({r.device for r in results})),
    }


def _row(
    name: str,
    runs: Sequence[Result],
    scores: Mapping[str, Scores],
    groups: Sequence[str],
    place: Place | None,
    failed: Mapping[str, str],
    plan: Sequence[TrainingRun],
) -> dict[str, Any]:
    whole = [result for result in runs if not result.failed]
    method, settings, control = _named(name, runs, plan)
    against = scores.get(control, {}) if name not in (EMA_CONTROL, STUDENT_CONTROL) else {}
    gap = paired(scores[name], against, groups=groups)
    each = {str(result.seed): float(dice(scores[name][result.seed][None])[0]) for result in whole}
    took = [result.step_seconds for result in whole if result.step_seconds is not None]
    any_run = runs[0] if runs else None
    return {
        "method": name,
        "settings": settings,
        "delivers": "average" if control == EMA_CONTROL else "student",
        "control": control,
        "tier": place.tier if place else None,
        "level": place.level if place else None,
        "best_of_tier": place.best if place else None,
        "to_best": asdict(place.to_best) if place and place.to_best else None,
        "each": each,
        "dice": mean(each.values()) if each else None,
        "median": median(each.values()) if each else None,
        "sd": stdev(each.values()) if len(each) > 1 else None,
        "difference": asdict(gap) if gap else None,
        "differences": _by_seed(scores[name], against, groups),
        "per_class": _per_class(scores[name], any_run.classes if any_run else ()),
        "hd95": _mean([result.hd95 for result in whole]),
        "step_seconds": median(took) if took else None,
        "published": published(method, recipe=any_run.recipe, labelled=any_run.labelled) if any_run else None,
        "failed": dict(failed),
    }


def _named(name: str, runs: Sequence[Result], plan: Sequence[TrainingRun]) -> tuple[str, str, str]:
    """Method, settings and control of a row; methods of finished runs need not be installed."""
    if runs:
        return runs[0].method, runs[0].settings, runs[0].control
    run = next(run for run in plan if row_name(run.method, run.settings) == name)
    return run.method, run.settings, control_of(run.method)


def _scores(result: Result, order: Sequence[str]) -> np.ndarray:
    """[N, K], NaN where Dice is not defined. Raises ValueError where the run has other cases."""
    if set(result.cases) != set(order):
        raise ValueError(f"{result.name}, seed {result.seed}: was measured on other cases than the rest of the table")
    return np.array([[np.nan if v is None else v for v in result.cases[case]] for case in order])


def _by_seed(mine: Scores, control: Scores, groups: Sequence[str]) -> dict[str, dict[str, float]]:
    """Of each seed by itself: an interval of patients alone."""
    found: dict[str, PairedDifference] = {
        str(seed): difference(mine[seed][None], control[seed][None], groups=groups) for seed in mine if seed in control
    }
    return {seed: asdict(gap) for seed, gap in found.items()}


def _per_class(mine: Scores, classes: Sequence[str]) -> dict[str, float | None]:
    if not mine:
        return {}
    columns = [[of[:, k] for of in mine.values()] for k in range(len(classes))]
    means = [[float(np.nanmean(column)) for column in part if not np.isnan(column).all()] for part in columns]
    return {name: _mean(values) for name, values in zip(classes, means, strict=True)}


def _failures(results: Sequence[Result], failures: Mapping[TrainingRun, str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for result in results:
        if result.failed:
            found.setdefault(result.name, {})[str(result.seed)] = result.failed
    for run, why in failures.items():
        found.setdefault(row_name(run.method, run.settings), {})[str(run.seed)] = why
    return found


def _cost_of_steps(rows: Sequence[dict[str, Any]], *, dims: int) -> None:
    """`times` supervised: as the table of methods has it, measured in turns; of others by the runs' own log."""
    known = costs().get("relative", {})
    own = next((row["step_seconds"] for row in rows if row["method"] == EMA_CONTROL), None)
    for row in rows:
        logged = row["step_seconds"] / own if own and row["step_seconds"] else None
        row["times"] = known.get(row["method"].partition(",")[0], {}).get(f"{dims}d", logged)
        if row["method"] in (EMA_CONTROL, STUDENT_CONTROL):
            row["times"] = 1.0


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return mean(there) if there else None
