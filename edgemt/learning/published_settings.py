"""Optimiser and augmentation of released code, for `edgemt compare --settings published`.

A method class has those of its release in `release`. Network, rows, steps and losses are those of the recipe and of the
method. All releases of this table train heart slices of ACDC with a random flip and quarter turn, or a
rotation of up to 20 degrees, and images in [0, 1]; their SGD has momentum 0.9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PublishedSettings:
    """Optimiser and augmentation of a release, where they differ from a recipe.

    The learning rate at step t of T is `learning_rate` (1 - t / T) ** `power`; power 0 leaves it constant.
    """

    source: str  # where the values are from
    optimiser: Literal["adamw", "sgd"] = "sgd"
    learning_rate: float = 0.01
    weight_decay: float = 1e-4
    power: float = 0.9
    warmup: int = 0  # steps
    clip: float = 0.0  # largest gradient norm; 0: none
    augment: Literal["", "light"] = "light"  # flips, quarter turns and rotations alone; empty: the recipe's own
    per_image: bool | None = None  # each frame normalised by its own mean and deviation; None: as the recipe has it

    def line(self) -> str:
        """The values in one line."""
        decay = "constant" if self.power == 0 else f"falls with power {self.power:g}"
        parts = [
            f"{self.optimiser} {self.learning_rate:g}, {decay}",
            f"weight decay {self.weight_decay:g}",
            f"{self.warmup} steps of warm-up",
            f"gradient norm up to {self.clip:g}" if self.clip else "gradients as they are",
            *(["flips, quarter turns and rotations alone"] if self.augment == "light" else []),
            *([] if self.per_image is None else [f"per_image {self.per_image}"]),
        ]
        return ", ".join(parts)


SSL4MIS = PublishedSettings("SSL4MIS, its scripts for 2-D: SGD 0.01 with polynomial decay")
CONSTANT = PublishedSettings("the release's ACDC script: SGD at a constant 0.01", power=0.0)
IN_UNIT_RANGE = PublishedSettings(
    "the release's ACDC script: SGD 0.01 with polynomial decay (CrossMatch: Nesterov's), images in [0, 1]",
    per_image=False,
)
POLYNOMIAL = PublishedSettings("the release's ACDC script: SGD 0.01 with polynomial decay")
ATRIUM = PublishedSettings("the release has volumes of the atrium alone: SGD 0.01 with polynomial decay")
VOLUMES = PublishedSettings(
    "the release has volumes of the atrium alone: SGD 0.01 that falls to a tenth every 2,500 of 6,000 iterations, "
    "here by the polynomial, with flips and quarter turns"
)
