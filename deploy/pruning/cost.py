"""Cost of layers (multiply-accumulates, parameters or measured time), and the choice of channels to remove by it.

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

Cost = Callable[
    [nn.Module, float, float], float
]  # (layer, input channels, output channels) -> cost of the layer with these channels
LOOKAHEAD = 4  # blocks of channels to consider at once for measured time, which falls in steps


@torch.no_grad()
def count(network: nn.Module, example: Tensor) -> tuple[int, int]:
    """(parameters, multiply-accumulates of convolutions and linear layers for this example)."""
    cost = macs_of(network, example)
    macs = sum(cost(m, *channels_of(m)) for m in network.modules() if isinstance(m, LAYERS))
    return sum(p.numel() for p in network.parameters()), int(macs)


def macs_of(network: nn.Module, example: Tensor) -> Cost:
    """Cost in multiply-accumulates for one example."""
    positions: dict[nn.Module, float] = {}
    for module, spaces in spaces_of(network, example).items():
        count = sum(
            math.prod(in_channels if getattr(module, "transposed", False) else out) for in_channels, out in spaces
        )
        positions[module] = count * math.prod(getattr(module, "kernel_size", (1,)))
    return lambda module, in_channels, out_channels: (
        positions.get(module, 0.0) * work((in_channels, out_channels), module)
    )


def params_of(network: nn.Module) -> Cost:
    """Cost in parameters, without those of normalisation layers."""

    def cost(module: nn.Module, in_channels: float, out_channels: float) -> float:
        kernel = math.prod(getattr(module, "kernel_size", (1,)))
        return kernel * work((in_channels, out_channels), module) + (out_channels if module.bias is not None else 0)

    return cost


Space = tuple[int, ...]


@torch.no_grad()
def spaces_of(network: nn.Module, example: Tensor) -> dict[nn.Module, list[tuple[Space, Space]]]:
    """Layers that `example` [1, K, *space] passes -> spatial sizes of (input, output), once for each pass."""
    passes: dict[nn.Module, list[tuple[Space, Space]]] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        first = 1 if isinstance(module, nn.Linear) else 2
        last = -1 if isinstance(module, nn.Linear) else None
        passes.setdefault(module, []).append((tuple(inputs[0].shape[first:last]), tuple(output.shape[first:last])))

    modes = {module: module.training for module in network.modules()}
    hooks = [m.register_forward_hook(record) for m in network.modules() if isinstance(m, LAYERS)]
    try:
        network.eval()(example[:1])
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return passes


def channels_of(module: Any) -> tuple[int, int]:
    """(input channels, output channels) of a convolution or linear layer."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return module.in_channels, module.out_channels


def widths_of(network: nn.Module) -> dict[str, int]:
    """Name of each convolution and linear layer -> its output channels."""
    return {name: channels_of(m)[1] for name, m in network.named_modules() if isinstance(m, LAYERS)}


def depthwise(module: Any) -> bool:
    """True for a depthwise convolution."""
    return getattr(module, "groups", 1) > 1 and module.groups == module.in_channels == module.out_channels


def work(channels: tuple[float, float], module: Any) -> float:
    """Products of input and output channels that a layer computes, for (input, output) `channels`."""
    in_channels, out_channels = channels
    return out_channels if depthwise(module) else in_channels * out_channels / getattr(module, "groups", 1)


@dataclass
class ChannelGroup:
    """Layers that lose channels together; `order` lists the channels of the root layer, the least important first."""

    root: nn.Module
    handler: Any
    order: list[int]
    scores: list[float]  # importance of the channels, in that order
    consumers: list[tuple[nn.Module, float]]  # (layer, input channels lost for each channel of the root)
    producers: list[tuple[nn.Module, float]]  # (layer, output channels lost for each channel of the root)
    min_channels: int
    num_pruned: int = 0

    @property
    def remaining(self) -> int:
        """Channels of the root that are not pruned."""
        return len(self.order) - self.num_pruned

    def blocks(self, round_to: int, *, lookahead: int = 1) -> Iterator[int]:
        """Numbers of channels that may be removed next: one block, two blocks, ... at most `lookahead` blocks."""
        size = 0
        for _ in range(lookahead):
            remaining = self.remaining - size
            step = remaining % round_to or round_to
            if remaining - step < self.min_channels:
                return
            size += step
            yield size


class CostModel:
    """Cost of a network under planned removals of channels; the network itself is not changed."""

    def __init__(self, layers: Iterable[nn.Module], cost: Cost) -> None:
        self.cost = cost
        self.channels: dict[nn.Module, tuple[float, float]] = {m: channels_of(m) for m in layers}
        self.total = sum(cost(m, *channels) for m, channels in self.channels.items())

    def saving(self, group: ChannelGroup, size: int, *, commit: bool = False) -> float:
        """Cost saved by removing `size` channels of `group`; with `commit` the removal is recorded."""
        touched: dict[nn.Module, tuple[float, float]] = {}
        for layers, side in ((group.consumers, 0), (group.producers, 1)):
            for layer, factor in layers:
                if layer in self.channels:
                    in_channels, out_channels = touched.get(layer, self.channels[layer])
                    lost = size * factor
                    touched[layer] = (
                        (in_channels - lost, out_channels) if side == 0 else (in_channels, out_channels - lost)
                    )
        saved = sum(self.cost(m, *self.channels[m]) - self.cost(m, *channels) for m, channels in touched.items())
        if commit:
            self.channels |= touched
            self.total -= saved
        return saved

    def least(self, groups: list[ChannelGroup], *, round_to: int) -> float:
        """Cost where every group is at its minimum; nothing is recorded."""
        at_minimum = CostModel((), self.cost)
        at_minimum.channels, at_minimum.total = dict(self.channels), self.total
        for group in groups:
            for size in [0, *group.blocks(round_to, lookahead=len(group.order))][-1:]:
                at_minimum.saving(group, size, commit=True)
        return at_minimum.total


def choose(groups: list[ChannelGroup], model: CostModel, *, target: float, round_to: int, lookahead: int = 1) -> None:
    """Plan removals in `groups`, the least importance per cost saved first, until the cost is `target`.

    The last block may overshoot by 1 % of the total; where every block overshoots more, the closest ends the search.
    """
    slack = 0.01 * model.total
    while model.total > target:
        offers = [
            (group, size, saved)
            for group in groups
            for size in group.blocks(round_to, lookahead=lookahead)
            if (saved := model.saving(group, size)) > 0
        ]
        small = [offer for offer in offers if model.total - offer[2] >= target - slack]
        if small:
            group, size, _ = min(small, key=lambda o: sum(o[0].scores[o[0].num_pruned : o[0].num_pruned + o[1]]) / o[2])
        elif offers:
            group, size, saved = min(offers, key=lambda o: o[2])
            if model.total - target < target - (model.total - saved):
                return
        else:
            return
        model.saving(group, size, commit=True)
        group.num_pruned += size
