"""A table of measured layer times: every layer that pruning may touch, at several channel counts.

Between two counts that were measured the time is interpolated. A layer with more channels is never quicker than one
with fewer, for it could run padded: where the clock says otherwise, it was disturbed, and the lower time counts.

Shapes: I counts of input channels, O counts of output channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from deploy.pruning.cost import Cost, Group, channels_of, depthwise, spaces_of

KNOTS = 7  # channel counts that are measured, at most, on each side of a layer


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer on its own, as a runtime sees it."""

    op: str  # "Conv", "ConvTranspose" or "MatMul"
    inward: int
    outward: int
    space: tuple[int, ...]  # of its input
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    extra: tuple[int, ...] = ()  # output padding of a transposed convolution
    groups: int = 1

    def at(self, inward: int, outward: int) -> Layer:
        """The same layer with other channels; a depthwise one stays depthwise."""
        groups = outward if self.groups == self.inward == self.outward > 1 else self.groups
        return replace(self, inward=outward if groups == outward > 1 else inward, outward=outward, groups=groups)


class Machine(Protocol):
    """What is measured on: a runtime of this machine, or one made up for a test."""

    def layers(self, asked: Sequence[Layer]) -> Sequence[float]:
        """Milliseconds of each layer alone."""
        ...

    def graph(self, network: nn.Module, example: Tensor) -> Any:
        """The whole network, ready to be timed."""
        ...

    def turns(self, graphs: Sequence[Any]) -> Sequence[float]:
        """Milliseconds of each graph, measured in turns in one run."""
        ...

    def described(self) -> dict[str, Any]:
        """Runtime, precision and threads, for the plan."""
        ...


@dataclass(frozen=True)
class Grid:
    """Times of one layer, ms [I, O], at these counts of channels; of a depthwise layer [1, O]."""

    inward: tuple[int, ...]
    outward: tuple[int, ...]
    ms: np.ndarray

    def __call__(self, inward: float, outward: float) -> float:
        at_outward = [float(np.interp(outward, self.outward, row)) for row in self.ms]
        return float(np.interp(inward, self.inward, at_outward))


class Table:
    """Milliseconds of a layer by its name in the network, at any count of channels within what was measured."""

    def __init__(self, grids: Mapping[str, Sequence[Grid]]) -> None:
        self.grids = grids

    def cost(self, network: nn.Module) -> Cost:
        """What a layer takes in this network, or a pruned copy of it."""
        names = {module: name for name, module in network.named_modules()}
        return lambda module, inward, outward: sum(g(inward, outward) for g in self.grids.get(names[module], ()))


def measured(
    network: nn.Module, example: Tensor, groups: Iterable[Group], *, round_to: int, machine: Machine
) -> tuple[Table, float]:
    """The table for every layer of `network`, and their times' sum as it stands, ms.

    Channel counts reach from the full width down to the floor of the groups that touch a layer.
    """
    least: dict[tuple[nn.Module, int], float] = {}
    for group in groups:
        gone = sum([0, *group.blocks(round_to, ahead=len(group.order))][-1:])
        for layers, side in ((group.inward, 0), (group.outward, 1)):
            for layer, factor in layers:
                least[layer, side] = least.get((layer, side), channels_of(layer)[side]) - gone * factor
    names = {module: name for name, module in network.named_modules()}
    axes: dict[str, tuple[list[Layer], tuple[int, ...], tuple[int, ...]]] = {}
    for module, spaces in spaces_of(network, example).items():
        inward, outward = channels_of(module)
        own = knots(outward, least.get((module, 1), outward), round_to=round_to)
        other = (inward,) if depthwise(module) else knots(inward, least.get((module, 0), inward), round_to=round_to)
        axes[names[module]] = ([layer_of(module, space) for space, _ in spaces], other, own)
    wanted = list(
        dict.fromkeys(
            layer.at(i, o)
            for layers, inward, outward in axes.values()
            for layer in layers
            for i in inward
            for o in outward
        )
    )
    times = dict(zip(wanted, machine.layers(wanted), strict=True))
    grids = {
        name: [
            Grid(inward, outward, _undisturbed([[times[layer.at(i, o)] for o in outward] for i in inward]))
            for layer in layers
        ]
        for name, (layers, inward, outward) in axes.items()
    }
    table = Table(grids)
    cost = table.cost(network)
    return table, sum(cost(module, *channels_of(module)) for module in names if names[module] in grids)


def knots(most: int, least: float, *, round_to: int) -> tuple[int, ...]:
    """Counts of channels to measure, ascending: multiples of `round_to` from `least` to `most`, at most KNOTS."""
    low = max(int(least), 1)
    every = sorted({low, most, *range(-(-low // round_to) * round_to, most, round_to)})
    if len(every) <= KNOTS:
        return tuple(every)
    chosen = np.geomspace(low, most, KNOTS)
    return tuple(sorted({min(every, key=lambda count: abs(count - want)) for want in chosen}))


def layer_of(module: Any, space: tuple[int, ...]) -> Layer:
    inward, outward = channels_of(module)
    if isinstance(module, nn.Linear):
        return Layer("MatMul", inward, outward, space)
    padding = module.padding
    if isinstance(padding, str):  # "same" of a stride of 1
        padding = tuple(d * (k - 1) // 2 for d, k in zip(module.dilation, module.kernel_size, strict=True))
    return Layer(
        "ConvTranspose" if module.transposed else "Conv",
        inward,
        outward,
        space,
        kernel=tuple(module.kernel_size),
        stride=tuple(module.stride),
        padding=tuple(padding),
        dilation=tuple(module.dilation),
        extra=tuple(module.output_padding) if module.transposed else (),
        groups=module.groups,
    )


def _undisturbed(ms: Sequence[Sequence[float]]) -> np.ndarray:
    """Each time lowered to the least that a larger layer took."""
    out = np.asarray(ms, dtype=np.float64)
    for axis in (0, 1):
        out = np.flip(np.minimum.accumulate(np.flip(out, axis), axis=axis), axis)
    return out
