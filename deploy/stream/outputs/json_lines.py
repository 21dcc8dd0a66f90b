"""Lines of JSON on stdout: the status of the mask without its pixels, and the end of its validity.

At most one line is unread at a time: the next, newest one is written when the reader has read the line before. A mask
is sent as fresh only if the reader read its last lines fast enough for the mask to be within the budget when it is
read. A line that is still in the pipe when its mask exceeds the budget is removed from the pipe.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from deploy.stream.outputs.pacing import SLOW, UNKNOWN, Pace, retract, unread_in_file, withhold_reason
from deploy.stream.state.frames import DisplaySnapshot, MaskStatus

if TYPE_CHECKING:
    from deploy.stream.outputs.base import OutputContext
    from deploy.stream.state.display_state import DisplayState

_WATCH_S = 0.2  # how long one call of `show` watches the unread line


class JsonLinesOutput:
    """An output sink that writes to a file, a pipe or a terminal."""

    def __init__(self, argument: str, context: OutputContext, *, to: TextIO | None = None) -> None:
        """`to` defaults to stdout. Raises ValueError for a non-empty argument."""
        if argument:
            raise ValueError(f"output lines:{argument}: takes no argument; write lines")
        self._display_state: DisplayState = context.display_state
        self._to = to or sys.stdout
        self._descriptor = _descriptor(self._to)
        self._pace = Pace()
        self._line: bytes = b""  # the latest line
        self._valid_until_ns: int | None = None  # end of the validity of that line
        self._written: tuple[Any, ...] = ()  # frame, state and reason of that line

    def show(self, snapshot: DisplaySnapshot) -> None:
        """Write a new status as soon as the last line was read, and watch the unread line for `_WATCH_S`."""
        deadline = time.monotonic() + _WATCH_S
        self._update()
        while True:
            if not self._pace.in_flight:
                self._write_if_changed()
            self._update()
            now = time.monotonic()
            if (not self._pace.in_flight and self._pace.speed_known) or now > deadline:
                return
            time.sleep(max(0.0002, min(self._pace.waited_s(now) / 4, 0.005)))

    def close(self) -> None:
        """Write the last status if the line before it is read in time."""
        deadline = time.monotonic() + _WATCH_S
        self._update()
        while self._pace.in_flight and time.monotonic() < deadline:
            time.sleep(0.002)
            self._update()
        if not self._pace.in_flight:
            self._write_if_changed()

    def _update(self) -> None:
        """Check whether the latest line was read; remove it from the pipe if its validity has ended."""
        unread = unread_in_file(self._descriptor) if self._descriptor is not None else 0
        self._pace.update(time.monotonic(), unread)
        ends_ns = self._valid_until_ns
        if self._pace.in_flight and ends_ns is not None and self._display_state.clock() >= ends_ns:
            self._valid_until_ns = None
            if self._descriptor is not None and retract(self._descriptor, self._line):
                self._pace.retracted(time.monotonic())
                self._written = ()

    def _write_if_changed(self) -> None:
        status = self._status_for_reader(self._display_state.snapshot().status)
        key = (status.frame_id, status.state, status.reason)
        if key == self._written and status.reason not in (UNKNOWN, SLOW):  # repeated to measure the reader's speed
            return
        now_ns = self._display_state.clock()
        self._written, self._valid_until_ns = key, status.valid_until_ns
        self._line = json.dumps(status.message(now_ns=now_ns)).encode() + b"\n"
        self._to.write(self._line.decode())
        self._to.flush()
        self._pace.sent(time.monotonic())

    def _status_for_reader(self, status: MaskStatus) -> MaskStatus:
        """`status`, or "stale" if the mask would exceed the budget before it is read."""
        if status.valid_until_ns is None or self._descriptor is None:
            return status
        remaining_s = (status.valid_until_ns - self._display_state.clock()) / 1e9
        budget_s = self._display_state.limits.budget_ms / 1e3
        why = withhold_reason(self._pace, "", remaining_s=remaining_s, budget_s=budget_s)
        return MaskStatus("stale", why, status.model) if why else status


def _descriptor(to: TextIO) -> int | None:
    """The file descriptor; None for an object that has none."""
    try:
        return to.fileno()
    except (OSError, ValueError):
        return None
