"""MS-MT: multi-scale mean teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import dice_ce, mse, probabilities
from edgemt.learning.method import LossTerms, every_scale
from edgemt.learning.roles import Networks
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class MSMT(StudentTeacher):
    """Inspired by MS-MT: labels and teacher speak to every scale of the decoder, not the last one alone.

    Target: the average's softmax at each scale, trusted everywhere.

    Differs: of the paper only the abstract was readable: deep supervision and consistency at several scales, all
    weighed alike here. Its translation between modalities beforehand (CUT) is not part of a training step.
    """

    inspired: ClassVar[bool] = True
    heads: ClassVar[tuple[Head, ...]] = ("scales",)
    family: ClassVar[str] = "consistency"
    citation: ClassVar[str] = "Zhao et al., crossMoDA 2022, MS-MT: Multi-scale mean teacher"

    def compared(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        said, count = nets.student(batch.image), batch.count
        with torch.no_grad():
            wise = nets.teacher(self.noise(batch.unlabelled, step.generator))
        scales = list(zip(every_scale(said), every_scale(wise), strict=True))
        gaps = [mse(probabilities(mine[count:]), probabilities(theirs)).mean() for mine, theirs in scales]
        return LossTerms(
            supervised=torch.stack([dice_ce(mine[:count], batch.label) for mine, _ in scales]).mean(),
            consistency=self.ramp(step) * torch.stack(gaps).mean(),
        )
