"""Several methods under one budget: `edgemt compare`. Same recipe, batches, augmentation, schedule and seeds for all.

Only the teacher's stage is trained. What a method delivers is what is measured, with its last weights, on the
validation list, and it is compared with supervised training that delivers the same: the student's average, or the
student as it is. Each finished run leaves a small JSON file (`results`); tables are made from those files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from edgemt.comparison import budget, results
from edgemt.comparison.bootstrap import dice
from edgemt.comparison.one_run import device, finished_result, train_one
from edgemt.comparison.record import record_of
from edgemt.comparison.results import Result
from edgemt.comparison.run_inputs import RunInputs, draws_of
from edgemt.comparison.runs import Finished, Settings, TrainingRun, method_of, plan_runs, recipe_of
from edgemt.comparison.subprocess_pool import train_in_subprocesses
from edgemt.io.atomic import write_text
from edgemt.pipeline import run_context
from edgemt.pipeline.recipe import Recipe
from edgemt.pipeline.recipe_checks import check_recipe
from edgemt.report.comparison_page import comparison_page, comparison_picture, comparison_table

RESULTS = "results"  # below the folder of a comparison, unless another folder is named


def compare(
    methods: Sequence[str],
    recipe: Recipe,
    *,
    seeds: Sequence[int],
    out: Path,
    jobs: int = 1,
    command: Callable[[TrainingRun], Sequence[str]] | None = None,
    draw: int = 0,
    settings: Settings = "common",
    store: Path | None = None,
) -> dict[str, Any]:
    """Train what is missing; table.md, table.json, picture.svg and report.html are written anew after each run.

    `jobs` above 1 needs `command`, the arguments that make `edgemt` train one run. `draw` labelled patients or
    images are drawn for each seed; 0 takes the recipe's own. Results go to `store` (OUT/results), whose other
    results join the table. Raises ValueError for an unknown method, for data that cannot be read, and, before anything
    is trained, for a result in `store` that was made on another ground; a method that fails is a row with the reason.
    """
    run_context.open_run(recipe, out)
    store = store or out / RESULTS
    plan = plan_runs(methods, seeds=seeds, out=out, settings=settings, draw=draw)
    for run in plan:  # an error now, not after the runs before it
        check_recipe(recipe_of(run, recipe))
    run_inputs = RunInputs(recipe, out, draw)
    ground = run_inputs.ground(plan[0])
    for run in plan:
        run_inputs.check_unlabelled(run)
    found = results.read_all(store, ground=ground)
    todo = [run for run in plan if finished_result(run, run_inputs, store) is None]
    for seed, names in draws_of(plan, run_inputs).items():
        _log(f"compare: seed {seed} learns from the labels of {', '.join(names)}")
    for name in methods if settings == "published" else ():
        if method_of(name).published() is None:
            _log(f"compare: {name}: no settings of a release are known, so that it has the common ones")
    steps = recipe.teacher.schedule.steps
    time = budget.time_to_come(todo, found, device=device(), jobs=jobs)
    _log(budget.before(plan, todo, steps=steps, jobs=jobs) + (f", {time}" if time else ""))
    if command is not None and jobs > 1:
        finished = train_in_subprocesses(todo, command, jobs=jobs)
    else:
        finished = _one_by_one(todo, run_inputs, store)
    failures: dict[TrainingRun, str] = {}
    record = _written(store, plan, failures, ground, out)
    waiting = list(todo)
    with closing(finished):  # an interruption here ends the processes there
        for run, failed in finished:
            waiting.remove(run)
            if failed and finished_result(run, run_inputs, store) is None:
                failures[run] = failed
            record = _written(store, plan, failures, ground, out)
            found = results.read_all(store, ground=ground)
            time = budget.time_to_come(waiting, found, device=device(), jobs=jobs)
            number = len(plan) - len(waiting)
            _log(f"{run.folder.name}: {failed or 'done'} ({number} of {len(plan)}{', ' + time if time else ''})")
    if not found:
        raise ValueError(f"compare: no run left a result; {next(iter(failures.values()), 'see train.log')}")
    return record


def table_only(store: Path, out: Path) -> dict[str, Any]:
    """The table of the results in `store`, written to `out`; nothing is trained and no data are read.

    Raises ValueError where the folder has no result, or results of several grounds.
    """
    found = results.read_all(store)
    if not found:
        raise ValueError(
            f"{store}: holds no result METHOD_SEED.json; train some with edgemt compare, or give --results"
        )
    record = record_of(found)
    write(record, out)
    return record


def write(record: Mapping[str, Any], out: Path) -> None:
    """Write the record of a comparison into `out`: table.json, table.md, picture.svg and report.html."""
    write_text(out / "table.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    write_text(out / "table.md", comparison_table(record))
    write_text(out / "picture.svg", comparison_picture(record))
    write_text(out / "report.html", comparison_page(record))


def _one_by_one(todo: Sequence[TrainingRun], run_inputs: RunInputs, store: Path) -> Finished:
    for run in todo:
        yield run, train_one(run, run_inputs, store)


def _written(
    store: Path, plan: Sequence[TrainingRun], failures: Mapping[TrainingRun, str], ground: Mapping[str, Any], out: Path
) -> dict[str, Any]:
    found = results.read_all(store, ground=ground)
    record = record_of(found, plan=plan, failures=failures)
    if found:
        write(record, out)
    return record


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


__all__ = ["Result", "compare", "dice", "record_of", "table_only", "write"]
