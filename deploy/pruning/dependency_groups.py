"""Groups of channels that must be pruned together, traced by torch-pruning, with the importance of the channels.

Shapes: K image channels, *space.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deploy.pruning.cost import LAYERS, ChannelGroup, depthwise
from deploy.pruning.options import PruneOptions

Gradients = Callable[[nn.Module], None]


def compute_gradients(network: nn.Module, gradients: Gradients) -> None:
    """Set fresh gradients on the parameters with `gradients(network)`.

    Raises ValueError where it leaves no gradient, or one that is not finite.
    """
    network.zero_grad(set_to_none=True)
    with torch.enable_grad():
        # In training mode batch norm makes weight x gradient of a filter sum to zero: every importance would be 0.
        gradients(network.eval())
    moved = False
    for p in network.parameters():
        if p.grad is None:
            p.grad = torch.zeros_like(p)  # a head the loss does not use
        elif not torch.isfinite(p.grad).all():
            raise ValueError("pruning: the gradients hold NaN or infinite values; check the loss and its batches")
        moved = moved or bool(p.grad.any())
    if not moved:
        raise ValueError("pruning: gradients() left no gradient behind; it must call backward on real batches")


def groups_of(
    network: nn.Module, example: Tensor, options: PruneOptions, *, original_widths: Mapping[str, int]
) -> tuple[Any, list[ChannelGroup]]:
    """(dependency graph of torch-pruning, its groups with ranked channels), without groups of network outputs.

    `original_widths`: name of each layer -> its channels before any pruning, of which minimum widths are a fraction.
    """
    import torch_pruning as tp

    names = {module: name for name, module in network.named_modules()}
    try:
        with torch.enable_grad(), warnings.catch_warnings(), _traceable(network):
            warnings.simplefilter("ignore")
            graph = tp.DependencyGraph().build_dependency(
                network, example, forward_fn=lambda net, x: net(x), output_transform=_outputs
            )
            found = list(graph.get_all_groups(root_module_types=LAYERS))
            importance = (
                tp.importance.GroupTaylorImportance("sum", normalizer=None, multivariable=True)
                if options.importance == "taylor"
                else tp.importance.GroupMagnitudeImportance(group_reduction="mean", normalizer="mean")
            )
            ranked = [(group, importance(group)) for group in found]
    except Exception as error:  # unsupported layers such as attention raise many types
        raise ValueError(
            f"torch-pruning cannot follow this network ({type(error).__name__}: {error}); choose a "
            "convolutional student such as mobilenetv4_small, or set prune.share = 0"
        ) from error
    groups: list[ChannelGroup] = []
    for group, scores in ranked:
        root, handler = group[0].dep.target.module, group[0].dep.handler
        if scores is None or not all(_may_shrink(graph, dep) for dep, _ in group):
            continue
        order = torch.argsort(scores, stable=True).tolist()
        consumers, producers = _sides(graph, group)
        total = original_widths.get(names[root], len(order))
        least = max(options.rounded_to, math.ceil(total * (1 - options.max_ratio)))
        min_channels = math.ceil(least / options.rounded_to) * options.rounded_to
        groups.append(ChannelGroup(root, handler, order, scores[order].tolist(), consumers, producers, min_channels))
    return graph, groups


def _sides(graph: Any, group: Any) -> tuple[list[tuple[nn.Module, float]], list[tuple[nn.Module, float]]]:
    """(consumers, producers) of a group: layers that lose input or output channels, and how many per root channel."""
    consumers: list[tuple[nn.Module, float]] = []
    producers: list[tuple[nn.Module, float]] = []
    total = len(group[0].idxs)
    for dep, idxs in group:
        layer = dep.target.module
        if isinstance(layer, LAYERS):
            side = producers if depthwise(layer) or graph.is_out_channel_pruning_fn(dep.handler) else consumers
            if not any(listed is layer for listed, _ in side) or side is consumers:
                side.append((layer, len(idxs) / total))
    return consumers, producers


def _may_shrink(graph: Any, dep: Any) -> bool:
    """False for an output of the network, and for grouped channels, which must stay of equal size."""
    node, module = dep.target, dep.target.module
    if graph.is_out_channel_pruning_fn(dep.handler) and not node.outputs:
        return False
    grouped = getattr(module, "groups", 1) > 1 and not depthwise(module)
    return not grouped and not isinstance(module, nn.GroupNorm)


@contextmanager
def _traceable(network: nn.Module) -> Iterator[None]:
    """Replace instance norm by the identity for the trace: it reshapes its input, which torch-pruning cannot follow."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.instancenorm._InstanceNorm)]
    try:
        for norm in norms:
            norm.forward = torch.clone  # type: ignore[method-assign]
        yield
    finally:
        for norm in norms:
            del norm.forward


def _outputs(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in output if part is not None for tensor in _outputs(part)]
