"""ICT: interpolation consistency training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from edgemt.learning.perturbations import GaussianNoise
from edgemt.learning.targets import SoftTarget
from edgemt.methods.mean_teacher import MeanTeacher


@dataclass(frozen=True)
class ICT(MeanTeacher):
    """ICT: what is said of a mixture of two images should be the mixture of what is said of each.

    Target: the mixture of the average's softmax of both images, trusted everywhere.

    Differs: as in the port of SSL4MIS (shares drawn from Beta(0.2, 0.2), squared error, weight 0.1); an image is mixed
    with its neighbour in the batch. Otherwise as `mean_teacher`.
    """

    citation: ClassVar[str] = "Verma et al., IJCAI 2019, Interpolation consistency training"
    target: SoftTarget = field(default_factory=lambda: SoftTarget(noise=GaussianNoise(std=0.0)))
    mix: Literal["none", "cutmix", "mixup"] = "mixup"
