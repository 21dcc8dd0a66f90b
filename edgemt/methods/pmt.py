"""PMT: progressive mean teacher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from edgemt.contract import Batch, Step
from edgemt.learning.ema import AlternatingEma, AlternationSchedule
from edgemt.learning.losses import (
    dice,
    dice_ce,
    mse,
    onehot,
    probabilities,
    weighted_mean,
)
from edgemt.learning.method import LossTerms, Method, OptimiserStep
from edgemt.learning.pseudo_labels import predict_probabilities, sharpen
from edgemt.learning.roles import Networks, Role, Trainable
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class PMT(Method):
    """PMT: two students, each with a teacher, train in turn; the worse one also follows the better one.

    For the student p in turn, its peer q, its teacher r: L = dice_ce(x_l, y_l) + B differ MSE(p_l, y_l) where the two
    disagree + own(t) MSE(p_u, sharpen(r_u)) + rival(t) B MSE(p_u, sharpen(q_u)), with B = 1 if the labelled Dice loss
    of p is the larger one, else 0.

    Follows the release: turns of 80 of 24000 steps, T 0.1.

    Target: the sharpened softmax of its own teacher, and of the other student when that one is better.

    Differs: a turn has ten steps at least, and the decay falls with its length, as the released one spans a short run.
    The supervised loss is cross-entropy plus Dice there, half of that here. Its weights, 20 and 10, belong to
    a learning rate that falls tenfold every 2500 steps and is near 0 when they become effective; under a rate that
    lasts they outweigh the labels, so here both are a tenth. There a student does not see the other before its second
    turn; here it always does.
    """

    delivers: ClassVar[str] = "teacher"
    family: ClassVar[str] = "several students"
    citation: ClassVar[str] = "Gao et al., ECCV 2024, PMT: progressive mean teacher via exploring temporal consistency"
    turns: AlternationSchedule = field(default_factory=lambda: AlternationSchedule(longest=1 / 300, least=10))
    temperature: float = 0.1
    differ: float = 0.25  # weight of labelled voxels where the students disagree
    rival: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=1.0, length=0.25))  # of the other student
    own: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=0.5, length=0.25))  # of the own teacher
    decay: float = 0.999  # of a run whose turns last 80 steps, as released

    def roles(self) -> dict[str, Role]:
        students = {"tutor": "peer", "teacher": "student"}  # in the order of their turns
        teachers = {
            name: AlternatingEma(of=(student,), decay=self.decay, turns=self.turns, place=place, per=80)
            for place, (name, student) in enumerate(students.items())
        }
        return {"student": Trainable(), "peer": Trainable(init=1), **teachers}

    def steps(self, nets: Networks, batch: Batch, step: Step) -> Iterator[OptimiserStep]:
        turn, count = self.turns(step), batch.count
        name, other, teacher = (("peer", "student", "tutor"), ("student", "peer", "teacher"))[turn]
        logits = nets[name](batch.image).logits
        p, q = probabilities(logits), predict_probabilities(nets[other], batch.image)
        truth = onehot(batch.label, p.shape[1]).to(p.dtype)
        is_worse = (dice(q[:count], truth) < dice(p[:count].detach(), truth)).to(p.dtype)
        disagreement = (p[:count].argmax(1) != q[:count].argmax(1)).unsqueeze(1)
        disagreement_loss = is_worse * weighted_mean(mse(p[:count], truth), disagreement)
        terms = LossTerms(supervised=dice_ce(logits[:count], batch.label) + self.differ * disagreement_loss)
        if len(batch.unlabelled):
            teacher_target = sharpen(
                predict_probabilities(nets[teacher], batch.unlabelled), temperature=self.temperature
            )
            peer_loss = mse(p[count:], sharpen(q[count:], temperature=self.temperature)).mean()
            teacher_loss = self.own(step) * mse(p[count:], teacher_target).mean()
            terms["consistency"] = teacher_loss + self.rival(step) * is_worse * peer_loss
        terms.notes["behind"] = is_worse
        yield (name,), terms
