"""Who plays in a method, and how averages move. Roles are choices; `build_networks` turns them into modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgemt.contract import Step

Build = Callable[[str, int], nn.Module]


@dataclass(frozen=True)
class Trainable:
    """A network that an optimiser moves. Two with different `init` must start from different weights."""

    kind: str = "student"
    rate: float | None = None  # a constant learning rate of its own; None: the run's schedule
    optimiser: Literal["sgd", "adam", "adamw"] | None = None  # None: the run's own
    betas: tuple[float, float] = (0.9, 0.999)  # of Adam
    init: int = 0


@dataclass(frozen=True)
class Ema:
    """w' <- a w' + (1 - a) mean(w), with a = min((1 + t) / (10 + t), decay) while warming up.

    The field warms up with 1 - 1 / (t + 1), the plain mean since step 0, which lags far behind in short
    runs; this one spans the last tenth of the run so far.

    Floating buffers (batch-norm statistics) move with the weights ("average"), are taken over ("copy"), or
    are what the average sees in its own forward passes ("own", the released UA-MT: sound in train mode only,
    never to be exported). Integer buffers are copied. `mode` "train" keeps dropout and batch statistics on.
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
        """The players that `update` is given."""
        return self.of

    def rate(self, step: Step) -> float:
        """How much of the old average stays at this step."""
        limit = self.limit(step)
        return min((1.0 + step.index) / (10.0 + step.index), limit) if self.warmup else limit

    def limit(self, step: Step) -> float:
        """The decay once it is warm."""
        return self.decay

    @torch.no_grad()
    def update(self, average: nn.Module, sources: list[nn.Module], step: Step) -> None:
        """Moves `average` in place; `sources` are the networks named in `of`."""
        move = 1.0 - self.rate(step)
        _lerp(list(average.parameters()), [list(s.parameters()) for s in sources], move)
        if self.buffers == "own":
            return
        mine, theirs = list(average.buffers()), [list(s.buffers()) for s in sources]
        real = [i for i, b in enumerate(mine) if b.is_floating_point()]
        _lerp(
            [mine[i] for i in real],
            [[source[i] for i in real] for source in theirs],
            move if self.buffers == "average" else 1.0,
        )
        for i, buffer in enumerate(mine):
            if not buffer.is_floating_point():
                buffer.copy_(theirs[0][i])


