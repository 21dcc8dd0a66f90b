"""What the service prints and writes to the event log: counts, reasons and short names of series, no identifiers."""

from __future__ import annotations

import logging
import re
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

from deploy.event_log.log_file import EventLogFile

_AGAIN_S = 3600.0  # the same line is printed once in this time
_MAX_LINES = 1000  # that are remembered for that


class Reports:
    """Lines for `log`, and events for the event log. Safe for any number of threads.

    A log that cannot be written gives one warning, and the service goes on; events that it lacks are counted in the
    next one that can be written.
    """

    def __init__(self, log: Callable[[str], None], file: EventLogFile | None = None) -> None:
        self._log, self._file = log, file
        self._lock = threading.Lock()
        self._printed: dict[str, float] = {}
        self._lost = 0

    def line(self, text: str) -> None:
        self._log(text)

    def once(self, text: str, *, event: str = "", **fields: Any) -> None:
        """A line, and an event, once an hour, however often the cause comes: senders repeat what was refused."""
        now = time.monotonic()
        with self._lock:
            if now - self._printed.get(text, -_AGAIN_S) < _AGAIN_S:
                return
            if len(self._printed) >= _MAX_LINES:
                self._printed.clear()
            self._printed[text] = now
        self._log(text)
        if event:
            self.event(event, **fields)

    def event(self, name: str, **fields: Any) -> None:
        if self._file is None:
            return
        with self._lock:
            try:
                if self._lost:
                    self._file.append("lost", {"count": self._lost})
                    self._lost = 0
                self._file.append(name, fields)
            except (OSError, ValueError) as error:
                first, self._lost = self._lost == 0, self._lost + 1
                why = getattr(error, "strerror", None) or type(error).__name__
            else:
                return
        if first:
            self._log(f"warning: the event log {self._file.path} cannot be written ({why}); the service goes on")

    @property
    def head(self) -> str:
        return self._file.head if self._file is not None else ""


def shown_title(title: str) -> str:
    """An AE title as it is printed: it comes from the network, so only plain characters of it, at most 16."""
    return re.sub(r"[^A-Za-z0-9_.-]", "?", title.strip())[:16] or "?"


def silence_libraries() -> None:
    """pydicom, pynetdicom and their like put values of headers into warnings and log lines: none of them is printed."""
    warnings.filterwarnings("ignore")
    for name in ("pydicom", "pynetdicom", "highdicom", "dicomweb_client", "urllib3"):
        logger = logging.getLogger(name)
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
