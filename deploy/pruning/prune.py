"""Structured pruning: remove whole channels, those of the least importance per cost saved first.

torch-pruning finds the layers that must shrink together; which channels are removed is decided here. Each step computes
the gradients of the loss, ranks every block of channels of every group by importance per unit of cost saved (multiply-
accumulates, parameters, or milliseconds of a table measured on the runtime), and removes the lowest until its fraction
of the target is reached. Calls share no state.

Shapes: N batch, K image channels, *space.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from deploy.pruning import latency_search
from deploy.pruning.cost import (
    LAYERS,
    LOOKAHEAD,
    ChannelGroup,
    Cost,
    CostModel,
    choose,
    count,
    macs_of,
    params_of,
    widths_of,
)
from deploy.pruning.dependency_groups import Gradients, compute_gradients, groups_of
from deploy.pruning.latency_table import LatencyBackend
from deploy.pruning.options import PruneOptions
from deploy.pruning.plan import Plan, read_plan, shapes_of, sizes_of, temporarily_trainable


def prune(
    network: nn.Module,
    *,
    example: Tensor,
    options: PruneOptions,
    gradients: Gradients | None = None,
    backend: LatencyBackend | None = None,
    original_widths: Mapping[str, int] | None = None,
) -> Plan:
    """Prune `network` in place until the fraction `options.share` of its macs, parameters or latency is removed.

    example: [1, K, *space], the input size at which costs are counted. gradients(network) runs backward on real
    batches, labelled or not, with the network in evaluation mode; "taylor" requires it. `backend` measures latency, by
    default `options.runtime` on this machine. `original_widths` (see `widths_of`) are the channels of the layers before
    any pruning, where the network was pruned before. Input and outputs keep their channels. Batch statistics are stale
    afterwards: see `recalibrate`. Raises ValueError where the target cannot be reached (before anything is changed) and
    where the network cannot be traced.
    """
    if options.importance == "taylor" and gradients is None:
        raise ValueError("prune.importance = 'taylor' needs gradients; give them, or choose 'magnitude'")
    if not options.wanted:
        warnings.warn("prune.share = 0: nothing is pruned", stacklevel=2)
    before, shapes, sizes = count(network, example), shapes_of(network), sizes_of(network)
    again = read_plan(Path(options.plan)) if options.plan else None
    measured: dict[str, object] = {}
    with temporarily_trainable(network):
        cut = partial(
            _cut,
            example=example,
            options=options,
            gradients=gradients,
            original_widths=original_widths or widths_of(network),
        )
        if again is not None:
            _repeat(network, again, cut)
        elif options.wanted and options.target == "latency":
            measured = latency_search.search(network, example, options, cut=cut, backend=backend)
        elif options.wanted:
            cost = partial(macs_of, example=example) if options.target == "macs" else params_of
            cut(network, share=options.share, cost=cost)
    after, now = count(network, example), shapes_of(network)
    return Plan(
        params=(before[0], after[0]),
        macs=(before[1], after[1]),
        sizes={m: s for m, s in sizes_of(network).items() if s != sizes[m]},
        tensors={name: shape for name, shape in now.items() if shape != shapes[name]},
        latency=measured,
    )


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Re-estimate the batch norm statistics from images [N, K, *space]; returns the number of batches.

    All other modules are in evaluation mode during that. Raises ValueError, with nothing changed, without a batch.
    """
    stream = iter(batches)
    first = next(stream, None)
    if first is None:
        raise ValueError("no batch to re-estimate the batch statistics from; unlabelled images do")
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    modes = {module: module.training for module in network.modules()}
    momenta = [norm.momentum for norm in norms]
    batch_count = 0
    try:
        network.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None  # a plain average over the batches
        for images in chain((first,), stream):
            network(images)
            batch_count += 1
    finally:
        for module, mode in modes.items():
            module.training = mode
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return batch_count


def _cut(
    network: nn.Module,
    *,
    share: float,
    cost: Callable[[nn.Module], Cost],
    example: Tensor,
    options: PruneOptions,
    gradients: Gradients | None,
    original_widths: Mapping[str, int],
    plan: Plan | None = None,
) -> None:
    """Remove the fraction `share` of the total `cost`, or prune to the widths of a plan."""
    start = 0.0
    steps = 1 if plan is not None else options.steps
    for number in range(1, steps + 1):
        if options.importance == "taylor" and gradients is not None:
            compute_gradients(network, gradients)
        graph, groups = groups_of(network, example, options, original_widths=original_widths)
        names = {module: name for name, module in network.named_modules()}
        if plan is not None:
            for group in groups:
                widths = plan.sizes.get(names[group.root], {})
                remaining = widths.get("out_channels", widths.get("out_features", len(group.order)))
                group.num_pruned = max(len(group.order) - remaining, 0)
        else:
            model = CostModel([m for m in names if isinstance(m, LAYERS)], cost(network))
            lookahead = LOOKAHEAD if options.target == "latency" else 1
            if number == 1:
                start = model.total
                _reachable(groups, model, share, options)
            goal = start * (1 - share * number / steps)
            choose(groups, model, target=goal, round_to=options.rounded_to, lookahead=lookahead)
        for group in groups:
            if group.num_pruned:
                graph.get_pruning_group(group.root, group.handler, sorted(group.order[: group.num_pruned])).prune()


def _repeat(network: nn.Module, plan: Plan, cut: Callable[..., None]) -> None:
    """Prune to the widths of a plan; which channels go follows from the importance in this network.

    Raises ValueError where the plan does not fit.
    """
    plan.check(network)
    cut(network, share=0.0, cost=params_of, plan=plan)
    shapes = shapes_of(network)
    for name, shape in plan.tensors.items():
        if shapes[name] != shape:
            raise ValueError(f"prune.plan: cannot be repeated on this network: {name} came out as {shapes[name]}")


def _reachable(groups: list[ChannelGroup], model: CostModel, share: float, options: PruneOptions) -> None:
    most = 1 - model.least(groups, round_to=options.rounded_to) / model.total
    if options.target != "latency" and most < share:
        raise ValueError(
            f"prune.share = {options.share}: at most {most:.2f} of the {options.target} of this network can go with "
            f"prune.max_ratio = {options.max_ratio} and prune.round_to = {options.rounded_to}; "
            "ask for less or allow more"
        )
