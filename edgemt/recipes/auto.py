"""The recipe that a data folder suggests: `edgemt run auto --data.root DIR`, or recipe.json of `edgemt data`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgemt.data.augment_options import PRESETS, AugmentOptions
from edgemt.data.options import DataOptions
from edgemt.data_report.assumed import ASSUMED, classes_of_map
from edgemt.data_report.inspect_folder import inspect_folder
from edgemt.data_report.suggest import Suggestion
from edgemt.methods import METHODS
from edgemt.pipeline.log import log
from edgemt.pipeline.overrides import override
from edgemt.pipeline.recipe import Recipe

NAME = "auto"
_PREFIX = "--data."
_OF_TRAINING = (
    "class_weights",
    "folds",
    "fold_file",
)  # they need the classes that are found; the recipe gets them later


def auto() -> Recipe:
    """Fitted to the folder --data.root: classes, size, channels, depth, augmentation, networks, each printed.

    edgemt run auto --data.root DIR
    edgemt data DIR reports on the folder and shows the same recipe with its reasons.
    """
    return Recipe(name=NAME)


def from_arguments(args: Sequence[str], bases: Mapping[str, Callable[[], Recipe]]) -> Recipe:
    """The recipe for the folder that `args` (flags of a recipe) name; further flags are applied to it later.

    Masks that training may open are read, headers of all images. Raises ValueError without --data.root, and for a
    folder that cannot be listed.
    """
    flags = _data_flags(args)
    values = _values_of(flags)
    given = set(values)
    if "root" not in given:
        if "--help" in args:
            return auto()
        raise ValueError("auto: needs the folder of the images; give --data.root DIR")
    first = auto()
    if "label_map" in given and "classes" not in given:
        classes = classes_of_map(values["label_map"])
        if len(classes) > 1:
            first = replace(first, data=replace(first.data, classes=classes))
    options = override(first, flags, prog="edgemt run auto").data
    found = inspect_folder(options, given=frozenset(given - {"root"}), images=False)
    for one in found.listing.findings:
        if one.severity != "note" or one.kind in ASSUMED:
            log(f"data: {one.severity}: {one.line}")
    suggestion = found.suggestion()
    log(f"auto: {suggestion.base}, {describe(suggestion)}; edgemt data {options.root} gives the reasons")
    return build(suggestion, bases, root=options.root)


def _data_flags(args: Sequence[str]) -> list[str]:
    """The flags `--data.*` that decide how files are read, with their values."""
    chosen: list[str] = []
    taken = False
    for arg in args:
        if arg.startswith("--"):
            taken = arg.startswith(_PREFIX) and _field(arg) not in _OF_TRAINING
        if taken:
            chosen.append(arg)
    return chosen


def _field(flag: str) -> str:
    return flag.partition("=")[0].removeprefix(_PREFIX).replace("-", "_")


def _values_of(flags: Sequence[str]) -> dict[str, list[str]]:
    """Field -> its words, of `--data.FIELD WORD ...` and `--data.FIELD=WORD`."""
    values: dict[str, list[str]] = {}
    name = ""
    for token in flags:
        if not token.startswith("--"):
            values[name].append(token)
            continue
        name = _field(token)
        values[name] = [token.partition("=")[2]] if "=" in token else []
    return values


def describe(suggestion: Suggestion) -> str:
    """The fields in one line."""
    data = suggestion.data
    height, width = data["size"]
    classes, colour = " ".join(data["classes"]), "RGB" if data["channels"] == 3 else "grey"
    preset = suggestion.preset or "default"
    classes += " (may overlap)" if data.get("overlapping") else ""
    classes += f", {data['ignore']} ignored" if data.get("ignore") is not None else ""
    return f"classes {classes}, {height} x {width} {colour}, {data['slices']} slices, augmentation {preset}"


def from_file(path: Path, bases: Mapping[str, Callable[[], Recipe]]) -> Recipe:
    """The recipe of a recipe.json that `edgemt data` wrote. Raises ValueError, naming the file, for any other one."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: is no readable recipe.json ({error}); make it with edgemt data DIR") from None
    suggestion = Suggestion.from_json(raw, source=str(path))
    root = suggestion.root or None
    return build(suggestion, bases, root=Path(root) if root else None)


def build(suggestion: Suggestion, bases: Mapping[str, Callable[[], Recipe]], *, root: Path | None) -> Recipe:
    """The base recipe with the suggested fields. Raises ValueError for a base or preset that is not known."""
    if suggestion.base not in bases or (suggestion.preset and suggestion.preset not in PRESETS):
        raise ValueError(f"recipe.json: base {suggestion.base!r} or preset {suggestion.preset!r} is not known; run "
                         "edgemt data again")  # fmt: skip
    base = bases[suggestion.base]()
    plain = DataOptions()
    data = DataOptions.from_dict(plain.to_dict() | suggestion.data | {"root": root})
    augment = PRESETS[suggestion.preset] if suggestion.preset else AugmentOptions()
    recipe = replace(
        base,
        name=NAME,
        data=data,
        augment=replace(augment, rot90=suggestion.rot90),
        per_image=suggestion.per_image,
    )
    return _supervised(recipe) if suggestion.supervised else recipe


def _supervised(recipe: Recipe) -> Recipe:
    """The teacher learns from labels alone."""
    method: Any = METHODS["supervised"]
    teacher = recipe.teacher
    schedule = replace(teacher.schedule, unlabelled=0)
    return replace(recipe, teacher=replace(teacher, method=replace(method, image_dice=True), schedule=schedule))
