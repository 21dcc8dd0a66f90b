"""The named recipes. A recipe is a function that returns a `Recipe`; one of your own is `file.py:function`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgemt.errors import unknown_name_message
from edgemt.pipeline.recipe import Int8Stage, PruneStage, Recipe, StudentOptions, TeacherOptions
from edgemt.recipes import acdc, auto, kvasir, left_atrium, phantom

BASES: dict[str, Callable[[], Recipe]] = {
    "phantom": phantom.phantom,
    "acdc_cpu": acdc.acdc_cpu,
    "acdc_slices": acdc.acdc_slices,
    "acdc_methods": acdc.acdc_methods,
    "kvasir_cpu": kvasir.kvasir_cpu,
    "kvasir": kvasir.kvasir,
    "la_cpu": left_atrium.la_cpu,
    "la_vnet_cpu": left_atrium.la_vnet_cpu,
    "la": left_atrium.la,
    "phantom_volumes": phantom.phantom_volumes,
}
RECIPES = {"auto": auto.auto, **BASES}

__all__ = ["RECIPES", "Int8Stage", "PruneStage", "Recipe", "StudentOptions", "TeacherOptions", "load"]


def load(name: str, args: Sequence[str] = ()) -> Recipe:
    """The recipe with this name, of `file.py:function`, or of a recipe.json that `edgemt data` wrote.

    args: the flags that will be applied to it; `auto` reads the folder that they name.
    Raises ValueError with the nearest name for an unknown one, and with the reason for a file that gives no recipe.
    """
    if ".py:" in name:
        return _from_file(name)
    if name.endswith(".json"):
        return auto.from_file(Path(name), BASES)
    if name not in RECIPES:
        raise ValueError(unknown_name_message("recipe", name, RECIPES) + ", or write file.py:function")
    return auto.from_arguments(args, BASES) if name == auto.NAME else RECIPES[name]()


def _from_file(name: str) -> Recipe:
    from importlib.util import module_from_spec, spec_from_file_location

    path, _, function = name.rpartition(":")
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such recipe file")
    spec = spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the reader's own file raises
        raise ValueError(f"{path}: cannot be imported ({type(error).__name__}: {error})") from error
    make = getattr(module, function, None)
    if not callable(make):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{path}: " + unknown_name_message("function", function, names))
    recipe = make()
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{name}: returned {type(recipe).__name__}, not an edgemt.Recipe")
    return recipe
