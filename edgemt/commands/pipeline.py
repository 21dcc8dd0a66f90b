"""The commands that take a recipe through its stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from edgemt.io import process_rank

_OUT = "Folder of the run; runs/RECIPE if not given. The same command again resumes it."
_OVERWRITE = "Replace a stage or checkpoint that does not fit any more, instead of keeping it as STAGE.previous-1."


@dataclass(frozen=True)
class RecipeCommand:
    """RECIPE is a name (`edgemt list recipes`) or file.py:function.

    Every field of it is a flag: `edgemt run phantom --help` shows them.
    """

    recipe: Positional[str]
    out: Annotated[Path | None, arg(help=_OUT)] = None
    overwrite: Annotated[bool, arg(help=_OVERWRITE)] = False


@dataclass(frozen=True)
class Run(RecipeCommand):
    """Every stage: train, distil, prune, quantize, export, bench, report. Skips what is done, resumes what was cut."""


@dataclass(frozen=True)
class Train(RecipeCommand):
    """Train the full mean-teacher model."""


@dataclass(frozen=True)
class Distil(RecipeCommand):
    """Distil the teacher into the student (and train the teacher first, if it is not there)."""


@dataclass(frozen=True)
class Prune(RecipeCommand):
    """Prune the student to the target (MACs, parameters, or measured latency) and fine-tune it by distillation."""


@dataclass(frozen=True)
class Quantize(RecipeCommand):
    """INT8, calibrated on unlabelled images and judged on the validation list."""


UNTIL: dict[type, str] = {Run: "report", Train: "teacher", Distil: "student", Prune: "slim", Quantize: "int8"}


def stages(command: RecipeCommand, rest: list[str]) -> None:
    """Every stage up to the command's own; `rest` are fields of the recipe."""
    run_until(command, rest, until=UNTIL[type(command)])


def run_until(command: RecipeCommand, rest: list[str], *, until: str) -> None:
    """Run the stages up to `until`, print the folder of the last one or the report; `rest` are recipe fields."""
    from edgemt import recipes
    from edgemt.pipeline import flow
    from edgemt.pipeline.overrides import override
    from edgemt.pipeline.unused_options import check_flags

    recipe = override(
        recipes.load(command.recipe, rest), rest, prog=f"edgemt {type(command).__name__.lower()} {command.recipe}"
    )
    check_flags(recipe, rest)
    folder = flow.run(recipe, command.out or Path("runs") / recipe.name, until=until, overwrite=command.overwrite)
    if process_rank.is_main_process():
        print(folder / "report.html" if until == "report" else folder)
