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
    """Inspired by DDL: several students with different first weights, each taught where all others agree.

    With two students it is cross pseudo supervision.

    Target: the other students' hard labels, where all of them agree.

    Differs: the repository holds a supervised trainer only, and the survey speaks of students with different mask
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
            raise ValueError(f"students: {self.students} has nobody to agree with; give 2 or more")

    @property
    def names(self) -> tuple[str, ...]:
        return ("student", *(f"peer{number}" for number in range(1, self.students)))

    def roles(self) -> dict[str, Role]:
        return {name: Trainable(init=number) for number, name in enumerate(self.names)}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        logits = {who: nets[who](batch.image).logits for who in self.names}
        terms, count = LossTerms(), batch.count
        for who, said in logits.items():
            terms[f"supervised_{who}"] = dice_ce(said[:count], batch.label)
            if len(batch.unlabelled):
                label, *votes = (other[count:].detach().argmax(1) for name, other in logits.items() if name != who)
                same = torch.stack([vote == label for vote in (label, *votes)]).all(0).unsqueeze(1)
                terms[f"pseudo_{who}"] = self.ramp(step) * cross_entropy(said[count:], label, weight=same)
                terms.notes[f"accepted_{who}"] = same.to(said.dtype).mean()
        return terms
