"""Exponential moving averages of networks: the standard one, and variants that are updated in turn or by a rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Literal

import torch
from torch import Tensor, nn

from edgemt.contract import Step


@dataclass(frozen=True)
class Ema:
    """Exponential moving average: w' <- a w' + (1 - a) mean(w), a = min((1 + t) / (10 + t), decay) while warming up.

    The usual warm-up is 1 - 1 / (t + 1), the plain mean since step 0, which lags far behind in short runs; this one
    spans the last tenth of the run so far.

    Floating buffers (batch-norm statistics) are averaged with the weights ("average"), copied ("copy"), or updated by
    the average's own forward passes ("own", the released UA-MT: valid in train mode only, never to be exported).
    Integer buffers are copied. `mode` "train" leaves dropout and batch statistics on.
    """

    of: tuple[str, ...] = ("student",)
    decay: float = 0.99
    warmup: bool = True
    buffers: Literal["average", "copy", "own"] = "average"
    mode: Literal["train", "eval"] = "train"

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"decay: {self.decay} would never let the average move; give a number from 0 up to, not 1")

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the networks that `update` takes."""
        return self.of

    def rate(self, step: Step) -> float:
        """The factor a at this step: the fraction of the old average that stays."""
        limit = self.limit(step)
        return min((1.0 + step.index) / (10.0 + step.index), limit) if self.warmup else limit

    def limit(self, step: Step) -> float:
        """The factor a after the warm-up."""
        return self.decay

    @torch.no_grad()
    def update(self, average: nn.Module, sources: list[nn.Module], step: Step) -> None:
        """Moves `average` in place; `sources` are the networks named in `of`."""
        move = 1.0 - self.rate(step)
        _lerp(list(average.parameters()), [list(s.parameters()) for s in sources], move)
        if self.buffers == "own":
            return
        own, given = list(average.buffers()), [list(s.buffers()) for s in sources]
        floating = [i for i, b in enumerate(own) if b.is_floating_point()]
        _lerp(
            [own[i] for i in floating],
            [[source[i] for i in floating] for source in given],
            move if self.buffers == "average" else 1.0,
        )
        for i, buffer in enumerate(own):
            if not buffer.is_floating_point():
                buffer.copy_(given[0][i])


@dataclass(frozen=True)
class AlternationSchedule:
    """Which of two networks has the turn at a step, 0 or 1.

    All turns have the longest length, `longest` of the run. With `drawn` a turn lasts from one step to the longest,
    uniformly; two consecutive turns always fill one step more than the longest, so that the turn is a function of the
    step's number and a resumed run repeats it. In a short run a fraction may be less than a step, so that two averages
    would be updated as one: `least` is a lower bound of the longest turn in steps, up to half of the run.
    """

    longest: float = 0.0  # fraction of the run; 0, and any fraction below a step: the turn changes at each step
    drawn: bool = False  # random lengths
    least: int = 1  # steps

    def __post_init__(self) -> None:
        if not 0.0 <= self.longest <= 0.5:
            raise ValueError(f"longest: {self.longest} is no share of the run that leaves two turns; give 0 to 0.5")
        if self.least < 1:
            raise ValueError(f"least: a turn of {self.least} steps is none; give 1 or more")

    def length(self, step: Step) -> int:
        """Length of the longest turn, in steps."""
        return max(1, min(max(self.least, round(self.longest * step.total)), step.total // 2))

    def __call__(self, step: Step) -> int:
        longest = self.length(step)
        if not self.drawn:
            return step.index // longest % 2
        pair, position = divmod(step.index, longest + 1)
        return int(position >= Random(pair).randint(1, longest))


@dataclass(frozen=True)
class AlternatingEma(Ema):
    """An average that is updated in its own turns only: two of one student, updated in turn, diverge.

    So that an update of a whole turn is the same in runs of any length, `decay` belongs to turns of at most `per`
    steps, and decay^(per / L) to turns of at most L.
    """

    turns: AlternationSchedule = field(default_factory=AlternationSchedule)
    place: int = 0  # the turn, 0 or 1, in which it is updated
    per: int = 0  # steps; 0: the decay does not depend on the length of the turns

    def limit(self, step: Step) -> float:
        return self.decay ** (self.per / self.turns.length(step)) if self.per else self.decay

    @torch.no_grad()
    def update(self, average: nn.Module, sources: list[nn.Module], step: Step) -> None:
        if self.turns(step) == self.place:
            super().update(average, sources, step)


@dataclass(frozen=True)
class SwitchingEma(Ema):
    """An average of two networks that is updated from one of them at a time, not from their mean."""

    of: tuple[str, ...] = ("student", "peer")
    turns: AlternationSchedule = field(default_factory=AlternationSchedule)

    @torch.no_grad()
    def update(self, average: nn.Module, sources: list[nn.Module], step: Step) -> None:
        super().update(average, [sources[self.turns(step)]], step)


@dataclass(frozen=True)
class ResidualEma(Ema):
    """An average that moves faster where it lags: the relative residual of a tensor scales its move.

    A tensor with residual r = |w - w'| / |w'| moves by (1 - a)(1 + gain r) of the difference, at most all of it; `gain`
    0 is the plain average. Buffers move as in the plain average.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gain < 0:
            raise ValueError(f"gain: {self.gain} would push the average away from its source; give 0 or more")

    @torch.no_grad()
    def update(self, average: nn.Module, sources: list[nn.Module], step: Step) -> None:
        before = [weight.clone() for weight in average.parameters()]
        super().update(average, sources, step)
        decay = self.rate(step)
        for weight, old in zip(average.parameters(), before, strict=True):
            change = weight - old
            residual = change.norm() / (1.0 - decay) / old.norm().clamp_min(1e-12)
            weight.add_(change * (self.gain * residual).clamp(max=decay / (1.0 - decay)))


@dataclass(frozen=True)
class LossGatedEma(Ema):
    """An average that takes little from a student whose last loss is an outlier: COPLE-Net's adaptive teacher.

    `record` names the Memory role to which the method pushes each loss (one class, one feature). A loss of more than
    `beyond` standard deviations above the mean of the stored ones is an outlier, and the move is multiplied by `share`.
    On a GPU this waits once a step for the result.
    """

    record: str = "record"
    beyond: float = 1.0  # standard deviations
    share: float = 0.1  # factor of the move after an outlier

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"share: {self.share} of a move is not possible; give a number above 0 and up to 1")

    @property
    def sources(self) -> tuple[str, ...]:
        return (*self.of, self.record)

    @torch.no_grad()
    def update(self, average: nn.Module, sources: list[nn.Module], step: Step) -> None:
        *students, record = sources
        move = 1.0 - self.rate(step)
        if record.is_outlier(num_std=self.beyond):  # type: ignore[operator]
            move *= self.share
        plain = Ema(self.of, decay=1.0 - move, warmup=False, buffers=self.buffers, mode=self.mode)
        plain.update(average, students, step)


def _lerp(average: list[Tensor], sources: list[list[Tensor]], move: float) -> None:
    """In place: average <- average + move (mean(sources) - average); one list of tensors a source."""
    if not average:
        return
    target = [t.detach() for t in sources[0]]
    if len(sources) > 1:
        target = [torch.stack([t.detach() for t in same]).mean(0) for same in zip(*sources, strict=True)]
    torch._foreach_lerp_(average, target, move)
