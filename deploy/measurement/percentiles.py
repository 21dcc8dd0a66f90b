"""What a list of times says, and how sure it is of it. Nothing is trimmed: the tail is what one sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}
_BEYOND = 10  # a percentile with fewer samples beyond it is an anecdote: p99 needs 1000 calls, p99.9 needs 10 000


def summary(times_ns: Sequence[int]) -> dict[str, Any]:
    """Milliseconds by nearest rank, `ci_ms` the 95 % order-statistic interval (None: unseen)."""
    if not times_ns:
        raise ValueError("times: none were kept; give iterations or seconds above 0")
    ordered, n = sorted(times_ns), len(times_ns)
    said: dict[str, Any] = {"n": n}
    for name, share in QUANTILES.items():
        said[f"{name}_ms"] = _ms(ordered[math.ceil(share * n) - 1])
    tenth, late = (ordered[math.ceil(share * n) - 1] for share in (0.1, 0.95))
    said |= {
        "p10_ms": _ms(tenth),
        "p95_ms": _ms(late),
        "mean_ms": _ms(sum(ordered) / n),
        "min_ms": _ms(ordered[0]),
        "max_ms": _ms(ordered[-1]),
        "jitter_ms": round(said["p99_ms"] - said["p50_ms"], 4),
        "tail_ms": _ms(ordered[-1] - late),
        "flatness_ms": round(said["p90_ms"] - _ms(tenth), 4),
        "throughput_hz": round(1e9 * n / sum(ordered), 2),
        "ci_ms": {name: _interval(ordered, share) for name, share in QUANTILES.items()},
        "anecdotal": [name for name, share in QUANTILES.items() if round(n * (1 - share), 6) < _BEYOND],
    }
    return said


def ratio(mine: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """Mine over other, round by round, so that a slow minute of the machine weighs on both alike."""
    each = sorted(a / b for a, b in zip(mine, other, strict=True))
    low, mid, high = (each[min(int(share * len(each)), len(each) - 1)] for share in (0.1, 0.5, 0.9))
    if len(each) % 2 == 0:
        mid = (each[len(each) // 2 - 1] + each[len(each) // 2]) / 2
    return {"median": round(mid, 4), "low": round(low, 4), "high": round(high, 4), "rounds": len(each)}


def median(times: Sequence[float]) -> float:
    ordered, half = sorted(times), len(times) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _interval(ordered: Sequence[int], share: float) -> list[float | None]:
    n = len(ordered)
    spread = 1.96 * math.sqrt(n * share * (1 - share))
    low, high = math.floor(n * share - spread), math.ceil(n * share + spread) + 1
    return [_ms(ordered[low - 1]) if low >= 1 else None, _ms(ordered[high - 1]) if high <= n else None]


def _ms(ns: float) -> float:
    return round(ns / 1e6, 4)
