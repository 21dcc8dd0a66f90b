"""Pruning plans: the sizes of a pruned network, enough to rebuild it before its weights are loaded.

Neither torch-pruning nor a trace is needed for that; which channels were removed is implied by the weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

SIZES = (
    "in_channels",
    "out_channels",
    "groups",
    "in_features",
    "out_features",
    "num_features",
    "num_channels",
)


@dataclass(frozen=True)
class Plan:
    """The sizes of a pruned network, which an unpruned one gets before the weights are loaded. Plain JSON."""

    params: tuple[int, int] = (0, 0)  # before, after
    macs: tuple[int, int] = (0, 0)
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)  # module -> attribute -> number
    tensors: dict[str, list[int]] = field(default_factory=dict)  # state_dict name -> shape
    latency: dict[str, Any] = field(default_factory=dict)  # for the target latency: runtime, ms, every trial

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Plan:
        """A plan from its JSON. Raises ValueError for anything else."""
        try:
            sizes = {str(m): {str(k): int(v) for k, v in s.items()} for m, s in raw["sizes"].items()}
            tensors = {str(name): [int(n) for n in shape] for name, shape in raw["tensors"].items()}
            before, after = (tuple(int(v) for v in raw[key]) for key in ("params", "macs"))
            return cls((before[0], before[1]), (after[0], after[1]), sizes, tensors, dict(raw.get("latency", {})))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ValueError(f"not a readable pruning plan ({error!r}); prune the network again") from error

    def check(self, network: nn.Module) -> None:
        """Raises ValueError where the plan was made for another network."""
        modules = dict(network.named_modules())
        state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        fits = {n: n in state and state[n].dim() == len(shape) for n, shape in self.tensors.items()}
        strange = [
            n
            for n, shape in self.tensors.items()
            if not fits[n] or any(new > old or new < 1 for new, old in zip(shape, state[n].shape, strict=True))
        ]
        strange += [
            n
            for n, s in self.sizes.items()
            if n not in modules or not all(k in SIZES and k in vars(modules[n]) for k in s)
        ]
        if strange:
            raise ValueError(
                f"the pruning plan does not fit this network at {strange[0]}; build the one it was made for"
            )


def read_plan(file: Path) -> Plan:
    """Read a plan. Raises ValueError, naming the file, where it holds none."""
    try:
        return Plan.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{file}: no pruning plan ({reason}); give the plan.json of a slim stage") from error


def apply_plan(network: nn.Module, plan: Plan) -> nn.Module:
    """Cut an unpruned network to the sizes of the plan, in place, so that the pruned weights load; returns it.

    Raises ValueError where the plan was made for another network, which is then unchanged.
    """
    plan.check(network)
    modules = dict(network.named_modules())
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, sizes in plan.sizes.items():
        for key, number in sizes.items():
            setattr(modules[name], key, number)
    for name, shape in plan.tensors.items():
        parent, _, leaf = name.rpartition(".")
        old = state[name]
        cut = old.detach()[tuple(slice(0, n) for n in shape)].clone()
        owner = modules[parent]
        if isinstance(old, nn.Parameter):
            setattr(owner, leaf, nn.Parameter(cut, requires_grad=old.requires_grad))
        else:
            setattr(owner, leaf, cut)
    return network


def shapes_of(network: nn.Module) -> dict[str, list[int]]:
    """Name of each parameter and buffer -> its shape."""
    return {name: list(t.shape) for name, t in (*network.named_parameters(), *network.named_buffers())}


def sizes_of(network: nn.Module) -> dict[str, dict[str, int]]:
    """Name of each module -> its size attributes (`SIZES`)."""
    return {
        name: {key: value for key in SIZES if isinstance(value := vars(module).get(key), int)}
        for name, module in network.named_modules()
    }


def copy_from(network: nn.Module, pruned: nn.Module) -> None:
    """Copy sizes and weights of `pruned`, a pruned copy of `network`, into `network`."""
    before, shapes = sizes_of(network), shapes_of(network)
    sizes = {m: s for m, s in sizes_of(pruned).items() if s != before[m]}
    apply_plan(network, Plan(sizes=sizes, tensors={n: s for n, s in shapes_of(pruned).items() if s != shapes[n]}))
    network.load_state_dict(pruned.state_dict())


@contextmanager
def temporarily_trainable(network: nn.Module) -> Iterator[None]:
    """All weights require gradients inside, which the tracer needs; modes and flags are restored afterwards."""
    modes = {module: module.training for module in network.modules()}
    required = {name: p.requires_grad for name, p in network.named_parameters()}
    try:
        network.requires_grad_(True)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for name, p in network.named_parameters():
            p.requires_grad_(required[name])
            p.grad = None
