"""Typed overrides: every field of a recipe is a flag, and a method is chosen by its name."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import tyro

from edgemt.data.augment_options import PRESETS
from edgemt.errors import unknown_name_message
from edgemt.pipeline.recipe import Recipe
from edgemt.renamed_fields import old_paths


def override(recipe: Recipe, args: Sequence[str], *, prog: str) -> Recipe:
    """`--student.schedule.steps 4000 --student.method mean_teacher`. Raises ValueError, naming field and value."""
    recipe, rest = _choose_preset(*_choose_methods(recipe, _fill_in_corruptions(args)))
    if not rest:
        return recipe
    if "--help" in rest:
        tyro.cli(Recipe, default=recipe, args=rest, prog=prog)
    rest = _current_names(recipe, rest)
    known = set(paths(recipe))
    for arg in rest:
        if arg.startswith("--") and _field(arg, known) not in known:
            raise ValueError(unknown_name_message("field", _field(arg, known), known))
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
            return tyro.cli(Recipe, default=recipe, args=rest, prog=prog)
    except SystemExit:
        raise ValueError(f"{_first_lines(output.getvalue())}; see {prog} --help") from None


def paths(value: Any, prefix: str = "") -> list[str]:
    """Every field of a tree of dataclasses, dotted."""
    found = []
    for f in fields(value):
        inner = getattr(value, f.name)
        found += paths(inner, f"{prefix}{f.name}.") if is_dataclass(inner) else [f"{prefix}{f.name}"]
    return found


def given_fields(recipe: Recipe, args: Sequence[str]) -> list[str]:
    """Dotted paths of the fields of `recipe` that flags among `args` set, in their order."""
    known = set(paths(recipe))
    flags = [arg for arg in _current_names(recipe, args) if arg.startswith("--")]
    return [name for name in dict.fromkeys(_field(flag, known) for flag in flags) if name in known]


def _field(flag: str, known: set[str]) -> str:
    """`--a.no-b` and `--a.b=VALUE` -> a.b; the name as it is written where it is none of `known`."""
    name = flag.split("=", 1)[0].removeprefix("--").replace("-", "_")
    positive = name.replace(".no_", ".").removeprefix("no_")
    return positive if name not in known and positive in known else name


def _current_names(recipe: Recipe, args: Sequence[str]) -> list[str]:
    """The flags, those of renamed fields under their current names: `--int8.kept 4` is `--int8.float_layers 4`."""
    current = old_paths(recipe)
    spelled = []
    for arg in args:
        name, equals, text = arg.partition("=")
        path = name.removeprefix("--").replace("-", "_")
        old = name.startswith("--") and path in current
        spelled.append(f"--{current[path]}{equals}{text}" if old else arg)
    return spelled


def _choose_methods(recipe: Recipe, args: list[str]) -> tuple[Recipe, list[str]]:
    from edgemt.methods import get

    for stage in ("teacher", "student"):
        flag = f"--{stage}.method"
        for index, arg in enumerate(args):
            if arg == flag or arg.startswith(flag + "="):
                name = arg.partition("=")[2] or (args[index + 1] if index + 1 < len(args) else "")
                try:
                    method = get(name)
                except ValueError as error:
                    raise ValueError(f"{stage}.method: {error}") from None
                of = replace(getattr(recipe, stage), method=method)
                recipe = replace(recipe, **{stage: of})
                del args[index : index + (1 if "=" in arg else 2)]
                break
    return recipe, args


def _choose_preset(recipe: Recipe, args: list[str]) -> tuple[Recipe, list[str]]:
    """`--augment.preset mri` comes before every other flag of the augmentation, wherever it stands."""
    flag = "--augment.preset"
    for index, arg in enumerate(args):
        if arg == flag or arg.startswith(flag + "="):
            name = arg.partition("=")[2] or (args[index + 1] if index + 1 < len(args) else "")
            if name not in PRESETS:
                raise ValueError(f"augment.preset: {unknown_name_message('preset', name, PRESETS)}")
            del args[index : index + (1 if "=" in arg else 2)]
            if any(other.partition("=")[0] == flag for other in args):
                raise ValueError("augment.preset: is given twice; leave one of them out")
            return replace(recipe, augment=PRESETS[name]), args
    return recipe, args


def _fill_in_corruptions(args: Sequence[str]) -> list[str]:
    """`--augment.corruptions` without a name is `--augment.corruptions auto`."""
    filled = list(args)
    for index, arg in enumerate(args):
        if arg == "--augment.corruptions" and (index + 1 == len(args) or args[index + 1].startswith("-")):
            filled.insert(index + 1, "auto")
    return filled


def _first_lines(text: str) -> str:
    """The first lines, without the frame, of the box that tyro draws: they state what is wrong."""
    lines = [re.sub(r"[│╭╮╰╯─]+|-{3,}", " ", line).strip() for line in text.splitlines()]
    passed_over = ("parsing error", "value error", "for full help", "usage")
    useful = [line for line in lines if line and not line.lower().startswith(passed_over)]
    return re.sub(r"^Error parsing \w+: ", "", " ".join(useful[:6]))
