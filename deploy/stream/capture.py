"""The thread that reads the source: stamps frames, holds a file to its pace, opens again what was lost.

It puts the newest frame on the board and into the mailbox of inference, and waits for neither.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field

from deploy.stream.source_clock import Lateness
from deploy.stream.sources import Lost, Picture, Source
from deploy.stream.sources.frame_checks import Corrupt, Freeze, as_picture
from deploy.stream.state.display_state import Board, Problem
from deploy.stream.state.frames import Frame
from deploy.stream.state.latest_queue import Mailbox

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0  # between tries to open a lost source again
_MOST_KINDS = 16  # of refusals that are told
_AFTER_DAMAGE_S = 0.002  # so that a source of nothing but damage does not take a whole core


@dataclass
class Captured:
    """Counters, written by the capture thread alone."""

    frames: int = 0
    corrupt: int = 0
    losses: int = 0
    reopened: int = 0
    size_changes: int = 0
    late: int = 0  # frames that were over the budget when they came
    kinds: dict[str, Refused] = field(default_factory=dict)  # of pictures that were refused


@dataclass
class Refused:
    """Pictures of a source that could not be used, for one reason."""

    why: str  # of the first
    count: int = 0


class Capture:
    """Reads until the source ends, `frames` were read, or it is told to stop."""

    def __init__(
        self, source: Source, board: Board, inbox: Mailbox[Frame], *, frozen_ms: float, frames: int | None = None
    ) -> None:
        self.counted = Captured()
        self.error: BaseException | None = None
        self._source, self._board, self._inbox, self._limit = source, board, inbox, frames
        self._freeze, self._lateness = Freeze(frozen_ms), Lateness()
        self._stop = threading.Event()
        self._epoch, self._due_ns = 0, 0
        self._size: tuple[int, int] | None = None
        self._thread = threading.Thread(target=self._run, name="edgemt-capture", daemon=True)

    def start(self) -> None:
        """Raises ValueError when the source cannot be opened at all."""
        self._source.open()
        self._thread.start()

    def stop(self, timeout_s: float = 3.0) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._stop.is_set() and (self._limit is None or self.counted.frames < self._limit):
                try:
                    picture = self._source.read()
                    if picture is None:
                        return
                    self._accept(picture)
                except Corrupt as damage:
                    self._refuse(str(damage))
                    self._stop.wait(_AFTER_DAMAGE_S)
                except Lost as why:
                    self._again(str(why))
        except BaseException as error:
            self.error = error
        finally:
            self._source.close()
            self._board.close()

    def _refuse(self, why: str) -> None:
        """Counted by kind: numbers and paths apart, a reason is the same."""
        counted, kind = self.counted, re.sub(r"\S*/\S*|\d+", "", why)
        counted.corrupt += 1
        if kind not in counted.kinds and len(counted.kinds) >= _MOST_KINDS:
            kind = next(reversed(counted.kinds))
        counted.kinds.setdefault(kind, Refused(why)).count += 1
        self._board.refuse(why)

    def _accept(self, picture: Picture) -> None:
        pixels = as_picture(picture.pixels)
        self._pace()
        if self._stop.is_set():
            return
        if self._size is not None and pixels.shape[:2] != self._size:
            self._epoch += 1
            self.counted.size_changes += 1
        self._size = (pixels.shape[0], pixels.shape[1])
        now = self._board.clock()
        late_ns = self._late_ns(picture.source_ns, now)
        frame = Frame(
            self.counted.frames, pixels, now - late_ns, picture.source_ns, self._epoch, late_ns, picture.origin
        )
        self.counted.frames += 1
        problem = self._freeze.check(pixels, now) or self._too_late(late_ns)
        self._board.put_frame(frame, problem)
        if problem is None:
            self._inbox.put(frame)

    def _late_ns(self, source_ns: int | None, now: int) -> int:
        """Only a live source has a clock that runs by itself; a file's times pass as quickly as we play it."""
        return self._lateness.of(source_ns, received_ns=now) if self._source.live else 0

    def _too_late(self, late_ns: int) -> Problem | None:
        if late_ns <= self._board.limits.budget_ms * 1e6:
            return None
        self.counted.late += 1
        return "stale", f"frames come {late_ns / 1e9:.1f} s late by the source's own clock"

    def _pace(self) -> None:
        """A file's frame is handed over when it is due, as a camera would. Who is late goes on from there."""
        if self._source.live or not self._source.hz:
            return
        period, now = int(1e9 / self._source.hz), self._board.clock()
        if now < self._due_ns:
            self._stop.wait((self._due_ns - now) / 1e9)
        self._due_ns = self._due_ns + period if now - self._due_ns < period else now + period

    def _again(self, why: str) -> None:
        """Close, wait a little longer each time, open; until it is there."""
        self.counted.losses += 1
        self._epoch += 1
        self._lateness = Lateness()
        self._inbox.clear()
        self._board.lost(f"source lost: {why}")
        pause = _FIRST_PAUSE_S
        while not self._stop.is_set():
            self._source.close()
            self._stop.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            try:
                self._source.open()
            except (ValueError, Lost):
                continue
            self.counted.reopened += 1
            return
