"""What pruning did to a network, as sizes alone: enough to build it again before its weights load.

torch-pruning is not needed for that, nor is a trace; which channels went is in the weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
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

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Plan:
        """Raises ValueError when this is no plan."""
        try:
            sizes = {str(m): {str(k): int(v) for k, v in s.items()} for m, s in raw["sizes"].items()}
            tensors = {str(name): [int(n) for n in shape] for name, shape in raw["tensors"].items()}
            before, after = (tuple(int(v) for v in raw[key]) for key in ("params", "macs"))
            return cls((before[0], before[1]), (after[0], after[1]), sizes, tensors)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ValueError(f"not a readable pruning plan ({error!r}); prune the network again") from error


def apply_plan(network: nn.Module, plan: Plan) -> nn.Module:
    """Cut a fresh network to the plan's sizes, in place, so that the pruned weights load; returns it.

    Raises ValueError when the plan was made for another network; the network is then as it was.
    """
    modules = dict(network.named_modules())
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, shape in plan.tensors.items():
        fits = name in state and state[name].dim() == len(shape)
        if not fits or any(new > old or new < 1 for new, old in zip(shape, state[name].shape, strict=True)):
            raise ValueError(f"the pruning plan does not fit this network at {name}; build the one it was made for")
    for name, sizes in plan.sizes.items():
        if name not in modules or not all(key in SIZES and key in vars(modules[name]) for key in sizes):
            raise ValueError(f"the pruning plan does not fit this network at {name}; build the one it was made for")
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
