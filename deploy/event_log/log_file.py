"""An append-only file of JSON lines; each line has the SHA-256 of the line before it.

A line: {"n": 12, "time": "2026-11-28T20:36:24.123Z", "at_s": 3.214, "session": "9f3c...", "event": "state", ...,
"previous": "<sha256 of the bytes of the line before, without its line feed>"}. `at_s` is on the monotonic clock since
the session began, so a wall clock that is set does not hide how much time passed.

A change, removal or insertion of a line breaks the chain behind it. A program that can write the file can also compute
a whole new chain: the hash of the last line, noted elsewhere (`edgemt stream` prints it), is what detects that.

Bytes of a line that a power cut or a full disk cut short stay in the file. The next line is a "recovered" event with
their number and their SHA-256 (`torn_bytes`, `torn`), so that `edgemt log verify` tells them from a change.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FIRST = "0" * 64  # `previous` of the first line
MAX_LINE = 64 * 1024  # bytes; a longer line is damage, no event
_TAIL = 4 * MAX_LINE  # of the file, read to find the last event
RECOVERED = "recovered"
_RESERVED = ("n", "time", "at_s", "session", "event", "previous")


def line_hash(line: bytes) -> str:
    """SHA-256 of a line without its line feed."""
    return hashlib.sha256(line).hexdigest()


class EventLogFile:
    """Appends events until `close`; one process at a time has the file.

    Raises ValueError for a file that is no event log, that another process has open, or that cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.session = secrets.token_hex(8)
        self.events = 0  # written since the file was opened
        self._began = time.monotonic()
        self._torn, self._unfed = b"", False  # bytes behind the last event; it lacks its line feed alone
        self._previous, self._next = FIRST, 0  # hash of the last event, number of the next
        self._file = _open(self.path)
        try:
            _lock(self._file, self.path)
            self._read_end()
        except BaseException:
            os.close(self._file)
            raise

    @property
    def head(self) -> str:
        """The hash of the last complete line: the whole log up to here depends on it."""
        return self._previous

    def append(self, event: str, fields: Mapping[str, Any] | None = None) -> None:
        """Write one event and flush it to the disk.

        Raises OSError where it cannot be written, as on a full disk; the next call continues the chain (an event whose
        flush alone failed is then in the file twice). Raises ValueError for a field with a name that every line has.
        """
        if self._torn:
            torn = self._torn if self._torn.endswith(b"\n") else self._torn + b"\n"
            record = {"torn_bytes": len(torn), "torn": line_hash(torn)}
            self._append_line(RECOVERED, record, feed=torn != self._torn)
        self._append_line(event, fields or {})

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)  # releases the lock
            self._file = -1

    def _append_line(self, event: str, fields: Mapping[str, Any], *, feed: bool = False) -> None:
        reserved = [name for name in fields if name in _RESERVED]
        if reserved:
            raise ValueError(f"event {event}: {reserved[0]!r} is a field of every line; choose another name")
        row = {
            "n": self._next,
            "time": f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z",
            "at_s": round(time.monotonic() - self._began, 3),
            "session": self.session,
            "event": event,
            **fields,
            "previous": self._previous,
        }
        line = json.dumps(row, allow_nan=False, separators=(",", ":")).encode()
        if len(line) > MAX_LINE:
            raise ValueError(f"event {event}: {len(line)} bytes; a line has at most {MAX_LINE}")
        self._write((b"\n" if feed or self._unfed else b"") + line + b"\n")
        self._torn, self._unfed, self._previous, self._next = b"", False, line_hash(line), self._next + 1
        self.events += 1

    def _write(self, data: bytes) -> None:
        done = 0
        try:
            while done < len(data):
                done += os.write(self._file, data[done:])
            os.fsync(self._file)
        except OSError:
            self._read_end()
            raise

    def _read_end(self) -> None:
        """Find the last event, and the torn bytes behind it."""
        size = os.fstat(self._file).st_size
        span = min(size, _TAIL)
        os.lseek(self._file, size - span, os.SEEK_SET)
        lines = _read(self._file, span).splitlines(keepends=True)
        torn: list[bytes] = []
        while lines and event_number(lines[-1]) is None:
            torn.insert(0, lines.pop())
        if not lines and size and (span < size or any(line.endswith(b"\n") for line in torn)):
            raise ValueError(f"log {self.path}: does not end with an event of an event log; name another file")
        self._torn, self._unfed = b"".join(torn), bool(lines) and not lines[-1].endswith(b"\n")
        self._previous, self._next = FIRST, 0
        if lines:
            last = lines[-1].rstrip(b"\n")
            self._previous, self._next = line_hash(last), (event_number(last) or 0) + 1


def event_number(line: bytes) -> int | None:
    """The number `n` of an event; None for a line that is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    number = row.get("n") if isinstance(row, dict) and isinstance(row.get("previous"), str) else None
    return number if isinstance(number, int) and not isinstance(number, bool) and number >= 0 else None


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o600)  # a pipe must not wait for its reader
    except OSError as error:
        raise ValueError(f"log {path}: cannot be opened ({error.strerror}); name another file") from None


def _lock(file: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(file).st_mode):
        raise ValueError(f"log {path}: is no regular file; name another one")
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ValueError(f"log {path}: another process writes to it; stop that one, or name another file") from None


def _read(file: int, size: int) -> bytes:
    parts, left = [], size
    while left > 0:
        part = os.read(file, left)
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
