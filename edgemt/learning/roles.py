"""Roles of the networks of a method: trained, averaged, frozen, or a memory. `build_networks` makes the modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgemt.contract import Step
from edgemt.learning.ema import Ema

Build = Callable[[str, int], nn.Module]


@dataclass(frozen=True)
class Trainable:
    """A network with an optimiser. Two with different `init` start from different weights."""

    kind: str = "student"
    rate: float | None = None  # constant learning rate; None: that of the run's schedule
    optimiser: Literal["sgd", "adam", "adamw"] | None = None  # None: that of the run
    betas: tuple[float, float] = (0.9, 0.999)  # of Adam
    init: int = 0


@dataclass(frozen=True)
class Frozen:
    """A network that is not trained: a finished teacher, an ensemble, a foundation model. Always in eval mode."""

    kind: str = "teacher"


@dataclass(frozen=True)
class Memory:
    """The last `size` feature vectors of each class, in buffers, so that they are part of checkpoints."""

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
    """Module of a `Memory` role: `vectors` [C, size, F], of which the first `filled` [C] are valid."""

    vectors: Tensor
    filled: Tensor
    place: Tensor  # [C] index of the next write

    def __init__(self, role: Memory) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(role.classes, role.size, role.features))
        self.register_buffer("filled", torch.zeros(role.classes, dtype=torch.int64))
        self.register_buffer("place", torch.zeros(role.classes, dtype=torch.int64))

    def check_capacity(self, classes: int, *, features: int) -> None:
        """Raises ValueError if the memory is too small for so many classes or features."""
        capacity = (len(self.vectors), self.vectors.shape[2])
        if classes > capacity[0] or features > capacity[1]:
            raise ValueError(
                f"memory: it has room for {capacity[0]} classes of {capacity[1]} features, "
                f"and {classes} of {features} came; "
                "raise memory.classes or memory.features"
            )

    @torch.no_grad()
    def push(self, vectors: Tensor, *, label: int) -> None:
        """Writes `vectors` [n, F] of one class over the oldest ones; missing features are padded with 0."""
        size, width = self.vectors.shape[1:]
        self.check_capacity(label + 1, features=vectors.shape[1])
        vectors = nn.functional.pad(vectors, (0, width - vectors.shape[1]))
        vectors = vectors[-size:]
        index = (self.place[label] + torch.arange(len(vectors), device=vectors.device)) % size
        self.vectors[label, index] = vectors.to(self.vectors.dtype)
        self.place[label] = (self.place[label] + len(vectors)) % size
        self.filled[label] = (self.filled[label] + len(vectors)).clamp(max=size)

    def is_outlier(self, num_std: float) -> bool:
        """True if the last value is above mean + num_std * std of the stored finite ones (class 0, feature 0)."""
        stored = self.vectors[0, : int(self.filled[0]), 0]
        stored = stored[stored.isfinite()]
        if not len(stored):
            return False
        last = self.vectors[0, int(self.place[0]) - 1, 0]
        return bool(last > stored.mean() + num_std * stored.std(correction=0))


def build_networks(roles: Roles, build: Build) -> Networks:
    """One module a role: `build(kind, init)` makes networks; averages begin as copies of their first source.

    Raises ValueError for an average of a name that is no network.
    """
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
    """Puts every network into the mode of its role; called at the start of each step."""
    for name, role in roles.items():
        learning = isinstance(role, Trainable) or (isinstance(role, Ema) and role.mode == "train")
        players[name].train(learning)
        # Norm layers of an average in train mode would mix their batch statistics into those of the student.
        _track(players[name], not (learning and isinstance(role, Ema) and role.buffers != "own"))


def update_averages(players: Networks, roles: Roles, step: Step) -> None:
    """Updates every average, after the optimisers of this step; norm layers track statistics again."""
    for name, role in roles.items():
        if isinstance(role, Ema):
            role.update(players[name], [players[source] for source in role.sources], step)
    restore_norm_tracking(players)


def restore_norm_tracking(players: Networks) -> None:
    """After a step: norm layers track running statistics again, as they were built to."""
    _track(players, True)


@contextmanager
def untracked(player: nn.Module) -> Iterator[None]:
    """Context: norm layers in train mode normalise by their batch and do not update running statistics.

    For images that do not occur at inference, such as adversarial ones.
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
    """Context: the network is in eval mode (no dropout, running statistics); gradients pass."""
    learning = player.training
    player.eval()
    try:
        yield
    finally:
        player.train(learning)


def unwrap(player: nn.Module) -> nn.Module:
    """The network without the engine's precision wrapper: for gradients with respect to images.

    A wrapped network allows only the engine's own backward pass, and half precision loses a small perturbation.
    """
    return getattr(player, "module", player)


def trainable_names(roles: Roles) -> tuple[str, ...]:
    """Names of the trainable networks."""
    return tuple(name for name, role in roles.items() if isinstance(role, Trainable))


def _track(network: nn.Module, on: bool) -> None:
    """Switches tracking of running statistics in all batch-norm layers that have them."""
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.track_running_stats = on
