"""One student and more than one guide: averages of different memory, in turn, or beside a network that only labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from edgemt.contract import Batch, Step
from edgemt.learning.losses import Distance, cross_entropy, dice_ce, distance, kl, mse, probabilities, weighted_mean
from edgemt.learning.method import Method, Terms
from edgemt.learning.perturbations import Box, Noise, cutmix
from edgemt.learning.pseudo_labels import hard, joined, soft
from edgemt.learning.roles import Alternating, Ema, Players, Residual, Role, Trainable, Turns
from edgemt.learning.schedules import Ramp
from edgemt.methods.as_published import POLYNOMIAL, Published
from edgemt.methods.mean_teacher import MeanTeacher, student_view

GUIDES = ("teacher", "tutor", "elder", "sage")


def agreed(looks: Tensor) -> tuple[Tensor, Tensor]:
    """[T, N, C, *space] -> what the guides say together, and a weight [N, 1, *space] that falls as they part.

    The weight is e^-KL, from each guide to what they say together, where all name the same class, and 0 elsewhere.
    """
    target = joined(looks)
    apart = torch.stack([kl(target.clamp_min(1e-8).log(), look) for look in looks]).mean(0)
    labels = looks.argmax(2)
    same = torch.stack([a == b for a, b in pairwise(labels)]).all(0).unsqueeze(1)
    return target, same * (-apart).exp()


@dataclass(frozen=True)
class DualTeacher(Method):
    """Inspired by the dual teacher: two averages, of short and of long memory, trusted where they agree.

    Target: what both averages say together, trusted by e^-KL where they name the same class.

    Differs: the paper's teachers learn from 2-D and from 2-D with 3-D context and share one 2-D student; its weights
    are not published. Here both live in the space of the student and differ by decay and noise; the context of
    neighbouring slices is left out.
    """

    delivers: ClassVar[str] = "teacher"
    citation: ClassVar[str] = "Zou et al., Dual teacher: 2-D and 3-D context for semi-supervised segmentation"
    inspired: ClassVar[bool] = True
    decays: tuple[float, ...] = (0.99, 0.999)
    noise: Noise = field(default_factory=Noise)
    ramp: Ramp = field(default_factory=Ramp)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= len(self.decays) <= len(GUIDES):
            raise ValueError(f"decays: {self.decays} makes {len(self.decays)} teachers; give 2 to {len(GUIDES)}")

    def roles(self) -> dict[str, Role]:
        guides = {name: Ema(decay=decay) for name, decay in zip(GUIDES, self.decays, strict=False)}
        return {"student": Trainable(), **guides}

    def losses(self, nets: Players, batch: Batch, step: Step) -> Terms:
        logits = nets.student(batch.image).logits
        terms = Terms(supervised=dice_ce(logits[: batch.count], batch.label))
        if len(batch.unlabelled):
            guides = GUIDES[: len(self.decays)]
            looks = [soft(nets[name], self.noise(batch.unlabelled, step.generator)) for name in guides]
            target, weight = agreed(torch.stack(looks))
            gap = weighted_mean(mse(probabilities(logits[batch.count :]), target), weight)
            terms["consistency"] = self.ramp(step) * gap
            terms.notes["accepted"] = weight.mean()
        return terms


@dataclass(frozen=True)
class ThreeTeachers(DualTeacher):
    """Inspired by three teachers: averages of short, middle and long memory vote, each as it is certain.

    Target: what the three averages say together, trusted by e^-KL where they name the same class.

    Differs: only the survey's sentence is known: three teachers guide one student. What sets them apart, decay and
    noise here, is our choice.
    """

    citation: ClassVar[str] = "Qiu et al., three teachers, as the survey names it"
    decays: tuple[float, ...] = (0.9, 0.99, 0.999)


@dataclass(frozen=True)
class AlternateDiverse(Method):
    """AD-MT: two averages move in turn and grow apart; where they part, the most certain voice counts.

    Each turn has its own view: strong intensities, or CutMix of the weak ones. Follows the released 3-D script
    (cross-entropy, confidence 0.8, weight 2, turns of 1 to 19 steps of 15000, mean 10); its 2-D script takes Dice,
    0.95, and turns of up to 50 of 30000.

    Target: hard labels of both averages, joined by e^-entropy; in conflict the student's own if surer; above a bar.

    Differs: turns of that share of a short run would last a step or two, and the averages move as one: the longest has
    ten steps at least, and the decay falls with it. The release compares a student that was not cut by CutMix with a
    target that was: here all are cut alike. It keeps one teacher in eval mode, by turns; here both always are.
    """

    delivers: ClassVar[str] = "teacher"
    release: ClassVar[Published | None] = POLYNOMIAL
    citation: ClassVar[str] = "Zhao et al., ECCV 2024, Alternate diverse teaching for semi-supervised segmentation"
    turns: Turns = field(default_factory=lambda: Turns(longest=1 / 790, drawn=True, least=10))
    decay: float = 0.99  # of a run whose turns last up to 19 steps, as released
    confidence: float = 0.8
    distance: Distance = "ce"
    ramp: Ramp = field(default_factory=lambda: Ramp(top=2.0))
    box: Box = field(default_factory=lambda: Box(chance=1.0))

    def roles(self) -> dict[str, Role]:
        pair = [Alternating(decay=self.decay, mode="eval", turns=self.turns, place=place, per=19) for place in (0, 1)]
        return {"student": Trainable(), "teacher": pair[0], "tutor": pair[1]}

    def losses(self, nets: Players, batch: Batch, step: Step) -> Terms:
        count, rows = batch.count, len(batch.unlabelled)
        if not rows:
            return Terms(supervised=dice_ce(nets.student(batch.labelled).logits, batch.label))
        looks = torch.stack([soft(nets[name], batch.unlabelled) for name in ("teacher", "tutor")])
        cut = self.turns(step) == 1
        box = self.box.draw(batch.unlabelled, step.generator)
        view = cutmix(box, batch.unlabelled) if cut else student_view(batch, strong=True)
        logits = nets.student(torch.cat([batch.image, view])).logits
        target, weight = self.compromise(looks, probabilities(logits[count : count + rows].detach()))
        if cut:
            target, weight = cutmix(box, target), cutmix(box, weight)
        gap = distance(self.distance, logits[count + rows :], target, weight=weight)
        terms = Terms(supervised=dice_ce(logits[:count], batch.label), consistency=self.ramp(step) * gap)
        terms.notes["accepted"] = weight.mean()
        return terms

    def compromise(self, looks: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Hard labels [U, C, *space] of two teachers [2, U, C, *space] and the student, and where they are sure."""
        said = joined(looks)
        conflict = (looks[0].argmax(1) != looks[1].argmax(1)).unsqueeze(1)
        said = torch.where(conflict & (own.amax(1, keepdim=True) > said.amax(1, keepdim=True)), own, said)
        return hard(said), (said.amax(1, keepdim=True) >= self.confidence).to(said.dtype)


