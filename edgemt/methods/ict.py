"""ICT: interpolation consistency training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from edgemt.learning.perturbations.intensity import GaussianNoise
from edgemt.learning.targets import SoftTarget
from edgemt.methods.mean_teacher import MeanTeacher


@dataclass(frozen=True)
class ICT(MeanTeacher):
    """ICT: the prediction of a mixture of two images must be the mixture of their predictions.

    L = dice_ce(x_l, y_l) + ramp(t) MSE(p(l x_i + (1 - l) x_j), l q(x_i) + (1 - l) q(x_j)), l ~ Beta(0.2, 0.2).

    Target: the mixture of the average's softmax of both images, trusted everywhere.

    Differs: as in the port of SSL4MIS (factors drawn from Beta(0.2, 0.2), squared error, weight 0.1); an image is mixed
    with its neighbour in the batch. Otherwise as `mean_teacher`.
    """

    citation: ClassVar[str] = "Verma et al., IJCAI 2019, Interpolation consistency training"
    target: SoftTarget = field(default_factory=lambda: SoftTarget(noise=GaussianNoise(std=0.0)))
    mix: Literal["none", "cutmix", "mixup"] = "mixup"
