"""Pruning to a fraction of the measured latency of the whole network, with a table of layer times.

The table gives the time of every layer, but operators that are no layer take time too, so its fraction of the whole
latency is unknown. Therefore a copy is pruned by the table, its whole graph is timed alternately with the unpruned one,
and the fraction requested of the table is adapted (secant method) until the measured fraction is the wanted one.

Shapes: K image channels, *space.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from deploy.pruning.cost import LAYERS, CostModel, widths_of
from deploy.pruning.dependency_groups import groups_of
from deploy.pruning.latency_table import LatencyBackend, LatencyTable, measure_table
from deploy.pruning.options import PruneOptions
from deploy.pruning.plan import copy_from

TRIALS = 6
NEAR = 0.02  # of the latency: the smallest difference that a shared machine can resolve


def search(
    network: nn.Module,
    example: Tensor,
    options: PruneOptions,
    *,
    cut: Callable[..., None],
    backend: LatencyBackend | None,
) -> dict[str, Any]:
    """Prune in place until `options.share` of the measured latency is removed; returns the measurements, for the plan.

    Raises ValueError where the network cannot lose that much.
    """
    if backend is None:
        from deploy.pruning.layer_profiler import RuntimeLatencyBackend

        backend = RuntimeLatencyBackend(runtime=options.runtime, precision=options.precision)
    before = backend.graph(network, example)
    table, max_share, fraction_in_table = _table(network, example, options, backend=backend, before=before)
    tries: list[dict[str, Any]] = []
    best: tuple[float, nn.Module, dict[str, Any]] | None = None
    low, high = (0.0, 0.0), (max_share, float("inf"))
    share = min(options.share / max(fraction_in_table, 0.05), max_share)
    for _ in range(TRIALS):
        trial = copy.deepcopy(network)
        cut(trial, share=share, cost=table.cost)
        was, now = backend.time_interleaved([before, backend.graph(trial, example)])
        gone = 1 - now / was
        tries.append({"table_share": round(share, 4), "ms": [round(was, 5), round(now, 5)], "share": round(gone, 4)})
        missed = abs(gone - options.share)
        if best is None or missed < best[0]:
            best = (missed, trial, tries[-1])
        if missed <= NEAR or (share >= max_share and gone < options.share):
            break
        if gone < options.share:
            low = (share, gone)
        else:
            high = (share, gone)
        share = _secant_step(low, high, options.share)
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
    copy_from(network, best[1])
    return {
        **backend.describe(),
        **best[2],
        "asked": options.share,
        "layers_part": round(fraction_in_table, 4),
        "tries": tries,
    }


def _table(
    network: nn.Module, example: Tensor, options: PruneOptions, *, backend: LatencyBackend, before: Any
) -> tuple[LatencyTable, float, float]:
    """(table, largest fraction of its time that can be removed, fraction of the whole latency that it covers)."""
    by_magnitude = replace(
        options, importance="magnitude"
    )  # only the groups matter here, not the order of their channels
    _, groups = groups_of(network, example, by_magnitude, original_widths=widths_of(network))
    table, total = measure_table(network, example, groups, round_to=options.rounded_to, backend=backend)
    model = CostModel([m for m in network.modules() if isinstance(m, LAYERS)], table.cost(network))
    max_share = 1 - model.least(groups, round_to=options.rounded_to) / model.total
    (whole_ms,) = backend.time_interleaved([before])
    return table, max_share, min(total / whole_ms, 1.0)


def _secant_step(low: tuple[float, float], high: tuple[float, float], wanted: float) -> float:
    """Next fraction of the table, by linear interpolation between two trials (fraction of the table, measured).

    While no trial removed too much, it is extrapolated in proportion.
    """
    if high[1] == float("inf"):
        return high[0] if low[1] <= 0 else min(low[0] * wanted / low[1], high[0])
    slope = (high[0] - low[0]) / max(high[1] - low[1], 1e-6)
    inside = low[0] + (wanted - low[1]) * slope
    width = high[0] - low[0]
    return min(max(inside, low[0] + 0.1 * width), high[0] - 0.1 * width)
