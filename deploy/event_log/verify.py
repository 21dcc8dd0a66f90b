"""Check the chain of an event log, line by line, in one pass with little memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from deploy.event_log.log_file import FIRST, MAX_LINE, RECOVERED, line_hash

CLOCK_STEP_S = 2.0  # a smaller difference between wall clock and monotonic clock is normal adjustment
_MAX_WARNINGS = 50
_ALONE = {"installed", "went-back", "install-refused"}  # edgemt install: a session of one event, which has no "end"


@dataclass
class LogCheck:
    """What a log holds. `error` is the first break of the chain, empty where there is none."""

    events: int = 0
    sessions: int = 0
    head: str = FIRST  # hash of the last event
    first_time: str = ""
    last_time: str = ""
    devices: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)  # events by name
    unfinished: int = 0  # sessions without an "end": killed, or the power was cut
    warnings: list[str] = field(default_factory=list)
    error: str = ""


class _Sessions:
    """Order of sessions, and of the two clocks within each."""

    def __init__(self, check: LogCheck) -> None:
        self._check = check
        self._session, self._ended = "", True
        self._last_wall: datetime | None = None
        self._last_at_s = 0.0

    def add(self, row: dict[str, Any], line: int) -> None:
        wall = datetime.fromisoformat(str(row["time"]).replace("Z", "+00:00"))
        at_s = float(row["at_s"])
        if row["session"] != self._session:
            self.close(line)
            self._check.sessions += 1
            self._session, self._ended = row["session"], row["event"] in _ALONE
            if self._last_wall is not None and (wall - self._last_wall).total_seconds() < -CLOCK_STEP_S:
                back_s = (self._last_wall - wall).total_seconds()
                _warn(
                    self._check,
                    line,
                    f"the session begins {back_s:.0f} s before the line above: clock set back",
                )
        elif self._last_wall is not None:
            step_s = (wall - self._last_wall).total_seconds() - (at_s - self._last_at_s)
            if at_s < self._last_at_s:
                _warn(
                    self._check,
                    line,
                    "the monotonic clock runs backwards within a session: another wrote it",
                )
            elif abs(step_s) > CLOCK_STEP_S:
                _warn(self._check, line, f"the wall clock was set by {step_s:+.0f} s")
        self._last_wall, self._last_at_s = wall, at_s
        self._ended = self._ended or row["event"] == "end"

    def close(self, line: int) -> None:
        if not self._ended:
            self._check.unfinished += 1
            _warn(self._check, line, f"session {self._session} has no end: it was killed, or the power was cut")


def _warn(check: LogCheck, line: int, text: str) -> None:
    if len(check.warnings) < _MAX_WARNINGS:
        check.warnings.append(f"line {line}: {text}")


def verify_log(path: str | Path, *, head: str = "") -> LogCheck:
    """Read the whole log. `head` is a hash that `edgemt stream` printed: it must be that of one of the events.

    Raises ValueError for a file that cannot be read, and for a `head` that is no SHA-256.
    """
    if head and (len(head) < 12 or any(c not in "0123456789abcdef" for c in head.lower())):
        raise ValueError(f"head {head}: give at least 12 hexadecimal digits of the hash that edgemt stream printed")
    check, seen = LogCheck(), not head
    sessions = _Sessions(check)
    torn = hashlib.sha256()
    torn_bytes = torn_line = number = 0
    try:
        with open(path, "rb") as file:
            for number, raw in _lines(file):
                row = _event(raw)
                expected = row is not None and row["n"] == check.events and row["previous"] == check.head
                if not expected:
                    if row is not None and not torn_bytes:
                        check.error = f"line {number}: {_break(row, check)}"
                        return check
                    torn.update(raw)
                    torn_line = torn_line or number
                    torn_bytes += len(raw)
                    continue
                assert row is not None
                if torn_bytes and not (
                    row["event"] == RECOVERED
                    and row.get("torn_bytes") == torn_bytes
                    and row.get("torn") == torn.hexdigest()
                ):
                    break
                torn, torn_bytes, torn_line = hashlib.sha256(), 0, 0
                _count(check, row, number)
                sessions.add(row, number)
                check.events += 1
                check.head = line_hash(raw.rstrip(b"\n"))
                seen = seen or check.head.startswith(head.lower())
    except OSError as error:
        raise ValueError(
            f"log {path}: cannot be read ({error.strerror}); name the file of edgemt stream --log"
        ) from None
    if torn_bytes:
        _judge_torn_end(check, torn_line, last=number, torn_bytes=torn_bytes)
    if check.error:
        return check
    sessions.close(number)
    if not seen:
        check.error = f"no event has the hash {head}: the log was cut or written anew, or the hash is of another log"
    elif not check.events:
        check.error = "holds no event"
    return check


def _judge_torn_end(check: LogCheck, line: int, *, last: int, torn_bytes: int) -> None:
    """Torn bytes at the very end, shorter than an event, are what a power cut leaves; all else is a change."""
    if line == last and torn_bytes <= MAX_LINE:
        _warn(check, line, f"the last line is cut short ({torn_bytes} bytes): the power was cut, or the disk was full")
    else:
        check.error = f"line {line}: is no event, and no recovered event follows: the log was changed there"


def _lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    number = 0
    while raw := file.readline(MAX_LINE + 2):
        number += 1
        yield number, raw


def _event(raw: bytes) -> dict[str, Any] | None:
    """The event of a line; None for a line that is none."""
    try:
        row = json.loads(raw)
        known = isinstance(row, dict) and isinstance(row["n"], int) and isinstance(row["event"], str)
        if not known or not isinstance(row["session"], str) or not isinstance(row["previous"], str):
            return None
        if datetime.fromisoformat(str(row["time"]).replace("Z", "+00:00")).tzinfo is None:
            return None
        float(row["at_s"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return row


def _break(row: dict[str, Any], check: LogCheck) -> str:
    if row["n"] != check.events:
        return f"event {row['n']} where event {check.events} belongs: lines were removed, inserted or exchanged"
    return f"does not follow from the line before: event {row['n'] - 1} was changed" if row["n"] else "is no beginning"


def _count(check: LogCheck, row: dict[str, Any], line: int) -> None:
    check.counts[row["event"]] = check.counts.get(row["event"], 0) + 1
    check.first_time = check.first_time or row["time"]
    check.last_time = row["time"]
    for values, name in ((check.devices, "device"), (check.models, "model")):
        value = row.get(name)
        if isinstance(value, str) and value and value not in values:
            values.append(value)
            if name == "device" and len(values) == 2:
                _warn(check, line, "a second device wrote to this log; keep one log for each device")
