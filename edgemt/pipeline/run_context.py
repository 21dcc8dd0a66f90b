"""A recipe at work in a folder: its data, its stage folders, and what the stages of a run share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import torch

from edgemt.artefacts.fingerprints import changes_of, load_content
from edgemt.pipeline.corruptions import CleanViews
from edgemt.pipeline.recipe import Recipe, teacher_dims
from edgemt.pipeline.recipe_checks import check_recipe
from edgemt.pipeline.slice_data import SliceData
from edgemt.pipeline.training_data import TrainingData
from edgemt.pipeline.volume_data import VolumeData


@dataclass(frozen=True)
class RunContext:
    """A recipe at work in the folder `out`. Nothing is read before a stage needs it."""

    recipe: Recipe
    out: Path
    overwrite: bool = False  # replace what does not fit the recipe, instead of renaming it

    @cached_property
    def slices(self) -> SliceData:
        """The frames that the student, and a 2-D teacher, learn from and are measured on."""
        return SliceData(self.recipe)

    @property
    def teacher_slices(self) -> TrainingData:
        """The same frames as a 2-D teacher gets them: without corruptions, unless `augment.corrupt_networks` is all."""
        augment = self.recipe.augment
        if augment.corruptions and augment.corrupt_networks == "student":
            return cast(TrainingData, CleanViews(self.slices))
        return self.slices

    @cached_property
    def volumes(self) -> VolumeData:
        """The same cases as whole volumes, for a 3-D teacher."""
        return VolumeData(self.slices)

    @property
    def is_3d(self) -> bool:
        """Whether the teacher is a 3-D network."""
        return teacher_dims(self.recipe.teacher.network) == 3

    def share_data(self, other: RunContext) -> RunContext:
        """Give `other`, which differs in seed or training alone, what was read and decoded here; returns it."""
        self.slices.share_with(other.slices)
        return other

    def folder(self, stage: str) -> Path:
        """The folder of a stage, `out/STAGE`."""
        return self.out / stage

    def list_file(self, key: str) -> Path:
        """The file that records the content of the data lists with this key."""
        return self.out / ".lists" / f"{key}.json"

    def explain(self, old: str, new: str) -> str:
        """What differs between the data lists of two keys; empty where one of them is not recorded."""
        one, other = (load_content(self.list_file(key)) for key in (old, new))
        return ", ".join(changes_of(one, other, "labelled", "unlabelled", "val")) if one and other else ""


def open_run(recipe: Recipe, out: Path, *, overwrite: bool = False) -> RunContext:
    """The context of a recipe in a folder; sets the number of CPU threads.

    Raises ValueError for a recipe whose parts do not fit together.
    """
    check_recipe(recipe)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    return RunContext(recipe, out, overwrite)
