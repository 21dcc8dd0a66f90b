"""The command that trains several methods under one budget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from edgemt.commands.console import refuse_flags

if TYPE_CHECKING:
    from edgemt.comparison.runs import TrainingRun
    from edgemt.pipeline.recipe import Recipe


@dataclass(frozen=True)
class Compare:
    """Train METHODs on one RECIPE with the same budget and seeds, and supervised training beside them.

    Writes table.md, table.json, picture.svg, report.html. The same command again resumes; further methods and seeds
    join the table. Every field of the recipe is a flag.
    """

    methods: Positional[tuple[str, ...]] = ()
    """Names of `edgemt list methods`."""
    recipe: str = "acdc_methods"
    """A name (`edgemt list recipes`) or file.py:function; its teacher is trained."""
    seeds: int = 1
    """Each method is trained with seeds 0, 1 ... of this many."""
    jobs: int = 1
    """Trainings at a time, each a process."""
    out: Path | None = None
    """Folder with a run folder METHOD-SEED each; runs/compare-RECIPE if not given."""
    seed: int | None = None
    """Train this seed of one METHOD alone and write no table: a job for a queue. Without --seed the table follows."""
    draw_labelled: int = 0
    """Each seed draws this many labelled patients (or images) from all that train, the same for every method and for
    its control; the others are unlabelled. 0: those of the recipe, for every seed."""
    settings: Literal["common", "published"] = "common"
    """published: optimiser and augmentation of each method's release (`edgemt explain METHOD`), a row of its own."""
    results: Path | None = None
    """Folder with a JSON file METHOD_SEED.json for each finished run, which is not trained again; OUT/results if not
    given."""
    table_only: bool = False
    """Train nothing: write the table of the results that stand."""


def compare(command: Compare, rest: list[str]) -> None:
    """Train what is missing, then write and print the table; `rest` are fields of the recipe."""
    from edgemt import comparison, recipes
    from edgemt.comparison import runs
    from edgemt.comparison.unused_flags import check_compared_flags
    from edgemt.pipeline.overrides import override
    from edgemt.report.comparison_page import comparison_table

    if command.table_only:
        return _table(command, rest)
    if not command.methods:
        raise ValueError("compare: name the methods to compare; see edgemt list methods")
    if command.seeds < 1 or command.jobs < 1:
        raise ValueError(f"compare: --seeds {command.seeds} and --jobs {command.jobs} must be 1 or more")
    if command.draw_labelled < 0:
        raise ValueError(f"compare: --draw-labelled {command.draw_labelled} must be 0 or more patients")
    for argument in rest:
        flag = argument.partition("=")[0].replace("_", "-")
        if flag == "--teacher.method":
            raise ValueError("compare: methods are named before the flags; leave out --teacher.method")
        if command.draw_labelled and flag in ("--data.labelled", "--data.labelled-seed"):
            raise ValueError(f"compare: --draw-labelled draws the labelled patients; leave out {flag}")
    for name in command.methods:
        runs.method_of(name)
    recipe = override(recipes.load(command.recipe, rest), rest, prog="edgemt compare METHOD --recipe " + command.recipe)
    check_compared_flags(recipe, rest, published=command.settings == "published")
    out = command.out or Path("runs") / f"compare-{recipe.name}"
    store = command.results or out / comparison.RESULTS
    if command.seed is not None:
        return _one(command, recipe, out, store)

    def arguments(run: TrainingRun) -> list[str]:
        fixed = ["--recipe", command.recipe, "--seed", str(run.seed), "--out", str(out), "--results", str(store)]
        fixed += ["--draw-labelled", str(run.draw), "--settings", run.settings]
        return ["compare", run.method, *fixed, *rest]

    record = comparison.compare(
        command.methods,
        recipe,
        seeds=range(command.seeds),
        out=out,
        jobs=command.jobs,
        command=arguments,
        draw=command.draw_labelled,
        settings=command.settings,
        store=store,
    )
    print(comparison_table(record))
    print(out / "report.html")


def _table(command: Compare, rest: list[str]) -> None:
    from edgemt import comparison
    from edgemt.report.comparison_page import comparison_table

    if rest or command.methods:
        first = (*command.methods, *rest)[0]
        raise ValueError(f"compare: --table-only takes every result that stands; leave out {first}")
    unused = ("seeds", "jobs", "seed", "draw_labelled", "settings")
    refuse_flags(command, *unused, why="--table-only takes every result that stands")
    out = command.out or Path("runs") / f"compare-{command.recipe}"
    print(comparison_table(comparison.table_only(command.results or out / comparison.RESULTS, out)))
    print(out / "report.html")


def _one(command: Compare, recipe: Recipe, out: Path, store: Path) -> None:
    from edgemt.comparison.one_run import train_one
    from edgemt.comparison.run_inputs import RunInputs
    from edgemt.comparison.runs import plan_runs

    assert command.seed is not None
    refuse_flags(command, "seeds", "jobs", why="--seed trains one run")
    if len(command.methods) != 1:
        raise ValueError(f"compare: --seed trains one method, not {len(command.methods)}; give --seeds for a table")
    draw, settings = command.draw_labelled, command.settings
    plan = plan_runs(command.methods, seeds=[command.seed], out=out, settings=settings, draw=draw)  # controls first
    run = next(run for run in reversed(plan) if run.method == command.methods[0])
    if failed := train_one(run, RunInputs(recipe, out, draw), store):
        raise ValueError(f"{run.folder.name}: {failed}")
    print(run.stage)
