"""Percentiles of call times with confidence intervals. No outlier is removed: the tail is what a user notices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}
_BEYOND = 10  # with fewer samples beyond it a percentile is anecdotal: p99 needs 1000 calls, p99.9 needs 10 000


def summary(times_ns: Sequence[int]) -> dict[str, Any]:
    """Percentiles of times in ns, as milliseconds by nearest rank; `ci_ms` is the 95 % order-statistic interval.

    An end of an interval that lies beyond the samples is None. Raises ValueError without times.
    """
    if not times_ns:
        raise ValueError("times: none were measured; give iterations or seconds above 0")
    ordered, n = sorted(times_ns), len(times_ns)
    result: dict[str, Any] = {"n": n}
    for name, fraction in QUANTILES.items():
        result[f"{name}_ms"] = _ms(ordered[math.ceil(fraction * n) - 1])
    tenth, late = (ordered[math.ceil(fraction * n) - 1] for fraction in (0.1, 0.95))
    result |= {
        "p10_ms": _ms(tenth),
        "p95_ms": _ms(late),
        "mean_ms": _ms(sum(ordered) / n),
        "min_ms": _ms(ordered[0]),
        "max_ms": _ms(ordered[-1]),
        "jitter_ms": round(result["p99_ms"] - result["p50_ms"], 4),
        "tail_ms": _ms(ordered[-1] - late),
        "flatness_ms": round(result["p90_ms"] - _ms(tenth), 4),
        "throughput_hz": round(1e9 * n / sum(ordered), 2),
        "ci_ms": {name: _interval(ordered, fraction) for name, fraction in QUANTILES.items()},
        "anecdotal": [name for name, fraction in QUANTILES.items() if round(n * (1 - fraction), 6) < _BEYOND],
    }
    return result


def ratio(mine: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """Quotients of two times, round by round, so that slow moments of the machine affect both: median, 10 %, 90 %."""
    each = sorted(a / b for a, b in zip(mine, other, strict=True))
    low, mid, high = (each[min(int(fraction * len(each)), len(each) - 1)] for fraction in (0.1, 0.5, 0.9))
    if len(each) % 2 == 0:
        mid = (each[len(each) // 2 - 1] + each[len(each) // 2]) / 2
    return {"median": round(mid, 4), "low": round(low, 4), "high": round(high, 4), "rounds": len(each)}


def median(times: Sequence[float]) -> float:
    """The median; of an even number of times the mean of the middle two."""
    ordered, half = sorted(times), len(times) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _interval(ordered: Sequence[int], fraction: float) -> list[float | None]:
    n = len(ordered)
    spread = 1.96 * math.sqrt(n * fraction * (1 - fraction))
    low, high = math.floor(n * fraction - spread), math.ceil(n * fraction + spread) + 1
    return [_ms(ordered[low - 1]) if low >= 1 else None, _ms(ordered[high - 1]) if high <= n else None]


def _ms(ns: float) -> float:
    return round(ns / 1e6, 4)
