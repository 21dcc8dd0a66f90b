"""Options of a training. Imports no torch, so that a recipe can be read without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GROWTH_FRACTION = 0.7  # fraction of a run at which progressive resizing reaches the full size
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True)
class Schedule:
    """Number of steps, batch composition, optimiser and learning rate of a training."""

    steps: int = 2000
    labelled: int = 8  # labelled rows in a batch, for each process
    unlabelled: int = 8  # unlabelled rows in a batch, for each process
    optimiser: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup: int = 50  # steps of linear warm-up
    power: float = 0.9  # of the polynomial decay to zero
    start_size: float = 1.0  # sides of the first batches as a fraction; grows to 1 within GROWTH_FRACTION of the run
    clip: float = 5.0  # largest gradient norm; 0 does not clip
    precision: Precision = "auto"
    validations: int = 5  # number of points of the validation curve; the weights of the last step are the result
    checkpoint_every: int = 100  # steps
    patience: int = 20  # consecutive non-finite losses before the last checkpoint is restored

    def __post_init__(self) -> None:
        for name in ("steps", "labelled", "learning_rate", "checkpoint_every", "patience"):
            if getattr(self, name) <= 0:
                raise ValueError(f"schedule.{name}: {getattr(self, name)} is not positive")
        if not 0.1 <= self.start_size <= 1.0:
            raise ValueError(f"schedule.start_size: {self.start_size} is no fraction of the size; give 0.1 to 1")
        if self.unlabelled < 0 or self.validations < 0:
            raise ValueError("schedule.unlabelled and schedule.validations cannot be negative")

    def lr_at(self, index: int) -> float:
        """Learning rate at step `index`: lr * min(1, (index + 1) / warmup) * (1 - index / steps) ** power."""
        warm = min(1.0, (index + 1) / max(self.warmup, 1))
        return self.learning_rate * warm * (1 - index / max(self.steps, 1)) ** self.power

    def size_fraction(self, index: int) -> float:
        """Sides of the batch at step `index` as a fraction of the frame: linear from `start_size` to 1."""
        return min(1.0, self.start_size + (1 - self.start_size) * index / (GROWTH_FRACTION * max(self.steps, 1)))
