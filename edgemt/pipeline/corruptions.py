"""Which corruptions a recipe trains with, and which networks see them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgemt.data.augment_options import AugmentOptions
from edgemt.data.corruptions import corruption_names, modality_of
from edgemt.pipeline.recipe import Recipe

if TYPE_CHECKING:
    from edgemt.contract import Batch
    from edgemt.pipeline.slice_data import SliceData
    from edgemt.training.options import Schedule

VOLUMES = ("volumes", "decathlon", "h5", "phantom_volumes")  # layouts of `data.layout`


def training_corruptions(recipe: Recipe, *, of_volumes: bool = False) -> tuple[str, ...]:
    """The kinds that `augment.corruptions` names; empty without it.

    `of_volumes`: the frames are known to be slices, whatever `data.layout` leaves open. Raises ValueError for a kind
    that needs RGB where the frames are grey.
    """
    chosen, data = recipe.augment.corruptions, recipe.data
    if not chosen:
        return ()
    colour = data.colour
    volumes = of_volumes or data.slices > 1 or data.layout in VOLUMES
    modality, _ = modality_of(recipe.augment.preset, colour=colour, volumes=volumes, window=data.window is not None)
    return corruption_names(chosen, modality=modality, colour=colour)


@dataclass(frozen=True)
class CleanViews:
    """The frames of `slices` as training data without corruptions; all else is that of `slices`.

    A stage that learns from it has the key that it would have without `augment.corruptions`.
    """

    slices: SliceData

    def __getattr__(self, name: str) -> Any:
        return getattr(self.slices, name)

    @property
    def cache_inputs(self) -> dict[str, Any]:
        none = AugmentOptions()
        clean = replace(
            self.slices.recipe.augment,
            corruptions=none.corruptions,
            corrupt_strong=none.corrupt_strong,
            corrupt_labelled=none.corrupt_labelled,
            corrupt_networks=none.corrupt_networks,
        )
        return {**self.slices.cache_inputs, "augment": clean}

    def draw(
        self, schedule: Schedule, *, all_labels: bool = False, bank: Path | None = None, alike: bool = False
    ) -> Callable[..., Batch]:
        """Batches by number."""
        return self.slices.stream(schedule, all_labels=all_labels, bank=bank, alike=alike, corrupt=False).batch
