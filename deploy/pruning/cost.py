"""What layers cost in a currency (multiply-accumulates, parameters, measured time), and which channels go for it.

Shapes: N batch, K image channels, *space.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)

Cost = Callable[[nn.Module, float, float], float]  # layer, channels in, channels out -> what it costs then
AHEAD = 4  # blocks of channels that a layer may lose at once: a runtime's time falls in steps


@torch.no_grad()
def count(network: nn.Module, example: Tensor) -> tuple[int, int]:
    """(parameters, multiply-accumulates of convolutions and linear layers for this example)."""
    cost = macs_of(network, example)
    macs = sum(cost(m, *channels_of(m)) for m in network.modules() if isinstance(m, LAYERS))
    return sum(p.numel() for p in network.parameters()), int(macs)


def macs_of(network: nn.Module, example: Tensor) -> Cost:
    """Multiply-accumulates for one example."""
    places: dict[nn.Module, float] = {}
    for module, spaces in spaces_of(network, example).items():
        at = sum(math.prod(inward if getattr(module, "transposed", False) else out) for inward, out in spaces)
        places[module] = at * math.prod(getattr(module, "kernel_size", (1,)))
    return lambda module, inward, outward: places.get(module, 0.0) * work((inward, outward), module)


def params_of(network: nn.Module) -> Cost:
    """Parameters, those of the normalisation left out."""

    def cost(module: nn.Module, inward: float, outward: float) -> float:
        kernel = math.prod(getattr(module, "kernel_size", (1,)))
        return kernel * work((inward, outward), module) + (outward if module.bias is not None else 0)

    return cost


Space = tuple[int, ...]


@torch.no_grad()
def spaces_of(network: nn.Module, example: Tensor) -> dict[nn.Module, list[tuple[Space, Space]]]:
    """Each layer that `example` [1, K, *space] passes, with the sizes of its input and output, once for each pass."""
    seen: dict[nn.Module, list[tuple[Space, Space]]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        first = 1 if isinstance(module, nn.Linear) else 2
        last = -1 if isinstance(module, nn.Linear) else None
        seen.setdefault(module, []).append((tuple(inputs[0].shape[first:last]), tuple(output.shape[first:last])))

    modes = {module: module.training for module in network.modules()}
    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, LAYERS)]
    try:
        network.eval()(example[:1])
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return seen


def channels_of(module: Any) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return module.in_channels, module.out_channels


def widths_of(network: nn.Module) -> dict[str, int]:
    """Channels out of each convolution and linear layer, by its name."""
    return {name: channels_of(m)[1] for name, m in network.named_modules() if isinstance(m, LAYERS)}


def depthwise(module: Any) -> bool:
    return getattr(module, "groups", 1) > 1 and module.groups == module.in_channels == module.out_channels


def work(channels: tuple[float, float], module: Any) -> float:
    inward, outward = channels
    return outward if depthwise(module) else inward * outward / getattr(module, "groups", 1)


@dataclass
class Group:
    """Layers that lose channels together; `order` are the root's channels, the least important first."""

    root: nn.Module
    handler: Any
    order: list[int]
    scores: list[float]  # in that order
    inward: list[tuple[nn.Module, float]]  # layer, input channels lost for each channel of the root
    outward: list[tuple[nn.Module, float]]
    floor: int
    gone: int = 0

    @property
    def left(self) -> int:
        return len(self.order) - self.gone

    def blocks(self, round_to: int, *, ahead: int = 1) -> Iterator[int]:
        """How many channels may go next: one block, two blocks ... at most `ahead`."""
        size = 0
        for _ in range(ahead):
            left = self.left - size
            step = left % round_to or round_to
            if left - step < self.floor:
                return
            size += step
            yield size


class Ledger:
    """Counts what a network costs whose channels are taken away on paper."""

    def __init__(self, layers: Iterable[nn.Module], cost: Cost) -> None:
        self.cost = cost
        self.channels: dict[nn.Module, tuple[float, float]] = {m: channels_of(m) for m in layers}
        self.total = sum(cost(m, *channels) for m, channels in self.channels.items())

    def saving(self, group: Group, size: int, *, book: bool = False) -> float:
        """What removing `size` channels of a group saves; `book` it."""
        touched: dict[nn.Module, tuple[float, float]] = {}
        for layers, side in ((group.inward, 0), (group.outward, 1)):
            for layer, factor in layers:
                if layer in self.channels:
                    inward, outward = touched.get(layer, self.channels[layer])
                    lost = size * factor
                    touched[layer] = (inward - lost, outward) if side == 0 else (inward, outward - lost)
        saved = sum(self.cost(m, *self.channels[m]) - self.cost(m, *channels) for m, channels in touched.items())
        if book:
            self.channels |= touched
            self.total -= saved
        return saved

    def least(self, groups: list[Group], *, round_to: int) -> float:
        """What is left when every group is at its floor; nothing is booked."""
        floor = Ledger((), self.cost)
        floor.channels, floor.total = dict(self.channels), self.total
        for group in groups:
            for size in [0, *group.blocks(round_to, ahead=len(group.order))][-1:]:
                floor.saving(group, size, book=True)
        return floor.total


def choose(groups: list[Group], ledger: Ledger, *, target: float, round_to: int, ahead: int = 1) -> None:
    """Take blocks away on paper, the least importance per unit of cost saved first, until `target` is left.

    The last block may overshoot by a hundredth; where every block does, the nearest ends the search.
    """
    slack = 0.01 * ledger.total
    while ledger.total > target:
        offers = [
            (group, size, saved)
            for group in groups
            for size in group.blocks(round_to, ahead=ahead)
            if (saved := ledger.saving(group, size)) > 0
        ]
        small = [offer for offer in offers if ledger.total - offer[2] >= target - slack]
        if small:
            group, size, _ = min(small, key=lambda o: sum(o[0].scores[o[0].gone : o[0].gone + o[1]]) / o[2])
        elif offers:
            group, size, saved = min(offers, key=lambda o: o[2])
            if ledger.total - target < target - (ledger.total - saved):
                return
        else:
            return
        ledger.saving(group, size, book=True)
        group.gone += size
