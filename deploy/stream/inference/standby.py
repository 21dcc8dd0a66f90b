"""A standby worker: the next runner, loaded before it is needed. Loading takes seconds, taking over a frame or two."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

_MIN_INTERVAL_S = 2.0  # between two starts, so that a worker that always dies does not take a whole core


class StandbyWorker:
    """Holds one spare of a runner that has `spawn_standby`, `ready` and `alive` (a worker process).

    For any other runner there is no spare: `take` loads a new one.
    """

    def __init__(
        self, first: Any, *, load: Callable[[], Any], self_test: Callable[[Any], None], enabled: bool = True
    ) -> None:
        """`first` is the runner at work. `self_test` raises for a runner that must not be used."""
        self._load, self._self_test = load, self_test
        self._first = first if enabled and hasattr(first, "spawn_standby") else None
        self._lock = threading.Lock()
        self._spare: Any = None
        self._loading: Any = None  # taken, and not ready yet
        self._started_s, self._closed = -_MIN_INTERVAL_S, False

    def check_health(self) -> None:
        """Call it at short intervals: starts the spare, and replaces it when it has died."""
        now = time.monotonic()
        with self._lock:
            if self._first is None or self._closed or (self._spare is not None and self._spare.alive):
                return
            if now - self._started_s < _MIN_INTERVAL_S:
                return
            close_runner(self._spare)
            self._started_s, self._spare = now, None
            with contextlib.suppress(OSError):  # too many processes: tried again at the next call
                self._spare = self._first.spawn_standby()

    def take(self) -> Any:
        """The spare, or a newly loaded runner. Raises what loading and the self-test raise."""
        with self._lock:
            spare, self._spare = self._spare, None
            self._loading = spare
        try:
            infer = self._load() if spare is None else spare.ready()
        finally:
            self._loading = None
        try:
            self._self_test(infer)
        except BaseException:
            close_runner(infer)
            raise
        return infer

    def close(self) -> None:
        with self._lock:
            self._closed = True
            runners, self._spare = (self._spare, self._loading), None
        for infer in runners:
            close_runner(infer)


def close_runner(infer: Any) -> None:
    """Close a runner that has `close`, such as a worker process; others need none."""
    close = getattr(infer, "close", None)
    if close is not None:
        close()
