"""RDMT: residual-driven mean teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from edgemt.learning.ema import Ema, ResidualEma
from edgemt.learning.published_settings import PublishedSettings
from edgemt.methods.mean_teacher import MeanTeacher


@dataclass(frozen=True)
class RDMT(MeanTeacher):
    """Inspired by RDMT: a mean teacher whose average moves faster where it lags behind the student.

    The loss of `mean_teacher`, with `ResidualEma` as the average.

    Target: the average's softmax of a noisy view, trusted everywhere.

    Differs: the abstract mentions a residual fed back into the average's update, and the survey the difference
    between teacher and averaged weights; the formula is ours (`ema.ResidualEma`). The paper's exponential Dice loss is
    left out.
    """

    release: ClassVar[PublishedSettings | None] = None  # its code is not public
    citation: ClassVar[str] = "Mei et al., RDMT: residual-driven mean teacher for semi-supervised segmentation"
    inspired: ClassVar[bool] = True
    ema: Ema = field(default_factory=ResidualEma)
