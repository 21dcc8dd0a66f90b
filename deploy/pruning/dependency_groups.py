"""Which channels of a network go together, and which of them the loss misses least; torch-pruning traces it.

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

from deploy.pruning.cost import LAYERS, Group, depthwise
from deploy.pruning.options import PruneOptions

Gradients = Callable[[nn.Module], None]


def fresh_gradients(network: nn.Module, gradients: Gradients) -> None:
    """Raises ValueError when none, or none that are numbers, are left behind."""
    network.zero_grad(set_to_none=True)
    with torch.enable_grad():
        # In training mode batch norm lets a filter's weight x gradient sum to zero: all would look idle.
        gradients(network.eval())
    moved = False
    for p in network.parameters():
        if p.grad is None:
            p.grad = torch.zeros_like(p)  # a head the loss does not use
        elif not torch.isfinite(p.grad).all():
            raise ValueError("pruning: the gradients hold NaN or infinite values; look at the loss and its batches")
        moved = moved or bool(p.grad.any())
    if not moved:
        raise ValueError("pruning: gradients() left no gradient behind; it must call backward on real batches")


def groups_of(
    network: nn.Module, example: Tensor, options: PruneOptions, *, whole: Mapping[str, int]
) -> tuple[Any, list[Group]]:
    """torch-pruning's graph, and its groups with their channels ranked; outputs are left out.

    `whole` are the channels that each layer had before anything was pruned, by name: what a floor is a share of.
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
    except Exception as error:  # attention, layer scale and the like: a dozen types, none of them the user's fault
        raise ValueError(
            f"torch-pruning cannot follow this network ({type(error).__name__}: {error}); choose a "
            "convolutional student such as mobilenetv4_small, or set prune.share = 0"
        ) from error
    groups: list[Group] = []
    for group, scores in ranked:
        root, handler = group[0].dep.target.module, group[0].dep.handler
        if scores is None or not all(_may_shrink(graph, dep) for dep, _ in group):
            continue
        order = torch.argsort(scores, stable=True).tolist()
        inward, outward = _sides(graph, group)
        total = whole.get(names[root], len(order))
        least = max(options.rounded_to, math.ceil(total * (1 - options.max_ratio)))
        floor = math.ceil(least / options.rounded_to) * options.rounded_to
        groups.append(Group(root, handler, order, scores[order].tolist(), inward, outward, floor))
    return graph, groups


def _sides(graph: Any, group: Any) -> tuple[list[tuple[nn.Module, float]], list[tuple[nn.Module, float]]]:
    """The layers of a group that lose inputs, and those that lose outputs, with how many for a channel of the root."""
    inward: list[tuple[nn.Module, float]] = []
    outward: list[tuple[nn.Module, float]] = []
    total = len(group[0].idxs)
    for dep, idxs in group:
        layer = dep.target.module
        if isinstance(layer, LAYERS):
            side = outward if depthwise(layer) or graph.is_out_channel_pruning_fn(dep.handler) else inward
            if not any(known is layer for known, _ in side) or side is inward:
                side.append((layer, len(idxs) / total))
    return inward, outward


def _may_shrink(graph: Any, dep: Any) -> bool:
    """No for an output of the network, and for grouped channels that must stay of equal size."""
    node, module = dep.target, dep.target.module
    if graph.is_out_channel_pruning_fn(dep.handler) and not node.outputs:
        return False
    grouped = getattr(module, "groups", 1) > 1 and not depthwise(module)
    return not grouped and not isinstance(module, nn.GroupNorm)


@contextmanager
def _traceable(network: nn.Module) -> Iterator[None]:
    """Instance norm reshapes inside, where torch-pruning loses its track: meanwhile it hands on what it gets."""
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
