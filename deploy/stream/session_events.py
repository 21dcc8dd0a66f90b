"""Writes what happens in a stream to an event log: start, changes of state, faults, a summary each minute, end.

No pixels and no identifiers: of the source its kind alone, of a rejected frame the reason without numbers and paths.
The thread that shows pictures only appends to a queue; another one writes. While the disk is full, events wait in
memory (1,000 at most; further ones are counted as lost), the warning is given once, and the video goes on.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from deploy.event_log.log_file import EventLogFile
from deploy.stream.session import Session
from deploy.stream.state.frames import STATES, DisplaySnapshot

POLL_S = 0.25
MAX_WAITING = 1000  # events in memory while the log cannot be written
MAX_CHANGES = 20  # changes of state a minute that get an event each; more are counted in the minute's summary


class SessionEvents:
    """Observes a session from `start` to `close`. `log` gets a warning when the file cannot be written."""

    def __init__(
        self, file: EventLogFile, *, log: Callable[[str], None], minute_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._file, self._log, self._minute_s, self._clock = file, log, minute_s, clock
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()
        self._lock = threading.Lock()  # of the queue and of the minute's figures
        self._writing = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._session: Session | None = None
        self._state: tuple[str, str] = ("", "")
        self._minute = _Minute(clock())
        self._counted: dict[str, Any] = {}
        self._at_minute: dict[str, int] = {}  # the counters when the minute began
        self._saved_cases: Callable[[], int] = lambda: 0
        self.lost = 0
        self.error = ""

    def start(self, session: Session, fields: Mapping[str, Any], *, saved_cases: Callable[[], int] = lambda: 0) -> None:
        """Write the start event at once, and begin to observe. `saved_cases`: corrections saved so far.

        Raises ValueError if it cannot be written: a stream whose log fails from the start does not begin.
        """
        try:
            self._file.append("start", fields)
        except OSError as error:
            raise ValueError(f"log {self._file.path}: cannot be written ({error.strerror}); free space on it") from None
        self._session, self._saved_cases = session, saved_cases
        self._counted = self._counts()
        self._thread = threading.Thread(target=self._run, name="edgemt-event-log", daemon=True)
        self._thread.start()

    def observe(self, snapshot: DisplaySnapshot) -> None:
        """Call it with every picture that is shown."""
        status = snapshot.status
        state = (status.state, _without_numbers(status.reason))
        with self._lock:
            self._minute.add(status.state, status.age_ms, status.likeness)
            if state == self._state:
                return
            self._minute.changes += 1
            if self._minute.changes <= MAX_CHANGES:
                self._put("state", {"from": self._state[0], "to": state[0], "reason": state[1]})
            self._state = state

    def event(self, name: str, fields: Mapping[str, Any] | None = None) -> None:
        """An event of another part of the program, such as an action of the operator."""
        with self._lock:
            self._put(name, dict(fields or {}))

    def close(self, *, ended_by: str) -> None:
        """Write what is left, and the end."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5.0)
            self._poll()
        with self._lock:
            self._summarise()
            totals = self._counts() if self._session is not None else {}
            self._put("end", {"ended_by": ended_by, **{name: totals[name] for name in _TOTALS if name in totals}})
        self._write()
        self._file.close()

    def release(self) -> None:
        """Close the file, also of a stream that did not begin; another stream may then have it."""
        self._file.close()

    def record(self) -> dict[str, Any]:
        """{file, events, head, lost, error}: for the record of the stream."""
        waiting = len(self._waiting)
        return {
            "file": self._file.path.name,
            "session": self._file.session,
            "events": self._file.events,
            "head": self._file.head,
            "lost": self.lost + waiting,
            "error": self.error,
        }

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            self._poll()
            with self._lock:
                if self._clock() - self._minute.began >= self._minute_s:
                    self._summarise()
            self._write()

    def _poll(self) -> None:
        """Events for counters of the session that have grown."""
        now, before = self._counts(), self._counted
        with self._lock:
            for name, event in _EVENT_OF.items():
                if now[name] > before[name]:
                    reason = {"reason": now["last_failure"]} if name == "failures" else {}
                    self._put(event, {"count": now[name], **reason})
            for kind in now["rejected"] - before["rejected"]:
                self._put("rejected", {"reason": kind})
            if now["unlike_training"] and not before["unlike_training"]:
                self._put("unlike-training", {})
        self._counted = now

    def _summarise(self) -> None:
        """The summary of the time since the last one."""
        minute, self._minute = self._minute, _Minute(self._clock())
        if self._session is None or not minute.shown:
            return
        counters = self._counts()
        since = {name: counters[name] - self._at_minute.get(name, 0) for name in _SUMMED}
        self._at_minute = {name: counters[name] for name in _SUMMED}
        self._put("summary", {**minute.record(self._clock()), **since})

    def _counts(self) -> dict[str, Any]:
        """The counters of the session as they are now."""
        assert self._session is not None
        captured = self._session.capture.counters
        inferred = self._session.inference.counters if self._session.inference is not None else None
        return {
            "frames": captured.frames,
            "masks": inferred.masks if inferred else 0,
            "frames_without_mask": self._session.frames_without_mask,
            "corrupt": captured.corrupt,
            "source_losses": captured.losses,
            "source_reopened": captured.reopened,
            "size_changes": captured.size_changes,
            "failures": inferred.failures if inferred else 0,
            "last_failure": _without_numbers(inferred.last_failure) if inferred else "",
            "restarts": inferred.restarts if inferred else 0,
            "saved_cases": self._saved_cases(),
            "rejected": {_without_numbers(kind) for kind in list(captured.rejected)},
            "unlike_training": bool(inferred and inferred.drift_message),
        }

    def _put(self, name: str, fields: dict[str, Any]) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self.lost += 1
            return
        self._waiting.append((name, fields))

    def _write(self) -> None:
        """Write the queue in order; stop at the first error and keep the rest."""
        if not self._writing.acquire(timeout=5.0):
            return  # a disk that hangs: the thread that waits for it goes on when it can
        try:
            while self._write_next():
                pass
        finally:
            self._writing.release()

    def _write_next(self) -> bool:
        """Write one event; False if there is none, or if it cannot be written."""
        with self._lock:
            if not self._waiting and self.lost:
                self._waiting.append(("lost", {"count": self.lost}))
                self.lost = 0
            if not self._waiting:
                return False
            name, fields = self._waiting[0]
        try:
            self._file.append(name, fields)
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            if not self.error:
                self._log(f"warning: the event log {self._file.path} cannot be written ({why}); the video goes on")
            self.error = why
            return False
        if self.error:
            self._log(f"the event log {self._file.path} is written again")
            self.error = ""
        with self._lock:
            self._waiting.popleft()
        return True


