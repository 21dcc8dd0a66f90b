"""The two delays, measured apart. Video: from a frame's capture to the frame shown. Annotation: from a frame's capture
to its own mask shown. The last frames are kept one by one, in arrays that do not grow; the worst of all are remembered.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from deploy.measurement.percentiles import summary
from deploy.stream.state.frames import STATES, Shown
from deploy.stream.state.overlay import differing_outside

_KEPT = 1 << 17  # frames: 72 minutes at 30 Hz
_WORST = 5


class Delay:
    """Nanoseconds by frame id."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._ids, self._ns = np.full(kept, -1, np.int64), np.full(kept, -1, np.int64)
        self._worst: list[tuple[int, int]] = []
        self.count = 0

    def add(self, frame_id: int, ns: int) -> None:
        at = self.count % len(self._ids)
        self._ids[at], self._ns[at] = frame_id, ns
        self.count += 1
        push = heapq.heappush if len(self._worst) < _WORST else heapq.heappushpop
        push(self._worst, (ns, frame_id))

    def raw(self) -> list[tuple[int, int]]:
        """(frame id, nanoseconds) of the last frames, oldest first."""
        n, size = self.count, len(self._ids)
        order = np.arange(max(n - size, 0), n) % size
        return list(zip(self._ids[order].tolist(), self._ns[order].tolist(), strict=True))

    def since(self, count: int) -> np.ndarray:
        """Nanoseconds of those added after the first `count`, as far as they are kept."""
        n, size = self.count, len(self._ns)
        taken: np.ndarray = self._ns[np.arange(max(count, n - size, 0), n) % size]
        return taken

    def summary(self) -> dict[str, Any] | None:
        """Percentiles in milliseconds and the worst frames; None when there was nothing."""
        if not self.count:
            return None
        worst = [{"frame": frame_id, "ms": round(ns / 1e6, 3)} for ns, frame_id in sorted(self._worst, reverse=True)]
        times = [ns for _, ns in self.raw()]
        third = max(len(times) // 3, 1)
        grew = {"first_third_p50_ms": _p50(times[:third]), "last_third_p50_ms": _p50(times[-third:])}
        return {**summary(times), "worst": worst, **grew}


def _p50(times_ns: list[int]) -> float:
    return round(float(np.median(times_ns)) / 1e6, 4)


class Delays:
    """Told of every picture that was shown, when it was."""

    def __init__(self, *, check_every: int = 15) -> None:
        self.video, self.annotation = Delay(), Delay()
        self.states = dict.fromkeys(STATES, 0)
        self.skipped = self.shows = self.redrawn = 0
        self.checked = self.outside = 0
        self._check_every = check_every
        self._frame = self._mask = -1

    def note(self, shown: Shown, picture: np.ndarray | None, *, shown_ns: int) -> None:
        """`picture` was on the screen at `shown_ns`; every so many are compared with their source, pixel by pixel."""
        self.shows += 1
        self.states[shown.record.state] += 1
        frame, result = shown.frame, shown.result
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
            self.outside += differing_outside(picture, frame.pixels, shown.marker)

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