@dataclass(frozen=True)
class AlternationSchedule:
    """Which of two players has the turn at a step, 0 or 1; no turn is longer than `longest`, a share of the run.

    `drawn` turns last from one step to the longest, each length as likely as any; a pair of them always fills one
    step more than the longest, so the turn is a function of the step's number and a resumed run takes the same ones.
    Otherwise all turns are the longest. In a short run a share may be less than a step, so that two averages would move
    as one: `least` is how many steps the longest turn has at least, up to half of the run.
    """

    longest: float = 0.0  # 0, and any share below a step: the players change at each step
    drawn: bool = False
    least: int = 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.longest <= 0.5:
            raise ValueError(f"longest: {self.longest} is no share of the run that leaves two turns; give 0 to 0.5")
        if self.least < 1:
            raise ValueError(f"least: a turn of {self.least} steps is none; give 1 or more")

    def length(self, step: Step) -> int:
        """Steps of the longest turn."""
        return max(1, min(max(self.least, round(self.longest * step.total)), step.total // 2))

    def __call__(self, step: Step) -> int:
        longest = self.length(step)
        if not self.drawn:
            return step.index // longest % 2
        pair, place = divmod(step.index, longest + 1)
        return int(place >= Random(pair).randint(1, longest))


@dataclass(frozen=True)
class AlternatingEma(Ema):
    """An average that moves in its own turns only: two of one student, moved in turn, diverge.

    What it takes over in a turn is the same in runs of any length: `decay` belongs to turns of at most `per` steps, and
    decay^(per / L) to turns of at most L.
    """

    turns: AlternationSchedule = field(default_factory=AlternationSchedule)
    place: int = 0  # in which of the two turns it moves
    per: int = 0  # steps; 0: the decay is the same whatever the turns

    def limit(self, step: Step) -> float:
        return self.decay ** (self.per / self.turns.length(step)) if self.per else self.decay

    @torch.no_grad()
    def update(self, average: nn.Module, sources: list[nn.Module], step: Step) -> None:
        if self.turns(step) == self.place:
            super().update(average, sources, step)


@dataclass(frozen=True)
class SwitchingEma(Ema):
    """An average of two players that follows one of them at a time, not their mean."""

    of: tuple[str, ...] = ("student", "peer")
    turns: AlternationSchedule = field(default_factory=AlternationSchedule)

    @torch.no_grad()
    def update(self, average: nn.Module, sources: list[nn.Module], step: Step) -> None:
        super().update(average, [sources[self.turns(step)]], step)


@dataclass(frozen=True)
class ResidualEma(Ema):
    """An average that catches up where it lags: a weight's own residual is fed back into its move.

    A tensor that differs from its source by the share r of its own size moves by (1 - a)(1 + gain r), at most all
    the way; with gain 0 it is the plain average. Buffers move as in the plain average.
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
        rest = self.rate(step)
        for weight, old in zip(average.parameters(), before, strict=True):
            push = weight - old
            lag = push.norm() / (1.0 - rest) / old.norm().clamp_min(1e-12)
            weight.add_(push * (self.gain * lag).clamp(max=rest / (1.0 - rest)))


@dataclass(frozen=True)
class LossGatedEma(Ema):
    """An average that takes little from a student whose last loss stands out: COPLE-Net's adaptive teacher.

    `record` is the Memory player to which the method pushes each loss (one class, one feature); one that lies more
    than `beyond` standard deviations above the mean of those kept stands out, and `share` of the move is left. On a
    GPU it waits once a step to read that.
    """

    record: str = "record"
    beyond: float = 1.0
    share: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.share <= 1.0:
            raise ValueError(f"share: {self.share} of a move is none; give a number above 0 and up to 1")

    @property
    def sources(self) -> tuple[str, ...]:
        return (*self.of, self.record)

    @torch.no_grad()
    def update(self, average: nn.Module, sources: list[nn.Module], step: Step) -> None:
        *students, record = sources
        move = 1.0 - self.rate(step)
        if record.is_outlier(self.beyond):  # type: ignore[operator]
            move *= self.share
        plain = Ema(self.of, decay=1.0 - move, warmup=False, buffers=self.buffers, mode=self.mode)
        plain.update(average, students, step)


@dataclass(frozen=True)
class Frozen:
    """Consulted, never trained: a finished teacher, an ensemble, a foundation model. Always in eval mode."""

    kind: str = "teacher"


@dataclass(frozen=True)
class Memory:
    """The last `size` feature vectors of each class, kept in buffers so that checkpoints hold them."""

    size: int = 32
    features: int = 16
    classes: int = 2


Role = Trainable | Ema | Frozen | Memory
Roles = Mapping[str, Role]


class Networks(nn.ModuleDict):
    """The networks of a run by name: `players["student"]` or `players.student`."""

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)


class FeatureBank(nn.Module):
    """What a `Memory` role becomes: `vectors` [C, size, F], of which the first `filled` [C] are real."""

    vectors: Tensor
    filled: Tensor
    place: Tensor

    def __init__(self, role: Memory) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(role.classes, role.size, role.features))
        self.register_buffer("filled", torch.zeros(role.classes, dtype=torch.int64))
        self.register_buffer("place", torch.zeros(role.classes, dtype=torch.int64))

    def check_capacity(self, classes: int, *, features: int) -> None:
        """Raises ValueError where so many classes of so many features do not fit."""
        room = (len(self.vectors), self.vectors.shape[2])
        if classes > room[0] or features > room[1]:
            raise ValueError(
                f"memory: it has room for {room[0]} classes of {room[1]} features, and {classes} of {features} came; "
                "raise memory.classes or memory.features"
            )

    @torch.no_grad()
    def push(self, vectors: Tensor, *, label: int) -> None:
        """Writes `vectors` [n, F] of one class over the oldest ones; narrower ones are filled up with 0."""
        size, width = self.vectors.shape[1:]
        self.check_capacity(label + 1, features=vectors.shape[1])
        vectors = nn.functional.pad(vectors, (0, width - vectors.shape[1]))
        vectors = vectors[-size:]
        at = (self.place[label] + torch.arange(len(vectors), device=vectors.device)) % size
        self.vectors[label, at] = vectors.to(self.vectors.dtype)
        self.place[label] = (self.place[label] + len(vectors)) % size
        self.filled[label] = (self.filled[label] + len(vectors)).clamp(max=size)

    def is_outlier(self, beyond: float) -> bool:
        """Is the last vector pushed, of one class and one feature, `beyond` deviations above the mean of all kept?"""
        kept = self.vectors[0, : int(self.filled[0]), 0]
        kept = kept[kept.isfinite()]
        if not len(kept):
            return False
        last = self.vectors[0, int(self.place[0]) - 1, 0]
        return bool(last > kept.mean() + beyond * kept.std(correction=0))


def build_networks(roles: Roles, build: Build) -> Networks:
    """One module a role: `build(kind, init)` makes networks, averages begin as copies of their source."""
    players = Networks()
    for name, role in roles.items():
        if isinstance(role, Memory):
            players[name] = FeatureBank(role)
        elif not isinstance(role, Ema):
            players[name] = build(role.kind, role.init if isinstance(role, Trainable) else 0)
    for name, role in roles.items():
        if isinstance(role, Ema):
            missing = [source for source in role.of if source not in roles or isinstance(roles[source], Memory)]
            if missing or not role.of:
                raise ValueError(f"of: {name!r} averages {missing or 'nothing'}; name players among {', '.join(roles)}")
            players[name] = deepcopy(players[role.of[0]])
        if not isinstance(role, Trainable):
            players[name].requires_grad_(False)
    set_modes(players, roles)
    return players


def set_modes(players: Networks, roles: Roles) -> None:
    """Puts every player into the mode of its role; cheap, and done at the start of each step."""
    for name, role in roles.items():
        learning = isinstance(role, Trainable) or (isinstance(role, Ema) and role.mode == "train")
        players[name].train(learning)
        # Norm layers of an average in train mode would blend what they see into the student's statistics.
        _track(players[name], not (learning and isinstance(role, Ema) and role.buffers != "own"))


def update_averages(players: Networks, roles: Roles, step: Step) -> None:
    """Moves every average, after the optimisers of this step; norm layers are left as they were built."""
    for name, role in roles.items():
        if isinstance(role, Ema):
            role.update(players[name], [players[source] for source in role.sources], step)
    restore_norm_tracking(players)


def restore_norm_tracking(players: Networks) -> None:
    """After a step, moved averages or not: norm layers keep statistics again, as they were built to."""
    _track(players, True)


@contextmanager
def untracked(player: nn.Module) -> Iterator[None]:
    """Within it norm layers in train mode normalise by their batch, as ever, and leave running statistics alone.

    For images that inference never meets, such as adversarial ones.
    """
    norms = [m for m in player.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def evaluating(player: nn.Module) -> Iterator[None]:
    """Within it the player is in eval mode: no dropout, running statistics; gradients pass as ever."""
    learning = player.training
    player.eval()
    try:
        yield
    finally:
        player.train(learning)


def unwrap(player: nn.Module) -> nn.Module:
    """The network itself, without an engine's precision around it: for slopes that no optimiser follows.

    An engine takes no backward pass but its own through what it wraps, and half precision loses a small probe.
    """
    return getattr(player, "module", player)


def trainable_names(roles: Roles) -> tuple[str, ...]:
    """The names that an optimiser moves."""
    return tuple(name for name, role in roles.items() if isinstance(role, Trainable))


def _lerp(mine: list[Tensor], theirs: list[list[Tensor]], move: float) -> None:
    if not mine:
        return
    target = [t.detach() for t in theirs[0]]
    if len(theirs) > 1:
        target = [torch.stack([t.detach() for t in same]).mean(0) for same in zip(*theirs, strict=True)]
    torch._foreach_lerp_(mine, target, move)


def _track(network: nn.Module, on: bool) -> None:
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.track_running_stats = on
