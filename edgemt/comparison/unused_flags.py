"""Flags of a recipe that change nothing in a comparison, which trains the teacher's stage alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from edgemt.pipeline.overrides import given_fields
from edgemt.pipeline.recipe import Recipe, teacher_dims
from edgemt.pipeline.unused_options import check_flags

_LATER = ("student", "slim", "int8", "bench", "contours", "uncertainty", "tolerance", "strict", "controls")
_PUBLISHED = tuple(
    f"teacher.schedule.{name}" for name in ("optimiser", "learning_rate", "weight_decay", "power", "warmup", "clip")
)
_OF_THE_INPUT = ("student.network", "student.pretrained")  # `normalise` auto follows from them


def check_compared_flags(recipe: Recipe, args: Sequence[str], *, published: bool = False) -> None:
    """Print the flags of stages that a comparison has not, in one line, since the flags of a run are used here too.

    Raises ValueError for those of a method, which has the values of the table, and as `check_flags` for the others.
    """
    names, rest = given_fields(recipe, args), []
    for name in names:
        if name.startswith("teacher.method."):
            raise ValueError(
                f"compare: a method has the values of edgemt list methods; leave out --{name}, or give the variant a "
                "name of its own (docs/guides/training.md, entry points)"
            )
        if _is_later(name, recipe):
            rest.append(name)
    if rest:
        _say(f"only the teacher is trained; without effect: {', '.join(rest)}")
    replaced = [name for name in names if name in _PUBLISHED or name.startswith("augment.") or name == "per_image"]
    if published and replaced:
        _say(f"--settings published replaces {', '.join(replaced)} where a release has settings of its own")
    check_flags(recipe, [f"--{name}" for name in names if name not in rest])


def _say(text: str) -> None:
    print(f"compare: {text}", file=sys.stderr, flush=True)


def _is_later(name: str, recipe: Recipe) -> bool:
    if name.startswith("augment.") and name != "augment.drop_channel":
        return teacher_dims(recipe.teacher.network) == 3
    return name.partition(".")[0] in _LATER and name not in _OF_THE_INPUT
