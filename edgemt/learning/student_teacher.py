"""A student and its average: what most improvements of the mean teacher are built on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from edgemt.contract import Batch, Step
from edgemt.learning.losses import dice_ce
from edgemt.learning.method import Method, Terms
from edgemt.learning.perturbations import SSL4MIS, Noise
from edgemt.learning.roles import Ema, Players, Role, Trainable
from edgemt.learning.schedules import Ramp


@dataclass(frozen=True)
class Pair(Method):
    """A student follows its average in a way of its own: a subclass says which in `compared`."""

    delivers: ClassVar[str] = "teacher"
    ramp: Ramp = field(default_factory=Ramp)  # of everything that needs no label
    ema: Ema = field(default_factory=Ema)
    noise: Noise = SSL4MIS  # on what the teacher sees

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "teacher": self.ema}

    def losses(self, nets: Players, batch: Batch, step: Step) -> Terms:
        if len(batch.unlabelled):
            return self.compared(nets, batch, step)
        return Terms(supervised=dice_ce(nets.student(batch.labelled).logits, batch.label))

    def compared(self, nets: Players, batch: Batch, step: Step) -> Terms:
        """The terms of a batch that has unlabelled rows."""
        raise NotImplementedError
