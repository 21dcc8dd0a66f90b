"""How a long stream fares: memory, and how old masks were, in equal stretches of time. A bounded number of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from deploy.benchmark.soak import drift
from deploy.stream.state.latency import Delay

_POINTS = 240  # then every second one goes, and stretches are twice as long


class Timeline:
    """A point a stretch: {at_s, frames, resident_bytes, n, p50_ms, p99_ms}; the times are annotation delays."""

    def __init__(self, annotation: Delay, *, points: int = _POINTS) -> None:
        self._annotation, self._most = annotation, points
        self._looks, self._every, self._seen = 0, 1, 0
        self.points: list[dict[str, Any]] = []

    def look(self, *, at_s: float, frames: int, resident_bytes: int | None) -> None:
        """Called at a steady pace; every so many calls end a stretch."""
        self._looks += 1
        if self._looks % self._every:
            return
        point: dict[str, Any] = {"at_s": round(at_s, 2), "frames": frames, "resident_bytes": resident_bytes}
        times = self._annotation.since(self._seen)
        self._seen = self._annotation.count
        point["n"] = len(times)
        for name, share in (("p50_ms", 50), ("p99_ms", 99)):
            point[name] = round(float(np.percentile(times, share)) / 1e6, 4) if len(times) else None
        self.points.append(point)
        if len(self.points) >= self._most:
            self.points, self._every = self.points[1::2], 2 * self._every

    def said(self) -> dict[str, Any]:
        """The points, and the last third against the first once there are enough of them to tell."""
        told = [point for point in self.points if point["n"]]
        return {"timeline": list(self.points), "drift": drift(told) if len(told) > 3 else None}
