"""DDL: several students that label for each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from edgemt.contract import Batch, Step
from edgemt.learning.losses import (
    cross_entropy,
    dice_ce,
)
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.roles import Networks, Role, Trainable
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class MultiStudent(Method):
    """Inspired by DDL: each of several students learns pseudo-labels on which all others agree.

    For student a: L_a = dice_ce(x_l, y_l) + ramp(t) mean of CE(logits_a, label) over voxels where all other students
    predict the same label. With two students it is cross pseudo supervision.

    Target: the other students' hard labels, where all of them agree.

    Differs: the repository holds a supervised trainer only, and the survey mentions students with different mask
    branches; the vote is ours.
    """

    family: ClassVar[str] = "several students"
    citation: ClassVar[str] = "Zhou et al., DDL: multi-student learning, as the survey names it"
    inspired: ClassVar[bool] = True
    students: int = 3
    ramp: SigmoidRampUp = field(default_factory=SigmoidRampUp)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.students < 2:
            raise ValueError(f"students: {self.students} is too few, as each learns from the others; give 2 or more")

    @property
    def names(self) -> tuple[str, ...]:
        return ("student", *(f"peer{number}" for number in range(1, self.students)))

    def roles(self) -> dict[str, Role]:
        return {name: Trainable(init=number) for number, name in enumerate(self.names)}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        logits = {name: nets[name](batch.image).logits for name in self.names}
        terms, count = LossTerms(), batch.count
        for name, own in logits.items():
            terms[f"supervised_{name}"] = dice_ce(own[:count], batch.label)
            if len(batch.unlabelled):
                label, *votes = (other[count:].detach().argmax(1) for peer, other in logits.items() if peer != name)
                same = torch.stack([vote == label for vote in (label, *votes)]).all(0).unsqueeze(1)
                terms[f"pseudo_{name}"] = self.ramp(step) * cross_entropy(own[count:], label, weight=same)
                terms.notes[f"accepted_{name}"] = same.to(own.dtype).mean()
        return terms
