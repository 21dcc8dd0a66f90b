"""What a network learns from and is measured on, as the stages see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from edgemt.artefacts import stage_folder
from edgemt.data.options import DataOptions
from edgemt.model_card import FileMetrics, ModelCard
from edgemt.training import engine
from edgemt.training.options import Schedule


class TrainingData(Protocol):
    """What a network learns from and is measured on: frames (`SliceData`) or whole volumes (`VolumeData`)."""

    @property
    def cache_inputs(self) -> dict[str, Any]:
        """The parts of the recipe that change what a network learns here, by name."""
        ...

    @property
    def measured_on(self) -> str:
        """Identifies the validation list, and how it is measured here."""
        ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def overlapping(self) -> bool:
        """Whether classes may overlap: a network then has no logit for the background."""
        ...

    @property
    def example(self) -> torch.Tensor:
        """One input of the network, [1, K, *space]."""
        ...

    def draw(
        self, schedule: Schedule, *, all_labels: bool = False, bank: Path | None = None, alike: bool = False
    ) -> engine.DrawBatch:
        """Batches by number."""
        ...

    def dice(self, network: nn.Module) -> float:
        """Mean Dice on the validation list, the cheap way: for the curve of a run."""
        ...

    def measured(self, network: nn.Module) -> FileMetrics:
        """Every metric on the validation list, for the card."""
        ...

    def card(self) -> ModelCard:
        """A card with all that is the same for every stage."""
        ...

    @property
    def device(self) -> torch.device:
        """The device that networks are measured on."""
        ...


_ROLES = (
    *("root", "layout", "labelled", "unlabelled", "val", "val_in_training", "seed", "labelled_seed", "folds"),
    *("fold_file",),
    *("patient_pattern", "phantom", "calibration", "calibration_share"),
)


def as_read(data: DataOptions) -> dict[str, Any]:
    """The options that change how a file becomes an array. Which file plays which part is in the lists' content."""
    return {name: value for name, value in stage_folder.plain(data).items() if name not in (*_ROLES, "is")}
