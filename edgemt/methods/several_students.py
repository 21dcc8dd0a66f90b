"""More than one student: they share a teacher, compete for its labels, outvote each other, or advance by turns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import (
    cross_entropy,
    dice,
    dice_ce,
    distance,
    entropy,
    mse,
    onehot,
    probabilities,
    weighted_mean,
)
from edgemt.learning.method import Method, Terms, Turn
from edgemt.learning.perturbations import Noise
from edgemt.learning.pseudo_labels import joined, sharpen, signed_distance, soft
from edgemt.learning.roles import Alternating, Ema, InTurn, Players, Role, Trainable, Turns
from edgemt.learning.schedules import Ramp

PAIR = ("student", "peer")


@dataclass(frozen=True)
class SharedTeacher(Method):
    """Inspired by DSST: two students with different first weights share an average that follows by turns.

    Both learn at every step and both follow the teacher on unlabelled images.

    Target: the average's softmax of a noisy view, trusted everywhere.

    Differs: only the survey's sentence is known: two students alternately update one teacher. The length of a turn, a
    step here, is our choice.
    """

    delivers: ClassVar[str] = "teacher"
    citation: ClassVar[str] = "Li et al., DSST: dual students and a shared teacher, as the survey names it"
    inspired: ClassVar[bool] = True
    noise: Noise = field(default_factory=Noise)
    ramp: Ramp = field(default_factory=Ramp)
    ema: InTurn = field(default_factory=InTurn)

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "peer": Trainable(init=1), "teacher": self.ema}

    def losses(self, nets: Players, batch: Batch, step: Step) -> Terms:
        terms, rows = Terms(), len(batch.unlabelled)
        steady = soft(nets.teacher, self.noise(batch.unlabelled, step.generator)) if rows else None
        for who in PAIR:
            logits = nets[who](batch.image).logits
            terms[f"supervised_{who}"] = dice_ce(logits[: batch.count], batch.label)
            if steady is not None:
                terms[f"consistency_{who}"] = self.ramp(step) * distance("mse", logits[batch.count :], steady)
        return terms


@dataclass(frozen=True)
class Competitive(Method):
    """CDS: of two students the surer one at a voxel learns the label of the teacher, an average of both.

    Losses as released: cross-entropy alone, weight 1, noise for the students and none for the teacher.

    Target: the average's hard labels, for the surer student of each voxel.

    Differs: both students of the release are one object, here they have their own weights; it multiplies the loser's
    logits by 0, so lost voxels stay in the mean, here they are left out. Its two contrast losses (0.01 and 0.1, over
    memories of projected features) are left out.
    """

    delivers: ClassVar[str] = "teacher"
    citation: ClassVar[str] = "Hu et al., Competitive dual-students with a mean teacher for segmentation (CDS)"
    noise: Noise = field(default_factory=Noise)
    pseudo: Ramp = field(default_factory=lambda: Ramp(top=1.0, length=0.0))
    ema: Ema = field(default_factory=lambda: Ema(of=PAIR))

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "peer": Trainable(init=1), "teacher": self.ema}

    def losses(self, nets: Players, batch: Batch, step: Step) -> Terms:
        view, rows = self.noise(batch.image, step.generator), len(batch.unlabelled)
        logits = {who: nets[who](view).logits for who in PAIR}
        terms, count = Terms(), batch.count
        for who, said in logits.items():
            terms[f"supervised_{who}"] = cross_entropy(said[:count], batch.label)
        if rows:
            label = soft(nets.teacher, batch.unlabelled).argmax(1)
            sure = {who: probabilities(said[count:].detach()).amax(1, keepdim=True) for who, said in logits.items()}
            for who, other in (PAIR, PAIR[::-1]):
                taught = cross_entropy(logits[who][count:], label, weight=sure[who] > sure[other])
                terms[f"pseudo_{who}"] = self.pseudo(step) * taught
        return terms


@dataclass(frozen=True)
class MultiStudent(Method):
    """Inspired by DDL: several students with different first weights, each taught where all others agree.

    With two students it is cross pseudo supervision.

    Target: the other students' hard labels, where all of them agree.

    Differs: the repository holds a supervised trainer only, and the survey speaks of students with different mask
    branches; the vote is ours.
    """

    citation: ClassVar[str] = "Zhou et al., DDL: multi-student learning, as the survey names it"
    inspired: ClassVar[bool] = True
    students: int = 3
    ramp: Ramp = field(default_factory=Ramp)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.students < 2:
            raise ValueError(f"students: {self.students} has nobody to agree with; give 2 or more")

    @property
    def names(self) -> tuple[str, ...]:
        return ("student", *(f"peer{number}" for number in range(1, self.students)))

    def roles(self) -> dict[str, Role]:
        return {name: Trainable(init=number) for number, name in enumerate(self.names)}

    def losses(self, nets: Players, batch: Batch, step: Step) -> Terms:
        logits = {who: nets[who](batch.image).logits for who in self.names}
        terms, count = Terms(), batch.count
        for who, said in logits.items():
            terms[f"supervised_{who}"] = dice_ce(said[:count], batch.label)
            if len(batch.unlabelled):
                label, *votes = (other[count:].detach().argmax(1) for name, other in logits.items() if name != who)
                same = torch.stack([vote == label for vote in (label, *votes)]).all(0).unsqueeze(1)
                terms[f"pseudo_{who}"] = self.ramp(step) * cross_entropy(said[count:], label, weight=same)
                terms.notes[f"accepted_{who}"] = same.to(said.dtype).mean()
        return terms


@dataclass(frozen=True)
class Progressive(Method):
    """PMT: two students with a teacher each train by turns; who is behind also learns from who is ahead.

    Follows the release: turns of 80 of 24000 steps; the lag is the labelled Dice loss; the one behind gets the other's
    sharpened prediction (T 0.1) and a squared error where the two differ on labelled voxels; each follows its own
    teacher, sharpened too.

    Target: the sharpened softmax of its own teacher, and of the other student when that one is ahead.

    Differs: a turn has ten steps at least, and the decay falls with its length, as the released one spans a short run.
    The supervised loss is cross-entropy plus Dice there, half of that here. Its weights, 20 and 10, belong to
    a learning rate that falls tenfold every 2500 steps and is near 0 when they bite; under a rate that lasts they
    drown the labels, so here both are a tenth. There a student does not see the other before its second turn; here it
    always does.
    """

    delivers: ClassVar[str] = "teacher"
    citation: ClassVar[str] = "Gao et al., ECCV 2024, PMT: progressive mean teacher via exploring temporal consistency"
    turns: Turns = field(default_factory=lambda: Turns(longest=1 / 300, least=10))
    temperature: float = 0.1
    differ: float = 0.25
    rival: Ramp = field(default_factory=lambda: Ramp(top=1.0, length=0.25))
    own: Ramp = field(default_factory=lambda: Ramp(top=0.5, length=0.25))
    decay: float = 0.999  # of a run whose turns last 80 steps, as released

    def roles(self) -> dict[str, Role]:
        peers = {"tutor": "peer", "teacher": "student"}  # in the order of their turns
        teachers = {
            name: Alternating(of=(who,), decay=self.decay, turns=self.turns, place=place, per=80)
            for place, (name, who) in enumerate(peers.items())
        }
        return {"student": Trainable(), "peer": Trainable(init=1), **teachers}

    def steps(self, nets: Players, batch: Batch, step: Step) -> Iterator[Turn]:
        turn, count = self.turns(step), batch.count
        who, other, teacher = (("peer", "student", "tutor"), ("student", "peer", "teacher"))[turn]
        logits = nets[who](batch.image).logits
        p, q = probabilities(logits), soft(nets[other], batch.image)
        truth = onehot(batch.label, p.shape[1]).to(p.dtype)
        behind = (dice(q[:count], truth) < dice(p[:count].detach(), truth)).to(p.dtype)
        differ = (p[:count].argmax(1) != q[:count].argmax(1)).unsqueeze(1)
        error = behind * weighted_mean(mse(p[:count], truth), differ)
        terms = Terms(supervised=dice_ce(logits[:count], batch.label) + self.differ * error)
        if len(batch.unlabelled):
            steady = sharpen(soft(nets[teacher], batch.unlabelled), temperature=self.temperature)
            ahead = mse(p[count:], sharpen(q[count:], temperature=self.temperature)).mean()
            follow = self.own(step) * mse(p[count:], steady).mean()
            terms["consistency"] = follow + self.rival(step) * behind * ahead
        terms.notes["behind"] = behind
        yield (who,), terms


@dataclass(frozen=True)
class HybridDual(Method):
    """Hybrid dual mean teacher, in one space: two pairs of student and teacher, one also hears the other.

    Each has a mask and a signed-distance head.

    Target: several noisy looks of the teacher(s), joined by e^-entropy; masks count by 1 - entropy, distances by
    e^-variance.

    Differs: in the paper the second pair sees slices, and the first takes its probabilities as input and its features
    besides; here both see the same image and meet in the target. The squared error between a distance and that of its
    own mask (0.1) is left out. The release scales the student's distance by 2 and not the teacher's; here they are
    alike.
    """

    heads: ClassVar[tuple[Head, ...]] = ("sdf",)
    delivers: ClassVar[str] = "teacher"
    citation: ClassVar[str] = "Zhu et al., Hybrid dual mean-teacher network with double-uncertainty guidance"
    passes: int = 4
    noise: Noise = field(default_factory=lambda: Noise(std=0.02, clip=0.1))
    shape: float = 1.0  # of the signed distances on labelled rows
    ramp: Ramp = field(default_factory=lambda: Ramp(length=1.0))
    decay: float = 0.99

    def roles(self) -> dict[str, Role]:
        teachers = [Ema(of=(who,), decay=self.decay) for who in PAIR]
        return {"student": Trainable(), "peer": Trainable(init=1), "teacher": teachers[0], "tutor": teachers[1]}

    def losses(self, nets: Players, batch: Batch, step: Step) -> Terms:
        terms, count, rows = Terms(), batch.count, len(batch.unlabelled)
        out = {who: nets[who](batch.image) for who in PAIR}
        truth = signed_distance(batch.label, classes=out["student"].logits.shape[1])
        names = ("teacher", "tutor") if rows else ()
        heard = [self.looks(nets[name], batch.unlabelled, step) for name in names]
        for who in PAIR:
            logits, sdf = out[who].logits, out[who].sdf
            shape = mse(sdf[:count], truth).mean()
            terms[f"supervised_{who}"] = dice_ce(logits[:count], batch.label) + self.shape * shape
            if rows:
                told = heard if who == "student" else heard[1:]
                p, distances = (torch.cat([each[kind] for each in told]) for kind in (0, 1))
                target = joined(p)
                sure = 1.0 - entropy(target) / math.log(target.shape[1])
                gap = (sure * mse(probabilities(logits[count:]), target)).mean()
                steady = (-distances.var(0, unbiased=False)).exp() * (sdf[count:] - distances.mean(0)).square()
                terms[f"consistency_{who}"] = self.ramp(step) * (gap + steady.mean())
        return terms

    @torch.no_grad()
    def looks(self, teacher: nn.Module, image: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Masks [T, U, C, *space] and signed distances [T, U, C - 1, *space] of noisy looks, in one forward."""
        out = teacher(self.noise(image.repeat(self.passes, *[1] * (image.ndim - 1)), step.generator))
        apart = (self.passes, len(image))
        return probabilities(out.logits).unflatten(0, apart), out.sdf.unflatten(0, apart)
