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
from edgemt.comparison.one_run import device, standing, train_one
from edgemt.comparison.record import record_of
from edgemt.comparison.results import Result
from edgemt.comparison.run_inputs import Wanted, draws_of
from edgemt.comparison.runs import Finished, One, Settings, method_of, planned
from edgemt.comparison.subprocess_pool import train_beside
from edgemt.io.atomic import write_text
from edgemt.pipeline import run_context
from edgemt.pipeline.recipe import Recipe
from edgemt.report.comparison_page import comparison_page, comparison_picture, comparison_table

RESULTS = "results"  # below the folder of a comparison, unless another folder is named


def compare(
    methods: Sequence[str],
    recipe: Recipe,
    *,
    seeds: Sequence[int],
    out: Path,
    jobs: int = 1,
    command: Callable[[One], Sequence[str]] | None = None,
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
    plan = planned(methods, seeds=seeds, out=out, settings=settings, draw=draw)
    wanted = Wanted(recipe, out, draw)
    ground = wanted.ground(plan[0])
    found = results.read_all(store, ground=ground)
    todo = [one for one in plan if standing(one, wanted, store) is None]
    for seed, names in draws_of(plan, wanted).items():
        _say(f"compare: seed {seed} learns from the labels of {', '.join(names)}")
    for name in methods if settings == "published" else ():
        if method_of(name).published() is None:
            _say(f"compare: {name}: no settings of a release are known, so that it has the common ones")
    steps = recipe.teacher.schedule.steps
    time = budget.time_to_come(todo, found, device=device(), jobs=jobs)
    _say(budget.before(plan, todo, steps=steps, jobs=jobs) + (f", {time}" if time else ""))
    beside = jobs > 1 and command is not None
    finished = train_beside(todo, command, jobs=jobs) if beside and command else _in_turn(todo, wanted, store)
    broken: dict[One, str] = {}
    record = _written(store, plan, broken, ground, out)
    waiting = list(todo)
    with closing(finished):  # an interruption here ends the processes there
        for one, failed in finished:
            waiting.remove(one)
            if failed and standing(one, wanted, store) is None:
                broken[one] = failed
            record = _written(store, plan, broken, ground, out)
            found = results.read_all(store, ground=ground)
            time = budget.time_to_come(waiting, found, device=device(), jobs=jobs)
            number = len(plan) - len(waiting)
            _say(f"{one.folder.name}: {failed or 'done'} ({number} of {len(plan)}{', ' + time if time else ''})")
    if not found:
        raise ValueError(f"compare: no run left a result; {next(iter(broken.values()), 'see train.log')}")
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
    write_text(out / "table.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    write_text(out / "table.md", comparison_table(record))
    write_text(out / "picture.svg", comparison_picture(record))
    write_text(out / "report.html", comparison_page(record))


def _in_turn(todo: Sequence[One], wanted: Wanted, store: Path) -> Finished:
    for one in todo:
        yield one, train_one(one, wanted, store)


def _written(
    store: Path, plan: Sequence[One], broken: Mapping[One, str], ground: Mapping[str, Any], out: Path
) -> dict[str, Any]:
    found = results.read_all(store, ground=ground)
    record = record_of(found, plan=plan, broken=broken)
    if found:
        write(record, out)
    return record


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


__all__ = ["Result", "compare", "dice", "record_of", "table_only", "write"]
