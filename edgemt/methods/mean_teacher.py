"""Mean teachers: a student follows its own average on unlabelled images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from edgemt.contract import Batch, Output, Step
from edgemt.learning.losses import Distance, dice_ce, distance
from edgemt.learning.method import Method, Terms
from edgemt.learning.perturbations import Box, Noise, cutmix, mixup, mixup_share
from edgemt.learning.roles import Ema, Players, Role, Trainable
from edgemt.learning.schedules import Ramp
from edgemt.learning.targets import Soft, UncertaintyMasked
from edgemt.methods.as_published import SSL4MIS, Published

Mix = Literal["none", "cutmix"]


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


@dataclass(frozen=True)
class MeanTeacher(Method):
    """The student should say of unlabelled images what its weight average says.

    The target rule decides what the teacher says and where it is trusted; with `strong` and `mix` the student gets the
    harder view and CutMix boxes, target and weight cut alike. `mix` "mixup" is `Interpolation`.

    Target: the average's softmax of a weak or noisy view, trusted everywhere.

    Differs: as in the port of SSL4MIS (noise on the teacher's input, as strong as there in deviations of the image;
    consistency on unlabelled rows; weight 0.1), but batch-norm statistics are averaged with the weights, the ramp is a
    share of the run, 0.4 of it unless set otherwise, where theirs is all of it, and the teacher is delivered. The
    authors themselves advise a larger weight (C to C^2).
    """

    delivers: ClassVar[str] = "teacher"
    release: ClassVar[Published | None] = SSL4MIS
    citation: ClassVar[str] = "Tarvainen & Valpola, NeurIPS 2017, Mean teachers are better role models"
    target: Soft = field(default_factory=Soft)
    distance: Distance = "mse"
    ramp: Ramp = field(default_factory=Ramp)
    ema: Ema = field(default_factory=Ema)
    strong: bool = False
    mix: Literal["none", "cutmix", "mixup"] = "none"
    box: Box = field(default_factory=Box)
    separate_streams: bool = False  # labelled and unlabelled rows in forward passes of their own: own batch statistics
    image_dice: bool = False  # Dice of each image in place of that of the batch

    def published(self) -> Published | None:
        """Of the plain mean teacher and UA-MT: no release has the other targets, strong views or CutMix."""
        ours = type(self.target) not in (Soft, UncertaintyMasked) or self.strong or self.mix == "cutmix"
        return None if ours else self.release

    def aside(self) -> str:
        if self.separate_streams:
            return "CutMix, separate streams." if self.mix == "cutmix" else "Separate streams."
        return "Strong views, CutMix." if self.mix == "cutmix" else ""

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "teacher": self.ema}

    def losses(self, nets: Players, batch: Batch, step: Step) -> Terms:
        if not len(batch.unlabelled):
            logits = nets.student(batch.labelled).logits
            return Terms(supervised=dice_ce(logits, batch.label, per_image=self.image_dice))
        view = student_view(batch, strong=self.strong)
        probability, weight = self.target(nets.teacher, batch.unlabelled, step)
        if self.mix == "cutmix":
            box = self.box.draw(view, step.generator)
            view, probability = cutmix(box, view), cutmix(box, probability)
            weight = None if weight is None else cutmix(box, weight)
        elif self.mix == "mixup":
            share = mixup_share(view, step.generator)
            view, probability = mixup(share, view), mixup(share, probability)
            weight = None if weight is None else mixup(share, weight)
        labelled, unlabelled = two_streams(nets.student, batch.labelled, view, separate=self.separate_streams)
        gap = distance(self.distance, unlabelled, probability, weight=weight, per_image=self.image_dice)
        supervised = dice_ce(labelled, batch.label, per_image=self.image_dice)
        terms = Terms(supervised=supervised, consistency=self.ramp(step) * gap)
        if weight is not None:
            terms.notes["accepted"] = weight.mean()
        return terms


@dataclass(frozen=True)
class Interpolation(MeanTeacher):
    """ICT: what is said of a mixture of two images should be the mixture of what is said of each.

    Target: the mixture of the average's softmax of both images, trusted everywhere.

    Differs: as in the port of SSL4MIS (shares drawn from Beta(0.2, 0.2), squared error, weight 0.1); an image is mixed
    with its neighbour in the batch. Otherwise as `mean_teacher`.
    """

    citation: ClassVar[str] = "Verma et al., IJCAI 2019, Interpolation consistency training"
    target: Soft = field(default_factory=lambda: Soft(noise=Noise(std=0.0)))
    mix: Literal["none", "cutmix", "mixup"] = "mixup"