_EVENT_OF = {
    "source_losses": "source-lost",
    "source_reopened": "source-reopened",
    "size_changes": "size-changed",
    "failures": "inference-failed",
    "restarts": "inference-restarted",
    "saved_cases": "correction-saved",
}
_SUMMED = ("frames", "masks", "frames_without_mask", "corrupt", "failures", "restarts")
_TOTALS = (*_SUMMED, "source_losses", "source_reopened", "size_changes", "saved_cases", "unlike_training")


class _Minute:
    """What was shown since `began`."""

    def __init__(self, began: float) -> None:
        self.began, self.shown, self.changes = began, 0, 0
        self._states: dict[str, int] = {state: 0 for state in STATES}
        self._age_ms: list[float] = []
        self._likeness: list[float] = []

    def add(self, state: str, age_ms: float | None, likeness: float | None) -> None:
        self.shown += 1
        self._states[state] = self._states.get(state, 0) + 1
        if age_ms is not None:
            self._age_ms.append(age_ms)
        if likeness is not None:
            self._likeness.append(likeness)

    def record(self, now: float) -> dict[str, Any]:
        ages = self._age_ms
        age = None
        if ages:
            p50, p99 = (round(float(q), 2) for q in np.percentile(ages, (50, 99)))
            age = {"n": len(ages), "p50": p50, "p99": p99, "max": round(max(ages), 2)}
        return {
            "seconds": round(now - self.began, 2),
            "shown": {name: count for name, count in self._states.items() if count},
            "changes": self.changes,
            "age_ms": age,
            "likeness": round(float(np.median(self._likeness)), 4) if self._likeness else None,
        }


def _without_numbers(reason: str) -> str:
    """The reason without paths, numbers and quoted names, which could identify someone."""
    return " ".join(re.sub(r"\S*/\S*|'[^']*'|\d+(?:\.\d+)?", "", reason).split())[:200]
