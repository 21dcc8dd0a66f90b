"""Structured pruning: whole channels go, the least missed for what they free.

torch-pruning knows which layers must shrink together; what goes is decided here. A round asks for the loss's
gradients afresh, ranks every block of channels of every group by importance per unit of the target saved (multiply-
accumulates, parameters, or milliseconds of a table measured on the runtime), and removes the least until its share is
reached. Nothing is kept between two calls.

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
    AHEAD,
    LAYERS,
    Cost,
    Group,
    Ledger,
    choose,
    count,
    macs_of,
    params_of,
    widths_of,
)
from deploy.pruning.dependency_groups import Gradients, fresh_gradients, groups_of
from deploy.pruning.latency_table import Machine
from deploy.pruning.options import PruneOptions
from deploy.pruning.plan import Plan, read_plan, restored, shapes_of, sizes_of


def prune(
    network: nn.Module,
    *,
    example: Tensor,
    options: PruneOptions,
    gradients: Gradients | None = None,
    machine: Machine | None = None,
    whole: Mapping[str, int] | None = None,
) -> Plan:
    """Prune `network` in place until `options.share` of its macs, parameters or latency is gone.

    example: [1, K, *space], the size that all is counted at. gradients(network) runs backward on real batches,
    labelled or not, with the network in evaluation mode; "taylor" requires it. `machine` is what latency is measured
    on, this machine's `options.runtime` unless given. `whole` (see `widths_of`) are the layers' channels before any
    pruning, where this is not the first. Outputs and the input keep their channels. Batch statistics are stale
    afterwards: see `recalibrate`. Raises ValueError when the target cannot be reached (before anything is cut), or the
    network cannot be traced.
    """
    if options.importance == "taylor" and gradients is None:
        raise ValueError("prune.importance = 'taylor' needs gradients; give them, or choose 'magnitude'")
    if not options.wanted:
        warnings.warn("prune.share = 0: nothing is pruned", stacklevel=2)
    before, shapes, sizes = count(network, example), shapes_of(network), sizes_of(network)
    again = read_plan(Path(options.plan)) if options.plan else None
    measured: dict[str, object] = {}
    with restored(network):
        cut = partial(_cut, example=example, options=options, gradients=gradients, whole=whole or widths_of(network))
        if again is not None:
            _repeat(network, again, cut)
        elif options.wanted and options.target == "latency":
            measured = latency_search.reach(network, example, options, cut=cut, machine=machine)
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


def _cut(
    network: nn.Module,
    *,
    share: float,
    cost: Callable[[nn.Module], Cost],
    example: Tensor,
    options: PruneOptions,
    gradients: Gradients | None,
    whole: Mapping[str, int],
    plan: Plan | None = None,
) -> None:
    """Prune to `share` of what `cost` counts, or to the widths of a plan."""
    start = 0.0
    steps = 1 if plan is not None else options.steps
    for number in range(1, steps + 1):
        if options.importance == "taylor" and gradients is not None:
            fresh_gradients(network, gradients)
        graph, groups = groups_of(network, example, options, whole=whole)
        names = {module: name for name, module in network.named_modules()}
        if plan is not None:
            for group in groups:
                said = plan.sizes.get(names[group.root], {})
                left = said.get("out_channels", said.get("out_features", len(group.order)))
                group.gone = max(len(group.order) - left, 0)
        else:
            ledger = Ledger([m for m in names if isinstance(m, LAYERS)], cost(network))
            ahead = AHEAD if options.target == "latency" else 1
            if number == 1:
                start = ledger.total
                _reachable(groups, ledger, share, options)
            goal = start * (1 - share * number / steps)
            choose(groups, ledger, target=goal, round_to=options.rounded_to, ahead=ahead)
        for group in groups:
            if group.gone:
                graph.get_pruning_group(group.root, group.handler, sorted(group.order[: group.gone])).prune()


def _repeat(network: nn.Module, plan: Plan, cut: Callable[..., None]) -> None:
    """The widths of a plan, the channels by this network's own importance. Raises ValueError where it does not fit."""
    plan.check(network)
    cut(network, share=0.0, cost=params_of, plan=plan)
    shapes = shapes_of(network)
    for name, shape in plan.tensors.items():
        if shapes[name] != shape:
            raise ValueError(f"prune.plan: cannot be repeated on this network: {name} came out as {shapes[name]}")


def _reachable(groups: list[Group], ledger: Ledger, share: float, options: PruneOptions) -> None:
    most = 1 - ledger.least(groups, round_to=options.rounded_to) / ledger.total
    if options.target != "latency" and most < share:
        raise ValueError(
            f"prune.share = {options.share}: at most {most:.2f} of the {options.target} of this network can go with "
            f"prune.max_ratio = {options.max_ratio} and prune.round_to = {options.rounded_to}; "
            "ask for less or allow more"
        )
