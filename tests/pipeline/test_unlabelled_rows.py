"""A semi-supervised teacher without unlabelled rows would be a supervised one under another name: it is refused."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from edgemt import recipes
from edgemt.methods import METHODS
from edgemt.methods.catalogue import row
from edgemt.pipeline.overrides import override
from edgemt.pipeline.recipe_checks import check_recipe


@pytest.mark.parametrize("method", ["cople", "mean_teacher", "entropy", "label_correction"])
def test_a_teacher_that_would_see_no_unlabelled_image_is_refused(method: str) -> None:
    flags = ["--teacher.method", method]
    with pytest.raises(ValueError, match=r"teacher.schedule.unlabelled is 0; set it .*such as 8"):
        check_recipe(override(recipes.load("kvasir_cpu"), flags, prog="edgemt run"))
    flags += ["--teacher.schedule.unlabelled", "8"]
    check_recipe(override(recipes.load("kvasir_cpu"), flags, prog="edgemt run"))


def test_a_supervised_teacher_needs_no_unlabelled_row() -> None:
    check_recipe(recipes.load("kvasir_cpu"))


def test_the_methods_that_need_none_are_those_whose_description_names_it() -> None:
    note = "unlabelled images are not used"
    described = {name for name, method in METHODS.items() if note in row(name, method).target}
    assert described == {name for name, method in METHODS.items() if not method.uses_unlabelled} == {"supervised"}