@dataclass(frozen=True)
class ResidualDriven(MeanTeacher):
    """Inspired by RDMT: a mean teacher whose average catches up fastest where it lags behind most.

    Target: the average's softmax of a noisy view, trusted everywhere.

    Differs: the abstract tells of a residual fed back into the average's update, and the survey of the difference
    between teacher and averaged weights; the formula is ours (`roles.Residual`). The paper's exponential Dice loss is
    left out.
    """

    release: ClassVar[Published | None] = None  # its code is not public
    citation: ClassVar[str] = "Mei et al., RDMT: residual-driven mean teacher for semi-supervised segmentation"
    inspired: ClassVar[bool] = True
    ema: Ema = field(default_factory=Residual)


@dataclass(frozen=True)
class Auxiliary(Method):
    """Inspired by auxiliary pseudo-label networks: one learns from labels alone and labels the rest.

    The auxiliary network is never taught by the student, so the two stay apart.

    Target: the average's softmax, and the auxiliary network's hard labels where the average names the same class.

    Differs: only the survey's sentence is known; weights and the rule of agreement are ours.
    """

    delivers: ClassVar[str] = "teacher"
    citation: ClassVar[str] = "A mean teacher with an auxiliary pseudo-label network, as the survey names it"
    inspired: ClassVar[bool] = True
    noise: Noise = field(default_factory=Noise)
    ramp: Ramp = field(default_factory=Ramp)
    pseudo: Ramp = field(default_factory=Ramp)

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "auxiliary": Trainable(init=1), "teacher": Ema()}

    def losses(self, nets: Players, batch: Batch, step: Step) -> Terms:
        count, logits = batch.count, nets.student(batch.image).logits
        terms = Terms(
            supervised_student=dice_ce(logits[:count], batch.label),
            supervised_auxiliary=dice_ce(nets.auxiliary(batch.labelled).logits, batch.label),
        )
        if len(batch.unlabelled):
            steady = soft(nets.teacher, self.noise(batch.unlabelled, step.generator))
            label = soft(nets.auxiliary, batch.unlabelled).argmax(1)
            same = (label == steady.argmax(1)).unsqueeze(1)
            terms["consistency_student"] = self.ramp(step) * distance("mse", logits[count:], steady)
            terms["pseudo_student"] = self.pseudo(step) * cross_entropy(logits[count:], label, weight=same)
            terms.notes["accepted"] = same.to(logits.dtype).mean()
        return terms
