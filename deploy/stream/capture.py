"""The capture thread: reads the source, stamps frames, plays files at their rate, and reopens a lost source.

It writes the newest frame to the display state and to the queue of the inference thread, and waits for neither.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field

from deploy.stream.sources.base import CorruptFrameError, Source, SourceFrame, SourceLostError
from deploy.stream.sources.frame_checks import FreezeDetector, to_frame_pixels
from deploy.stream.state.display_state import DisplayState, Problem
from deploy.stream.state.frames import Frame
from deploy.stream.state.latest_queue import LatestQueue

_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.05, 1.0  # between attempts to reopen a lost source
_MAX_REASONS = 16  # reasons for rejected frames that are reported separately
_CORRUPT_PAUSE_S = 0.002  # after a corrupt frame, so that a damaged source does not take a whole core
_CLOCK_DRIFT = 500e-6  # allowed relative drift of two clocks; it makes no frame late


@dataclass
class CaptureCounters:
    """Written by the capture thread only."""

    frames: int = 0
    corrupt: int = 0
    losses: int = 0
    reopened: int = 0
    size_changes: int = 0
    late: int = 0  # frames that were older than the budget when they arrived
    rejected: dict[str, RejectedFrames] = field(default_factory=dict)  # by kind of reason


@dataclass
class RejectedFrames:
    """Frames of the source that were rejected for one kind of reason."""

    why: str  # the reason of the first one
    count: int = 0


class CaptureThread:
    """Reads until the source ends, `frames` frames were read, or `stop` is called."""

    def __init__(
        self, source: Source, display_state: DisplayState, inbox: LatestQueue[Frame], *, frozen_ms: float,
        frames: int | None = None,
    ) -> None:  # fmt: skip
        self.counters = CaptureCounters()
        self.error: BaseException | None = None
        self._source, self._display_state, self._inbox, self._limit = source, display_state, inbox, frames
        self._freeze_detector, self._source_clock = FreezeDetector(frozen_ms), SourceClock()
        self._stop = threading.Event()
        self._epoch, self._due_ns = 0, 0
        self._size: tuple[int, int] | None = None
        self._thread = threading.Thread(target=self._run, name="edgemt-capture", daemon=True)

    def start(self) -> None:
        """Open the source and start the thread. Raises ValueError if the source cannot be opened."""
        self._source.open()
        self._thread.start()

    def stop(self, timeout_s: float = 3.0) -> None:
        """End the thread; wait for it up to `timeout_s`."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._stop.is_set() and (self._limit is None or self.counters.frames < self._limit):
                try:
                    source_frame = self._source.read()
                    if source_frame is None:
                        return
                    self._publish(source_frame)
                except CorruptFrameError as error:
                    self._reject(str(error))
                    self._stop.wait(_CORRUPT_PAUSE_S)
                except SourceLostError as error:
                    self._reopen(str(error))
        except BaseException as error:
            self.error = error
        finally:
            self._source.close()
            self._display_state.close()

    def _reject(self, reason: str) -> None:
        """Count a rejected frame. Reasons that differ only in numbers and paths are of the same kind."""
        counters, kind = self.counters, re.sub(r"\S*/\S*|\d+", "", reason)
        counters.corrupt += 1
        if kind not in counters.rejected and len(counters.rejected) >= _MAX_REASONS:
            kind = next(reversed(counters.rejected))
        counters.rejected.setdefault(kind, RejectedFrames(reason)).count += 1
        self._display_state.frame_rejected(reason)

    def _publish(self, source_frame: SourceFrame) -> None:
        pixels = to_frame_pixels(source_frame.pixels)
        self._wait_until_due()
        if self._stop.is_set():
            return
        if self._size is not None and pixels.shape[:2] != self._size:
            self._epoch += 1
            self.counters.size_changes += 1
        self._size = (pixels.shape[0], pixels.shape[1])
        now = self._display_state.clock()
        late_ns = self._late_ns(source_frame.source_ns, now)
        frame = Frame(
            id=self.counters.frames, pixels=pixels, captured_ns=now - late_ns, source_ns=source_frame.source_ns,
            epoch=self._epoch, late_ns=late_ns, origin=source_frame.origin,
        )  # fmt: skip
        self.counters.frames += 1
        problem = self._freeze_detector.check(pixels, now) or self._lateness_problem(late_ns)
        self._display_state.put_frame(frame, problem)
        if problem is None:
            self._inbox.put(frame)

    def _late_ns(self, source_ns: int | None, now: int) -> int:
        """Delay by the source's clock; 0 for a file, whose times do not advance by themselves."""
        return self._source_clock.delay_ns(source_ns, received_ns=now) if self._source.live else 0

    def _lateness_problem(self, late_ns: int) -> Problem | None:
        if late_ns <= self._display_state.limits.budget_ms * 1e6:
            return None
        self.counters.late += 1
        return "stale", f"frames come {late_ns / 1e9:.1f} s late by the source's own clock"

    def _wait_until_due(self) -> None:
        """Wait until the next frame of a file is due at its rate. After a delay, the schedule restarts from now."""
        if self._source.live or not self._source.hz:
            return
        period, now = int(1e9 / self._source.hz), self._display_state.clock()
        if now < self._due_ns:
            self._stop.wait((self._due_ns - now) / 1e9)
        self._due_ns = self._due_ns + period if now - self._due_ns < period else now + period

    def _reopen(self, reason: str) -> None:
        """Close and open the source, with growing pauses, until it can be opened or the thread is stopped."""
        self.counters.losses += 1
        self._epoch += 1
        self._source_clock = SourceClock()
        self._inbox.clear()
        self._display_state.source_lost(f"source lost: {reason}")
        pause = _FIRST_PAUSE_S
        while not self._stop.is_set():
            self._source.close()
            self._stop.wait(pause)
            pause = min(2 * pause, _MAX_PAUSE_S)
            try:
                self._source.open()
            except (ValueError, SourceLostError):
                continue
            self.counters.reopened += 1
            return


class SourceClock:
    """Measures how late frames arrive, by the source's own clock.

    The offset between the two clocks is unknown, so no age can be computed. But a frame that took longer than the
    fastest one, from its source time to its receipt, was delayed by the difference: in a driver, in a network, or in a
    slow decoder. One object per opened source; frames must be given in order.
    """

    def __init__(self) -> None:
        self._source_ns: int | None = None
        self._received_ns = 0
        self._min_transfer_ns = 0.0  # smallest difference between receipt and source time; includes the clock offset

    def delay_ns(self, source_ns: int | None, *, received_ns: int) -> int:
        """Additional delay of a frame in nanoseconds, 0 for the fastest frame.

        It is also 0 without a source time, and whenever the source clock does not advance; then the measurement starts
        again.
        """
        last_source_ns, elapsed_ns = self._source_ns, received_ns - self._received_ns
        self._source_ns, self._received_ns = source_ns, received_ns
        if source_ns is None:
            return 0
        transfer_ns = received_ns - source_ns
        if last_source_ns is None or source_ns <= last_source_ns:
            self._min_transfer_ns = transfer_ns
        else:
            self._min_transfer_ns = min(transfer_ns, self._min_transfer_ns + elapsed_ns * _CLOCK_DRIFT)
        return int(transfer_ns - self._min_transfer_ns)
