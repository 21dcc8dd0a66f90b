"""A student and its average: what most improvements of the mean teacher are built on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from edgemt.contract import Batch, Output, Step
from edgemt.learning.losses import (
    dice_ce,
)
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations.intensity import SSL4MIS, GaussianNoise
from edgemt.learning.roles import Ema, Networks, Role, Trainable
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class StudentTeacher(Method):
    """A student follows its average in a way of its own: a subclass says which in `compared`."""

    delivers: ClassVar[str] = "teacher"
    ramp: SigmoidRampUp = field(default_factory=SigmoidRampUp)  # of everything that needs no label
    ema: Ema = field(default_factory=Ema)
    noise: GaussianNoise = SSL4MIS  # on what the teacher sees

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "teacher": self.ema}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        if len(batch.unlabelled):
            return self.losses_with_unlabelled(nets, batch, step)
        return LossTerms(supervised=dice_ce(nets.student(batch.labelled).logits, batch.label))

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        """The terms of a batch that has unlabelled rows."""
        raise NotImplementedError


Mixing = Literal["none", "cutmix"]


def student_view(batch: Batch, *, strong: bool) -> Tensor:
    """The unlabelled rows that the student sees: the strong view where it is asked for and there is one."""
    return batch.strong if strong and batch.strong is not None else batch.unlabelled


def two_streams(network: nn.Module, labelled: Tensor, unlabelled: Tensor, *, separate: bool) -> tuple[Tensor, Tensor]:
    """Logits of labelled [L, K, *space] and of unlabelled rows [U, K, *space], from one forward pass or from two.

    Batch norm normalises a forward pass by its own mean and variance. Strong views in the same pass shift those of the
    labelled rows; two passes keep them apart, and the running statistics blend both.
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
    return Output(torch.cat([part.logits for part in parts]), maps=maps)


STUDENT_PAIR = ("student", "peer")
