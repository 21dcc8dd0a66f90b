"""From a table of layer times to a measured share of the whole network's latency.

The table says which channels are worth their time; how much of the whole it makes up is not known beforehand (what is
no layer takes time too). So a copy is pruned by the table, its whole graph is timed against the unpruned one in turns,
and the share asked of the table moves on or back until the measured one is what was wanted.

Shapes: K image channels, *space.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from deploy.pruning.cost import LAYERS, Ledger, widths_of
from deploy.pruning.dependency_groups import groups_of
from deploy.pruning.latency_table import Machine, Table, measured
from deploy.pruning.options import PruneOptions
from deploy.pruning.plan import adopt

TRIALS = 6
NEAR = 0.02  # of the latency: what a shared machine can tell apart


def reach(
    network: nn.Module, example: Tensor, options: PruneOptions, *, cut: Callable[..., None], machine: Machine | None
) -> dict[str, Any]:
    """Prune in place; what was measured, for the plan. Raises ValueError when so much latency cannot go."""
    if machine is None:
        from deploy.pruning.layer_profiler import Measured

        machine = Measured(runtime=options.runtime, precision=options.precision)
    before = machine.graph(network, example)
    table, most, part = _table(network, example, options, machine=machine, before=before)
    tries: list[dict[str, Any]] = []
    best: tuple[float, nn.Module, dict[str, Any]] | None = None
    low, high = (0.0, 0.0), (most, float("inf"))
    share = min(options.share / max(part, 0.05), most)
    for _ in range(TRIALS):
        trial = copy.deepcopy(network)
        cut(trial, share=share, cost=table.cost)
        was, now = machine.turns([before, machine.graph(trial, example)])
        gone = 1 - now / was
        tries.append({"table_share": round(share, 4), "ms": [round(was, 5), round(now, 5)], "share": round(gone, 4)})
        missed = abs(gone - options.share)
        if best is None or missed < best[0]:
            best = (missed, trial, tries[-1])
        if missed <= NEAR or (share >= most and gone < options.share):
            break
        if gone < options.share:
            low = (share, gone)
        else:
            high = (share, gone)
        share = _next(low, high, options.share)
        if high[0] - low[0] < 0.005:
            break
    assert best is not None
    most_measured = max(one["share"] for one in tries)
    if most_measured < options.share - 2 * NEAR:
        raise ValueError(
            f"prune.share = {options.share}: at most {most_measured:.2f} of the latency on "
            f"{options.runtime} ({options.precision}) can go with prune.max_ratio = {options.max_ratio} and "
            f"prune.round_to = {options.rounded_to}; ask for less or allow more"
        )
    adopt(network, best[1])
    return {**machine.described(), **best[2], "asked": options.share, "layers_part": round(part, 4), "tries": tries}


def _table(
    network: nn.Module, example: Tensor, options: PruneOptions, *, machine: Machine, before: Any
) -> tuple[Table, float, float]:
    """The table, the most that can go of what it counts, and the part of the whole latency that it counts."""
    plain = replace(options, importance="magnitude")  # here the groups matter, not which of their channels go first
    _, groups = groups_of(network, example, plain, whole=widths_of(network))
    table, total = measured(network, example, groups, round_to=options.rounded_to, machine=machine)
    ledger = Ledger([m for m in network.modules() if isinstance(m, LAYERS)], table.cost(network))
    most = 1 - ledger.least(groups, round_to=options.rounded_to) / ledger.total
    (whole,) = machine.turns([before])
    return table, most, min(total / whole, 1.0)


def _next(low: tuple[float, float], high: tuple[float, float], wanted: float) -> float:
    """Between two trials (share of the table, share measured): on their line; the first time beyond, by proportion."""
    if high[1] == float("inf"):
        return high[0] if low[1] <= 0 else min(low[0] * wanted / low[1], high[0])
    slope = (high[0] - low[0]) / max(high[1] - low[1], 1e-6)
    inside = low[0] + (wanted - low[1]) * slope
    width = high[0] - low[0]
    return min(max(inside, low[0] + 0.1 * width), high[0] - 0.1 * width)
