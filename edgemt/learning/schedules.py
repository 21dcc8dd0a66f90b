"""Schedules of loss weights and thresholds; lengths are fractions of the run, so that they scale with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgemt.contract import Step


@dataclass(frozen=True)
class SigmoidRampUp:
    """start + (top - start) exp(-5 (1 - x)^2), x = progress / length up to 1, then constant. Laine & Aila, ICLR 2017.

    The usual sigmoid-shaped ramp-up: it begins at exp(-5) = 0.0067 of the way. `length` 0 is `top` from the first step.
    """

    top: float = 0.1
    start: float = 0.0
    length: float = 0.4  # fraction of the run

    def __post_init__(self) -> None:
        if not 0.0 <= self.length <= 1.0:
            raise ValueError(f"length: {self.length} is not a share of the run; give a number from 0 to 1")

    def __call__(self, step: Step) -> float:
        x = 1.0 if self.length == 0 else min(step.progress / self.length, 1.0)
        return self.start + (self.top - self.start) * math.exp(-5.0 * (1.0 - x) ** 2)

    @property
    def is_zero(self) -> bool:
        """True when it is 0 at every step."""
        return self.top == 0.0 and self.start == 0.0
