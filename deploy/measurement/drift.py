"""Drift over a long run: the last third of a time line of measurements relative to the first third."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def drift(timeline: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Compare the medians of the last third of a time line with those of the first third.

    Ratios of `p50_ms`, `p99_ms` and `cpu_mhz`, differences of `resident_bytes` and `gpu_bytes`; None for a key that no
    point has. The first interval, which fills caches, is excluded if there are more than three.
    """
    points = timeline[1:] if len(timeline) > 3 else timeline
    third = max(len(points) // 3, 1)
    first, last = points[:third], points[-third:]
    return {
        "p50_ratio": _ratio(first, last, "p50_ms"),
        "p99_ratio": _ratio(first, last, "p99_ms"),
        "clock_ratio": _ratio(first, last, "cpu_mhz"),
        "resident_bytes": _difference(first, last, "resident_bytes"),
        "gpu_bytes": _difference(first, last, "gpu_bytes"),
    }


def _ratio(first: Sequence[dict[str, Any]], last: Sequence[dict[str, Any]], key: str) -> float | None:
    before, after = _median(first, key), _median(last, key)
    return None if before is None or after is None or not before else round(after / before, 4)


def _difference(first: Sequence[dict[str, Any]], last: Sequence[dict[str, Any]], key: str) -> float | None:
    before, after = _median(first, key), _median(last, key)
    return None if before is None or after is None else after - before


def _median(points: Sequence[dict[str, Any]], key: str) -> float | None:
    present = [point[key] for point in points if point.get(key) is not None]
    return float(np.median(present)) if present else None
