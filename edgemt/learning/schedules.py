"""Numbers that know the step. Lengths are shares of the run, so a schedule scales with its length."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgemt.contract import Step


@dataclass(frozen=True)
class SigmoidRampUp:
    """`start` to `top` along exp(-5 (1 - t)^2) over the first `length` of the run, then flat. Laine & Aila.

    The curve begins at exp(-5) = 0.0067 of the way, as everybody's does. `length` 0 is `top` from the first
    step.
    """

    top: float = 0.1
    start: float = 0.0
    length: float = 0.4

    def __post_init__(self) -> None:
        if not 0.0 <= self.length <= 1.0:
            raise ValueError(f"length: {self.length} is not a share of the run; give a number from 0 to 1")

    def __call__(self, step: Step) -> float:
        done = 1.0 if self.length == 0 else min(step.share / self.length, 1.0)
        return self.start + (self.top - self.start) * math.exp(-5.0 * (1.0 - done) ** 2)

    @property
    def is_zero(self) -> bool:
        """True when it is 0 at every step."""
        return self.top == 0.0 and self.start == 0.0


@dataclass(frozen=True)
class Poly:
    """`top` * (1 - share)^power: the learning-rate schedule of most segmentation papers."""

    power: float = 0.9
    top: float = 1.0

    def __call__(self, step: Step) -> float:
        return self.top * (1.0 - step.share) ** self.power


@dataclass(frozen=True)
class Steps:
    """`top`, times `factor` after each share of the run in `at`."""

    at: tuple[float, ...] = (0.4, 0.8)
    factor: float = 0.1
    top: float = 1.0

    def __call__(self, step: Step) -> float:
        return self.top * self.factor ** sum(step.share >= share for share in self.at)


@dataclass(frozen=True)
class Constant:
    """The same number at every step."""

    value: float = 1.0

    def __call__(self, step: Step) -> float:
        return self.value
