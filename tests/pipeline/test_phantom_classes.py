"""A synthetic layout draws its own classes: another number of names is refused before anything is trained."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from edgemt import recipes
from edgemt.pipeline.overrides import override
from edgemt.pipeline.recipe_checks import check_recipe


@pytest.mark.parametrize(("recipe", "layout"), [("phantom", "phantom"), ("phantom_volumes", "phantom_volumes")])
def test_other_classes_than_those_that_are_drawn_are_refused(recipe: str, layout: str) -> None:
    few = override(recipes.load(recipe), ["--data.classes", "background", "polyp"], prog="edgemt run")
    with pytest.raises(ValueError, match=rf"data.classes: the layout {layout} draws 4 classes .*, and 2 are named"):
        check_recipe(few)
    renamed = override(recipes.load(recipe), ["--data.classes", "background", "a", "b", "c"], prog="edgemt run")
    check_recipe(renamed)
