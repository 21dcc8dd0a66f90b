"""The two latencies of a stream, and how they develop over a long one.

Video latency: from the capture of a frame until the frame is shown. Annotation latency: from the capture of a frame
until its own mask is shown. The latest frames are stored one by one in arrays of fixed size; of the whole stream the
slowest frames are stored, too.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from deploy.measurement.drift import drift
from deploy.measurement.percentiles import summary
from deploy.stream.state.frames import STATES, DisplaySnapshot
from deploy.stream.state.overlay import count_changed_outside

_CAPACITY = 1 << 17  # frames: 72 minutes at 30 Hz
_NUM_WORST = 5
_MAX_POINTS = 240  # of a timeline; when it is full, every second point is removed and intervals are twice as long


class LatencySeries:
    """Latencies in nanoseconds by frame id."""

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._ids, self._ns = np.full(capacity, -1, np.int64), np.full(capacity, -1, np.int64)
        self._worst: list[tuple[int, int]] = []
        self.count = 0

    def add(self, frame_id: int, ns: int) -> None:
        index = self.count % len(self._ids)
        self._ids[index], self._ns[index] = frame_id, ns
        self.count += 1
        push = heapq.heappush if len(self._worst) < _NUM_WORST else heapq.heappushpop
        push(self._worst, (ns, frame_id))

    def raw(self) -> list[tuple[int, int]]:
        """(frame id, nanoseconds) of the latest frames, oldest first."""
        n, size = self.count, len(self._ids)
        order = np.arange(max(n - size, 0), n) % size
        return list(zip(self._ids[order].tolist(), self._ns[order].tolist(), strict=True))

    def since(self, count: int) -> np.ndarray:
        """int64 [n]: nanoseconds of all values after the first `count` that are still stored."""
        n, size = self.count, len(self._ns)
        values: np.ndarray = self._ns[np.arange(max(count, n - size, 0), n) % size]
        return values

    def summary(self) -> dict[str, Any] | None:
        """Percentiles in milliseconds and the slowest frames; None without any value."""
        if not self.count:
            return None
        worst = [{"frame": frame_id, "ms": round(ns / 1e6, 3)} for ns, frame_id in sorted(self._worst, reverse=True)]
        times = [ns for _, ns in self.raw()]
        third = max(len(times) // 3, 1)
        medians = {"first_third_p50_ms": _p50(times[:third]), "last_third_p50_ms": _p50(times[-third:])}
        return {**summary(times), "worst": worst, **medians}


def _p50(times_ns: list[int]) -> float:
    return round(float(np.median(times_ns)) / 1e6, 4)


class LatencyTracker:
    """Collects both latencies, the counts of states, and the result of the pixel check.

    `record` is called once for every picture that was shown.
    """

    def __init__(self, *, check_every: int = 15) -> None:
        self.video, self.annotation = LatencySeries(), LatencySeries()
        self.states = dict.fromkeys(STATES, 0)
        self.skipped = self.shows = self.redrawn = 0
        self.checked = self.outside = 0
        self._check_every = check_every
        self._frame = self._mask = -1

    def record(self, snapshot: DisplaySnapshot, picture: np.ndarray | None, *, shown_ns: int) -> None:
        """Count `picture`, uint8 [H, W, 3], which was on the screen at `shown_ns`.

        Every `check_every` pictures, its pixels are compared with those of the frame.
        """
        self.shows += 1
        self.states[snapshot.status.state] += 1
        frame, result = snapshot.frame, snapshot.result
        if frame is None or picture is None:
            return
        if frame.id != self._frame:
            self.skipped += frame.id - self._frame - 1
            self._frame = frame.id
            self.video.add(frame.id, shown_ns - frame.received_ns)
        else:
            self.redrawn += 1
        if result is not None and result.frame.id > self._mask:
            self._mask = result.frame.id
            self.annotation.add(self._mask, shown_ns - result.frame.received_ns)
        if self._check_every and self.shows % self._check_every == 0:
            self.checked += 1
            self.outside += count_changed_outside(picture, frame.pixels, snapshot.drawn_overlay())

    def summary(self) -> dict[str, Any]:
        return {
            "video": self.video.summary(),
            "annotation": self.annotation.summary(),
            "shows": self.shows,
            "redrawn": self.redrawn,
            "skipped_frames": self.skipped,
            "states": dict(self.states),
            "pictures_checked": self.checked,
            "pixels_outside_marker": self.outside,
        }


class DriftTimeline:
    """Memory and annotation latency of a long stream in equal intervals of time, a limited number of them.

    One point per interval: {at_s, frames, resident_bytes, n, p50_ms, p99_ms}.
    """

    def __init__(self, annotation: LatencySeries, *, max_points: int = _MAX_POINTS) -> None:
        self._annotation, self._max_points = annotation, max_points
        self._num_samples, self._interval, self._num_used = 0, 1, 0
        self.points: list[dict[str, Any]] = []

    def sample(self, *, at_s: float, frames: int, resident_bytes: int | None) -> None:
        """Call it at a constant rate; a fixed number of calls ends an interval."""
        self._num_samples += 1
        if self._num_samples % self._interval:
            return
        point: dict[str, Any] = {"at_s": round(at_s, 2), "frames": frames, "resident_bytes": resident_bytes}
        times = self._annotation.since(self._num_used)
        self._num_used = self._annotation.count
        point["n"] = len(times)
        for name, percent in (("p50_ms", 50), ("p99_ms", 99)):
            point[name] = round(float(np.percentile(times, percent)) / 1e6, 4) if len(times) else None
        self.points.append(point)
        if len(self.points) >= self._max_points:
            self.points, self._interval = self.points[1::2], 2 * self._interval

    def record(self) -> dict[str, Any]:
        """{timeline, drift}: all points, and the last third compared with the first.

        `drift` is None for three points or fewer.
        """
        with_masks = [point for point in self.points if point["n"]]
        return {"timeline": list(self.points), "drift": drift(with_masks) if len(with_masks) > 3 else None}
