"""Lines of JSON on stdout: frame id, age, state, until when it holds, and the rest of the record; no pixels.

A reader has one line under way. The next is written when its program has read the one before, and then it is the
newest. A mask is called fresh only to a reader that took its last lines quickly enough for the mask to be within the
budget when it is read; a line that lies in a pipe when its mask grows too old is taken back out of the pipe.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from deploy.stream.outputs.pacing import SLOW, UNKNOWN, Pace, take_back, unread_in_file, withheld
from deploy.stream.state.frames import MaskRecord, Shown

if TYPE_CHECKING:
    from deploy.stream.outputs import Stage
    from deploy.stream.state.display_state import Board

_WATCH_S = 0.2  # at a time; the next look at the board goes on with it


class Lines:
    def __init__(self, argument: str, stage: Stage, *, to: TextIO | None = None) -> None:
        """`to` is stdout where not given. Raises ValueError for an argument."""
        if argument:
            raise ValueError(f"output lines:{argument}: takes no argument; write lines")
        self._board: Board = stage.board
        self._to = to or sys.stdout
        self._descriptor = _descriptor(self._to)
        self._pace = Pace()
        self._line: bytes = b""  # under way
        self._ends_ns: int | None = None  # when what that line states stops being true
        self._written: tuple[Any, ...] = ()

    def show(self, shown: Shown) -> None:
        """Write what is new as soon as the line before was read, and watch the line under way for a while."""
        until = time.monotonic() + _WATCH_S
        self._update()
        while True:
            if not self._pace.under_way:
                self._write_news()
            self._update()
            now = time.monotonic()
            if (not self._pace.under_way and self._pace.known) or now > until:
                return
            time.sleep(max(0.0002, min(self._pace.waited_s(now) / 4, 0.005)))

    def close(self) -> None:
        """Write what is still new, if the line before is read in time."""
        until = time.monotonic() + _WATCH_S
        self._update()
        while self._pace.under_way and time.monotonic() < until:
            time.sleep(0.002)
            self._update()
        if not self._pace.under_way:
            self._write_news()

    def _update(self) -> None:
        """Whether the line under way was read; one whose state is no longer true is taken back if that can be done."""
        unread = unread_in_file(self._descriptor) if self._descriptor is not None else 0
        self._pace.update(time.monotonic(), unread)
        if self._pace.under_way and self._ends_ns is not None and self._board.clock() >= self._ends_ns:
            self._ends_ns = None
            if self._descriptor is not None and take_back(self._descriptor, self._line):
                self._pace.taken_back(time.monotonic())
                self._written = ()

    def _write_news(self) -> None:
        record = self._view(self._board.look().record)
        key = (record.frame_id, record.state, record.reason)
        if key == self._written and record.reason not in (UNKNOWN, SLOW):  # these find out how quick the reader is
            return
        now_ns = self._board.clock()
        self._written, self._ends_ns = key, record.valid_until_ns
        self._line = json.dumps(record.message(now_ns=now_ns)).encode() + b"\n"
        self._to.write(self._line.decode())
        self._to.flush()
        self._pace.sent(time.monotonic())

    def _view(self, record: MaskRecord) -> MaskRecord:
        """`record` as this reader may have it: stale where the mask grows too old before it is read."""
        if record.valid_until_ns is None or self._descriptor is None:
            return record
        left_s = (record.valid_until_ns - self._board.clock()) / 1e9
        why = withheld(self._pace, "", left_s=left_s, budget_s=self._board.limits.budget_ms / 1e3)
        return MaskRecord("stale", why, record.model) if why else record


def _descriptor(to: TextIO) -> int | None:
    """None for what is no file of the system."""
    try:
        return to.fileno()
    except (OSError, ValueError):
        return None
