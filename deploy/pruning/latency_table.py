"""Table of measured layer times: every layer that pruning may change, at several channel counts.

Times between two measured counts are interpolated. A layer with more channels is never faster than one with fewer, as
the smaller one could run padded: where a measurement contradicts that, it was disturbed, and the lower time is used.

Shapes: I counts of input channels, O counts of output channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from deploy.pruning.cost import ChannelGroup, Cost, channels_of, depthwise, spaces_of

GRID_POINTS = 7  # channel counts to measure at most, for input and for output of a layer


@dataclass(frozen=True)
class LayerShape:
    """Shape of a single convolution or linear layer."""

    op: str  # "Conv", "ConvTranspose" or "MatMul"
    in_channels: int
    out_channels: int
    spatial: tuple[int, ...]  # spatial size of its input
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()  # of a transposed convolution
    groups: int = 1

    def at(self, in_channels: int, out_channels: int) -> LayerShape:
        """The same layer with other channels; a depthwise layer stays depthwise."""
        groups = out_channels if self.groups == self.in_channels == self.out_channels > 1 else self.groups
        return replace(
            self,
            in_channels=out_channels if groups == out_channels > 1 else in_channels,
            out_channels=out_channels,
            groups=groups,
        )


class LatencyBackend(Protocol):
    """Measures latency: a runtime on this machine, or a fake one in tests."""

    def layers(self, shapes: Sequence[LayerShape]) -> Sequence[float]:
        """Milliseconds of each layer alone."""
        ...

    def graph(self, network: nn.Module, example: Tensor) -> Any:
        """The whole network, loaded for timing."""
        ...

    def time_interleaved(self, graphs: Sequence[Any]) -> Sequence[float]:
        """Milliseconds of each graph, timed alternately in one run."""
        ...

    def describe(self) -> dict[str, Any]:
        """Runtime, precision and threads, for the plan."""
        ...


@dataclass(frozen=True)
class LatencyGrid:
    """Times of one layer in ms [I, O], at I input and O output channel counts; [1, O] for a depthwise layer."""

    in_channels: tuple[int, ...]
    out_channels: tuple[int, ...]
    ms: np.ndarray

    def __call__(self, in_channels: float, out_channels: float) -> float:
        at_outward = [float(np.interp(out_channels, self.out_channels, row)) for row in self.ms]
        return float(np.interp(in_channels, self.in_channels, at_outward))


class LatencyTable:
    """Milliseconds of each layer, by its name in the network, at any channel counts within the measured range."""

    def __init__(self, grids: Mapping[str, Sequence[LatencyGrid]]) -> None:
        self.grids = grids

    def cost(self, network: nn.Module) -> Cost:
        """Cost in milliseconds, for the layers of this network or of a pruned copy."""
        names = {module: name for name, module in network.named_modules()}
        return lambda module, in_channels, out_channels: sum(
            g(in_channels, out_channels) for g in self.grids.get(names[module], ())
        )


def measure_table(
    network: nn.Module, example: Tensor, groups: Iterable[ChannelGroup], *, round_to: int, backend: LatencyBackend
) -> tuple[LatencyTable, float]:
    """(table for every layer of `network`, sum of their times at the present widths in ms).

    Channel counts range from the present width down to the minimum of the groups of a layer.
    """
    least: dict[tuple[nn.Module, int], float] = {}
    for group in groups:
        num_pruned = sum([0, *group.blocks(round_to, lookahead=len(group.order))][-1:])
        for layers, side in ((group.consumers, 0), (group.producers, 1)):
            for layer, factor in layers:
                least[layer, side] = least.get((layer, side), channels_of(layer)[side]) - num_pruned * factor
    names = {module: name for name, module in network.named_modules()}
    axes: dict[str, tuple[list[LayerShape], tuple[int, ...], tuple[int, ...]]] = {}
    for module, spaces in spaces_of(network, example).items():
        in_channels, out_channels = channels_of(module)
        own = channel_grid(out_channels, least.get((module, 1), out_channels), round_to=round_to)
        other = (
            (in_channels,)
            if depthwise(module)
            else channel_grid(in_channels, least.get((module, 0), in_channels), round_to=round_to)
        )
        axes[names[module]] = ([layer_of(module, spatial) for spatial, _ in spaces], other, own)
    wanted = list(
        dict.fromkeys(
            layer.at(i, o)
            for layers, in_channels, out_channels in axes.values()
            for layer in layers
            for i in in_channels
            for o in out_channels
        )
    )
    times = dict(zip(wanted, backend.layers(wanted), strict=True))
    grids = {
        name: [
            LatencyGrid(
                in_channels,
                out_channels,
                _undisturbed([[times[layer.at(i, o)] for o in out_channels] for i in in_channels]),
            )
            for layer in layers
        ]
        for name, (layers, in_channels, out_channels) in axes.items()
    }
    table = LatencyTable(grids)
    cost = table.cost(network)
    return table, sum(cost(module, *channels_of(module)) for module in names if names[module] in grids)


def channel_grid(most: int, least: float, *, round_to: int) -> tuple[int, ...]:
    """Channel counts to measure, ascending: multiples of `round_to` from `least` to `most`, at most GRID_POINTS."""
    low = max(int(least), 1)
    every = sorted({low, most, *range(-(-low // round_to) * round_to, most, round_to)})
    if len(every) <= GRID_POINTS:
        return tuple(every)
    chosen = np.geomspace(low, most, GRID_POINTS)
    return tuple(sorted({min(every, key=lambda count: abs(count - want)) for want in chosen}))


def layer_of(module: Any, spatial: tuple[int, ...]) -> LayerShape:
    """Shape of a layer for an input of size `spatial`."""
    in_channels, out_channels = channels_of(module)
    if isinstance(module, nn.Linear):
        return LayerShape("MatMul", in_channels, out_channels, spatial)
    padding = module.padding
    if isinstance(padding, str):  # "same", with stride 1
        padding = tuple(d * (k - 1) // 2 for d, k in zip(module.dilation, module.kernel_size, strict=True))
    elif type(module).__name__.endswith("Same"):  # timm's layers with the padding of TensorFlow, done in their forward
        sizes = zip(spatial, module.kernel_size, module.stride, module.dilation, strict=True)
        padding = tuple((max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0) + 1) // 2 for n, k, s, d in sizes)
    return LayerShape(
        "ConvTranspose" if module.transposed else "Conv",
        in_channels,
        out_channels,
        spatial,
        kernel=tuple(module.kernel_size),
        stride=tuple(module.stride),
        padding=tuple(padding),
        dilation=tuple(module.dilation),
        output_padding=tuple(module.output_padding) if module.transposed else (),
        groups=module.groups,
    )


def _undisturbed(ms: Sequence[Sequence[float]]) -> np.ndarray:
    """Each time lowered to the minimum over all larger layers."""
    out = np.asarray(ms, dtype=np.float64)
    for axis in (0, 1):
        out = np.flip(np.minimum.accumulate(np.flip(out, axis), axis=axis), axis)
    return out
