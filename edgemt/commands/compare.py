"""The command that trains several methods under one budget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

if TYPE_CHECKING:
    from edgemt.comparing.runs import One


@dataclass(frozen=True)
class Compare:
    """Train METHODs on one RECIPE with the same budget and seeds, and supervised training beside them: table.md,
    table.json, picture.svg, report.html. The same command again resumes. Every field of the recipe is a flag."""

    methods: Positional[tuple[str, ...]]
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


def compare(command: Compare, rest: list[str]) -> None:
    from edgemt import comparing, recipes
    from edgemt.comparing import runs
    from edgemt.overrides import override
    from edgemt.report.comparison import comparison_table

    if not command.methods:
        raise ValueError("compare: name the methods to compare; see edgemt list methods")
    if command.seeds < 1 or command.jobs < 1:
        raise ValueError(f"compare: --seeds {command.seeds} and --jobs {command.jobs} must be 1 or more")
    if any(word.partition("=")[0] == "--teacher.method" for word in rest):
        raise ValueError("compare: methods are named before the flags; leave out --teacher.method")
    for name in command.methods:
        runs.method_of(name)
    recipe = override(recipes.load(command.recipe), rest, prog="edgemt compare METHOD --recipe " + command.recipe)
    out = command.out or Path("runs") / f"compare-{recipe.name}"
    if command.seed is not None:
        return _one(command, recipe, out)

    def words(one: One) -> list[str]:
        fixed = ["--recipe", command.recipe, "--seed", str(one.seed), "--out", str(out)]
        return ["compare", one.method, *fixed, *rest]

    record = comparing.compare(
        command.methods, recipe, seeds=range(command.seeds), out=out, jobs=command.jobs, command=words
    )
    print(comparison_table(record))
    print(out / "report.html")


def _one(command: Compare, recipe: object, out: Path) -> None:
    from edgemt.comparing import runs
    from edgemt.recipes import Recipe

    assert isinstance(recipe, Recipe) and command.seed is not None
    if len(command.methods) != 1:
        raise ValueError(f"compare: --seed trains one method, not {len(command.methods)}; give --seeds for a table")
    one = runs.One(command.methods[0], command.seed, out / f"{command.methods[0]}-{command.seed}")
    if failed := runs.train(one, recipe):
        raise ValueError(f"{one.folder.name}: {failed}")
    print(one.stage)
