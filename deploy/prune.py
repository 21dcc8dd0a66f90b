"""Structured pruning: whole channels go, the least missed for the work they free.

torch-pruning knows which layers must shrink together; what goes is decided here. A round asks for the loss's
gradients afresh, ranks every block of channels of every group by importance per multiply-accumulate saved,
and removes the least until its share of the target is reached. Nothing is kept between two calls.

Shapes: N batch, K image channels, *space.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deploy.cost import LAYERS, Group, Ledger, choose, count, depthwise, places_of
from deploy.plan import Plan, apply_plan, shapes_of, sizes_of

__all__ = ["Plan", "PruneOptions", "apply_plan", "count", "prune", "recalibrate"]


@dataclass(frozen=True)
class PruneOptions:
    """What to remove, and how carefully."""

    macs: float = 0.45  # the share of multiply-accumulates to remove
    importance: Literal["taylor", "magnitude"] = (
        "taylor"  # |sum of weight x gradient| (arXiv 1906.10771), or |weight|^2
    )
    round_to: int = 8  # channels stay multiples of this: int8 kernels want 8 or 16
    steps: int = 4  # rounds; the gradients are taken anew in each
    max_ratio: float = 0.75  # the largest share that one layer may lose

    def __post_init__(self) -> None:
        if not 0 <= self.macs < 1:
            raise ValueError(f"prune.macs = {self.macs}: a share to remove, from 0 to below 1, such as 0.45")
        if self.importance not in ("taylor", "magnitude"):
            raise ValueError(f"prune.importance = {self.importance!r}: choose 'taylor' or 'magnitude'")
        if not 0 < self.max_ratio < 1:
            raise ValueError(f"prune.max_ratio = {self.max_ratio}: the share a layer may lose, between 0 and 1")
        if self.round_to < 1 or self.steps < 1:
            raise ValueError(f"prune.round_to = {self.round_to}, prune.steps = {self.steps}: both must be 1 or more")


def prune(
    network: nn.Module,
    *,
    example: Tensor,
    options: PruneOptions,
    gradients: Callable[[nn.Module], None] | None = None,
) -> Plan:
    """Prune `network` in place until `options.macs` of its multiply-accumulates are gone.

    example: [1, K, *space], the size that macs are counted at. gradients(network) runs backward on real
    batches, labelled or not, with the network in evaluation mode; "taylor" requires it. Outputs and the input
    keep their channels. Batch statistics are stale afterwards: see `recalibrate`. Raises ValueError when the
    target cannot be reached (before anything is cut), or the network cannot be traced.
    """
    if options.importance == "taylor" and gradients is None:
        raise ValueError("prune.importance = 'taylor' needs gradients; give them, or choose 'magnitude'")
    before = count(network, example)
    shapes = shapes_of(network), sizes_of(network)
    if options.macs == 0:
        warnings.warn("prune.macs = 0: nothing is pruned", stacklevel=2)
    else:
        modes = {module: module.training for module in network.modules()}
        wants = {name: p.requires_grad for name, p in network.named_parameters()}
        try:
            network.requires_grad_(True)  # the tracer follows gradients
            _rounds(network, example, options, gradients)
        finally:
            for module, mode in modes.items():
                module.training = mode
            for name, p in network.named_parameters():
                p.requires_grad_(wants[name])
                p.grad = None
    after = count(network, example)
    tensors, sizes = shapes_of(network), sizes_of(network)
    return Plan(
        params=(before[0], after[0]),
        macs=(before[1], after[1]),
        sizes={m: s for m, s in sizes.items() if s != shapes[1][m]},
        tensors={name: shape for name, shape in tensors.items() if shape != shapes[0][name]},
    )


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Re-estimate the batch norm statistics from images [N, K, *space]; returns the number of batches.

    Everything else is in evaluation mode meanwhile. Raises ValueError, changing nothing, without a batch.
    """
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        raise ValueError("no batch to re-estimate the batch statistics from; unlabelled images do")
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    modes = {module: module.training for module in network.modules()}
    momenta = [norm.momentum for norm in norms]
    seen = 0
    try:
        network.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None  # a plain average over the batches
        for images in chain((first,), stream):
            network(images)
            seen += 1
    finally:
        for module, mode in modes.items():
            module.training = mode
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return seen


