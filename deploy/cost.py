"""What layers cost in multiply-accumulates, and which blocks of channels are the cheapest to lose.

Shapes: N batch, K image channels, *space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


@torch.no_grad()
def count(network: nn.Module, example: Tensor) -> tuple[int, int]:
    """(parameters, multiply-accumulates of convolutions and linear layers for this example)."""
    places = places_of(network, example)
    macs = sum(p * work(channels_of(m), m) for m, p in places.items())
    return sum(p.numel() for p in network.parameters()), int(macs)


@torch.no_grad()
def places_of(network: nn.Module, example: Tensor) -> dict[nn.Module, float]:
    places: dict[nn.Module, float] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        inward, outward = channels_of(module)
        at = inputs[0].numel() / inward if getattr(module, "transposed", False) else output.numel() / outward
        places[module] = places.get(module, 0) + at * math.prod(getattr(module, "kernel_size", (1,)))

    modes = {module: module.training for module in network.modules()}
    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, LAYERS)]
    try:
        network.eval()(example)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return {m: p / len(example) for m, p in places.items()}


def channels_of(module: Any) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return module.in_channels, module.out_channels


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

    def block(self, round_to: int) -> int:
        """How many channels go next, 0 when no more may."""
        size = self.left % round_to or round_to
        return size if self.left - size >= self.floor else 0


class Ledger:
    """Counts the multiply-accumulates of a network whose channels are taken away on paper."""

    def __init__(self, places: dict[nn.Module, float]) -> None:
        self.places = places
        self.channels: dict[nn.Module, tuple[float, float]] = {m: channels_of(m) for m in places}
        self.macs = sum(p * work(self.channels[m], m) for m, p in places.items())

    def saving(self, group: Group, size: int, *, book: bool = False) -> float:
        """What removing `size` channels of a group saves; `book` it."""
        touched: dict[nn.Module, tuple[float, float]] = {}
        for layers, side in ((group.inward, 0), (group.outward, 1)):
            for layer, factor in layers:
                if layer in self.channels:
                    inward, outward = touched.get(layer, self.channels[layer])
                    lost = size * factor
                    touched[layer] = (inward - lost, outward) if side == 0 else (inward, outward - lost)
        saved = sum(self.places[m] * (work(self.channels[m], m) - work(channels, m)) for m, channels in touched.items())
        if book:
            self.channels |= touched
            self.macs -= saved
        return saved


def choose(groups: list[Group], ledger: Ledger, *, target: float, round_to: int) -> None:
    """Take blocks away on paper, the least importance per multiply-accumulate saved first.

    The last block may overshoot by a hundredth; where every block does, the nearest ends the search.
    """
    slack = 0.01 * ledger.macs
    while ledger.macs > target:
        offers = [
            (group, size, saved)
            for group in groups
            if (size := group.block(round_to)) and (saved := ledger.saving(group, size)) > 0
        ]
        small = [offer for offer in offers if ledger.macs - offer[2] >= target - slack]
        if small:
            group, size, _ = min(small, key=lambda o: sum(o[0].scores[o[0].gone : o[0].gone + o[1]]) / o[2])
        elif offers:
            group, size, saved = min(offers, key=lambda o: o[2])
            if ledger.macs - target < target - (ledger.macs - saved):
                return
        else:
            return
        ledger.saving(group, size, book=True)
        group.gone += size
