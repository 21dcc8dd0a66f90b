"""The next runner, loaded before it is needed, where runners live in processes that may be killed. Starting one takes
seconds; taking over from a dead one takes a frame or two.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

_APART_S = 2.0  # between two starts, so that one that cannot live does not take a whole core


class Standby:
    """Behind a runner with `another()`, `ready()` and `alive`; in place of any other a new one is made when asked."""

    def __init__(self, first: Any, *, make: Callable[[], Any], prove: Callable[[Any], None], keep: bool = True) -> None:
        """`prove` raises for a runner that must not be used; `keep` False holds none ready."""
        self._make, self._prove = make, prove
        self._first = first if keep and hasattr(first, "another") else None
        self._lock = threading.Lock()
        self._waiting: Any = None
        self._coming: Any = None  # taken, and not ready yet
        self._started_s, self._closed = -_APART_S, False

    def tend(self) -> None:
        """Call it often: starts the one that waits, and replaces it when it died."""
        now = time.monotonic()
        with self._lock:
            if self._first is None or self._closed or (self._waiting is not None and self._waiting.alive):
                return
            if now - self._started_s < _APART_S:
                return
            close(self._waiting)
            self._started_s, self._waiting = now, None
            with contextlib.suppress(OSError):  # too many processes: tried again later
                self._waiting = self._first.another()

    def take(self) -> Any:
        """The one that waits, or a new one. Raises what loading and proving it raise."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
            self._coming = waiting
        try:
            infer = self._make() if waiting is None else waiting.ready()
        finally:
            self._coming = None
        try:
            self._prove(infer)
        except BaseException:
            close(infer)
            raise
        return infer

    def close(self) -> None:
        with self._lock:
            self._closed = True
            left, self._waiting = (self._waiting, self._coming), None
        for infer in left:
            close(infer)


def close(infer: Any) -> None:
    """Of one that has something to close: a child process."""
    done = getattr(infer, "close", None)
    if done is not None:
        done()