def _rounds(
    network: nn.Module, example: Tensor, options: PruneOptions, gradients: Callable[[nn.Module], None] | None
) -> None:
    start = count(network, example)[1]
    floors: dict[str, int] = {}
    for number in range(1, options.steps + 1):
        if options.importance == "taylor" and gradients is not None:
            _fresh_gradients(network, gradients)
        graph, groups = _groups(network, example, options, floors)
        ledger = Ledger(places_of(network, example))
        if number == 1:
            _reachable(groups, ledger, start, options)
        share = options.macs * number / options.steps
        choose(groups, ledger, target=start * (1 - share), round_to=options.round_to)
        for group in groups:
            if group.gone:
                graph.get_pruning_group(group.root, group.handler, sorted(group.order[: group.gone])).prune()


def _reachable(groups: list[Group], ledger: Ledger, start: int, options: PruneOptions) -> None:
    floor = Ledger(ledger.places)
    for group in groups:
        while size := group.block(options.round_to):
            floor.saving(group, size, book=True)
            group.gone += size
        group.gone = 0
    most = 1 - floor.macs / start
    if most < options.macs:
        raise ValueError(
            f"prune.macs = {options.macs}: at most {most:.2f} of this network can go with prune.max_ratio = "
            f"{options.max_ratio} and prune.round_to = {options.round_to}; ask for less or allow more"
        )


def _fresh_gradients(network: nn.Module, gradients: Callable[[nn.Module], None]) -> None:
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


def _groups(
    network: nn.Module, example: Tensor, options: PruneOptions, floors: dict[str, int]
) -> tuple[Any, list[Group]]:
    """torch-pruning's graph, and its groups with their channels ranked; outputs are left out."""
    import torch_pruning as tp

    names = {module: name for name, module in network.named_modules()}
    try:
        with torch.enable_grad(), warnings.catch_warnings():
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
            "convolutional student such as mobilenetv4_small, or set prune.macs = 0"
        ) from error
    groups: list[Group] = []
    for group, scores in ranked:
        root, handler = group[0].dep.target.module, group[0].dep.handler
        if scores is None or not all(_may_shrink(graph, dep) for dep, _ in group):
            continue
        total = len(group[0].idxs)
        order = torch.argsort(scores, stable=True).tolist()
        inward: list[tuple[nn.Module, float]] = []
        outward: list[tuple[nn.Module, float]] = []
        for dep, idxs in group:
            layer = dep.target.module
            if isinstance(layer, LAYERS):
                side = outward if depthwise(layer) or graph.is_out_channel_pruning_fn(dep.handler) else inward
                if not any(known is layer for known, _ in side) or side is inward:
                    side.append((layer, len(idxs) / total))
        least = max(options.round_to, math.ceil(total * (1 - options.max_ratio)))
        floor = floors.setdefault(names[root], math.ceil(least / options.round_to) * options.round_to)
        groups.append(Group(root, handler, order, scores[order].tolist(), inward, outward, floor))
    return graph, groups


def _may_shrink(graph: Any, dep: Any) -> bool:
    """No for an output of the network, and for grouped channels that must stay of equal size."""
    node, module = dep.target, dep.target.module
    if graph.is_out_channel_pruning_fn(dep.handler) and not node.outputs:
        return False
    grouped = getattr(module, "groups", 1) > 1 and not depthwise(module)
    return not grouped and not isinstance(module, nn.GroupNorm)


def _outputs(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in output if part is not None for tensor in _outputs(part)]
