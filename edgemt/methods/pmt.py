"""PMT: progressive mean teacher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from edgemt.contract import Batch, Step
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
from edgemt.learning.roles import AlternatingEma, AlternationSchedule, Networks, Role, Trainable
from edgemt.learning.schedules import SigmoidRampUp


@dataclass(frozen=True)
class PMT(Method):
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
    family: ClassVar[str] = "several students"
    citation: ClassVar[str] = "Gao et al., ECCV 2024, PMT: progressive mean teacher via exploring temporal consistency"
    turns: AlternationSchedule = field(default_factory=lambda: AlternationSchedule(longest=1 / 300, least=10))
    temperature: float = 0.1
    differ: float = 0.25
    rival: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=1.0, length=0.25))
    own: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=0.5, length=0.25))
    decay: float = 0.999  # of a run whose turns last 80 steps, as released

    def roles(self) -> dict[str, Role]:
        peers = {"tutor": "peer", "teacher": "student"}  # in the order of their turns
        teachers = {
            name: AlternatingEma(of=(who,), decay=self.decay, turns=self.turns, place=place, per=80)
            for place, (name, who) in enumerate(peers.items())
        }
        return {"student": Trainable(), "peer": Trainable(init=1), **teachers}

    def steps(self, nets: Networks, batch: Batch, step: Step) -> Iterator[OptimiserStep]:
        turn, count = self.turns(step), batch.count
        who, other, teacher = (("peer", "student", "tutor"), ("student", "peer", "teacher"))[turn]
        logits = nets[who](batch.image).logits
        p, q = probabilities(logits), predict_probabilities(nets[other], batch.image)
        truth = onehot(batch.label, p.shape[1]).to(p.dtype)
        behind = (dice(q[:count], truth) < dice(p[:count].detach(), truth)).to(p.dtype)
        differ = (p[:count].argmax(1) != q[:count].argmax(1)).unsqueeze(1)
        error = behind * weighted_mean(mse(p[:count], truth), differ)
        terms = LossTerms(supervised=dice_ce(logits[:count], batch.label) + self.differ * error)
        if len(batch.unlabelled):
            steady = sharpen(predict_probabilities(nets[teacher], batch.unlabelled), temperature=self.temperature)
            ahead = mse(p[count:], sharpen(q[count:], temperature=self.temperature)).mean()
            follow = self.own(step) * mse(p[count:], steady).mean()
            terms["consistency"] = follow + self.rival(step) * behind * ahead
        terms.notes["behind"] = behind
        yield (who,), terms
