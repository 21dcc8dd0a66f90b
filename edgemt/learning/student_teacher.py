"""Base class of the mean-teacher variants, and forward passes that several methods share.

Shapes: N batch, L labelled, U unlabelled, K image channels, C classes, *space 2 or 3 axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from edgemt.contract import Batch, Output, Step
from edgemt.learning.ema import Ema
from edgemt.learning.losses import (
    dice_ce,
)
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations.intensity import SSL4MIS, GaussianNoise
from edgemt.learning.roles import Networks, Role, Trainable
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class StudentTeacher(Method):
    """A student and its average; a subclass defines the losses in `losses_with_unlabelled`.

    A batch without unlabelled rows gives dice_ce(x_l, y_l) alone.
    """

    delivers: ClassVar[str] = "teacher"
    ramp: SigmoidRampUp = field(default_factory=SigmoidRampUp)  # weight of all losses without labels
    ema: Ema = field(default_factory=Ema)
    noise: GaussianNoise = SSL4MIS  # added to the input of the teacher

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "teacher": self.ema}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        if len(batch.unlabelled):
            return self.losses_with_unlabelled(nets, batch, step)
        return LossTerms(supervised=dice_ce(nets.student(batch.labelled).logits, batch.label))

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        """The losses of a batch with unlabelled rows."""
        raise NotImplementedError


Mixing = Literal["none", "cutmix"]


def student_view(batch: Batch, *, strong: bool) -> Tensor:
    """Unlabelled rows [U, K, *space] for the student: the strong view if `strong` and the batch has one."""
    return batch.strong if strong and batch.strong is not None else batch.unlabelled


def two_streams(network: nn.Module, labelled: Tensor, unlabelled: Tensor, *, separate: bool) -> tuple[Tensor, Tensor]:
    """Logits of labelled [L, K, *space] and of unlabelled rows [U, K, *space], from one forward pass or from two.

    Batch norm normalises a forward pass by its own mean and variance. Strong views in the same pass change those of the
    labelled rows; with two passes they do not, and the running statistics average both.
    """
    if separate and len(unlabelled):
        return network(labelled).logits, network(unlabelled).logits
    logits = network(torch.cat([labelled, unlabelled])).logits
    return logits[: len(labelled)], logits[len(labelled) :]


def one_output(network: nn.Module, image: Tensor, *, count: int, separate: bool) -> Output:
    """Logits and maps of all rows [N, K, *space], the first `count` labelled; `separate` as in `two_streams`."""
    if not separate or count == len(image):
        return network(image)
    parts = [network(rows) for rows in (image[:count], image[count:])]
    maps = tuple(torch.cat(pair) for pair in zip(*(part.maps for part in parts), strict=True))
    logits, rest = torch.cat([part.logits for part in parts]), [part.uncertainty for part in parts]
    uncertainty = torch.cat([part for part in rest if part is not None]) if rest[0] is not None else None
    return Output(logits, maps=maps, uncertainty=uncertainty)


STUDENT_PAIR = ("student", "peer")
