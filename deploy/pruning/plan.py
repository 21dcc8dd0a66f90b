"""What pruning did to a network, as sizes alone: enough to build it again before its weights load.

torch-pruning is not needed for that, nor is a trace; which channels went is in the weights.
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
    """The sizes of a pruned network: all that a fresh one needs before its weights load. Plain JSON."""

    params: tuple[int, int] = (0, 0)  # before, after
    macs: tuple[int, int] = (0, 0)
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)  # module -> attribute -> number
    tensors: dict[str, list[int]] = field(default_factory=dict)  # state_dict name -> shape
    latency: dict[str, Any] = field(default_factory=dict)  # where the target was latency: runtime, ms, every trial

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Plan:
        """Raises ValueError when this is no plan."""
        try:
            sizes = {str(m): {str(k): int(v) for k, v in s.items()} for m, s in raw["sizes"].items()}
            tensors = {str(name): [int(n) for n in shape] for name, shape in raw["tensors"].items()}
            before, after = (tuple(int(v) for v in raw[key]) for key in ("params", "macs"))
            return cls((before[0], before[1]), (after[0], after[1]), sizes, tensors, dict(raw.get("latency", {})))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ValueError(f"not a readable pruning plan ({error!r}); prune the network again") from error

    def check(self, network: nn.Module) -> None:
        """Raises ValueError when the plan was made for another network."""
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
    """Raises ValueError, naming the file, when it holds no plan."""
    try:
        return Plan.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{file}: no pruning plan ({reason}); give the plan.json of a slim stage") from error


def apply_plan(network: nn.Module, plan: Plan) -> nn.Module:
    """Cut a fresh network to the plan's sizes, in place, so that the pruned weights load; returns it.

    Raises ValueError when the plan was made for another network; the network is then as it was.
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
    return {name: list(t.shape) for name, t in (*network.named_parameters(), *network.named_buffers())}


def sizes_of(network: nn.Module) -> dict[str, dict[str, int]]:
    return {
        name: {key: value for key in SIZES if isinstance(value := vars(module).get(key), int)}
        for name, module in network.named_modules()
    }


def adopt(network: nn.Module, pruned: nn.Module) -> None:
    """Make `network`, of which `pruned` is a pruned copy, that copy: its sizes and its weights, in place."""
    before, shapes = sizes_of(network), shapes_of(network)
    sizes = {m: s for m, s in sizes_of(pruned).items() if s != before[m]}
    apply_plan(network, Plan(sizes=sizes, tensors={n: s for n, s in shapes_of(pruned).items() if s != shapes[n]}))
    network.load_state_dict(pruned.state_dict())


@contextmanager
def restored(network: nn.Module) -> Iterator[None]:
    """Every weight may have a gradient meanwhile, as the tracer follows them; modes and flags are put back."""
    modes = {module: module.training for module in network.modules()}
    wants = {name: p.requires_grad for name, p in network.named_parameters()}
    try:
        network.requires_grad_(True)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for name, p in network.named_parameters():
            p.requires_grad_(wants[name])
            p.grad = None
