"""Status lines for the terminal: state, age of the mask, frame rate, and warnings."""

from __future__ import annotations

import threading
from collections.abc import Callable

from deploy.stream.session import Session


class StatusLine:
    """Logs a line every `every_s` seconds, and within half a second of a change of the state."""

    def __init__(self, session: Session, *, log: Callable[[str], None], every_s: float = 5.0) -> None:
        self._session, self._log, self._every_s = session, log, every_s
        self._stop, self._drift_reported = threading.Event(), False
        self._reported_kinds: set[str] = set()  # of rejected frames
        self._thread = threading.Thread(target=self._run, name="edgemt-status-line", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2.0)
        self._warn()

    def _run(self) -> None:
        last_state, since_s, frames = "", 0.0, 0
        while not self._stop.wait(0.5):
            since_s += 0.5
            self._warn()
            status = self._session.display_state.snapshot().status
            if self._session.display_state.closed or (status.state == last_state and since_s < self._every_s):
                continue
            count = self._session.capture.counters.frames
            age = "" if status.age_ms is None else f", age {status.age_ms:.0f} ms"
            why = f" ({': '.join(filter(None, (status.reason, status.refused)))})" if status.reason else ""
            self._log(f"{status.state}{why}{age}, frame {count}, {(count - frames) / since_s:.1f} Hz")
            last_state, since_s, frames = status.state, 0.0, count

    def _warn(self) -> None:
        """Log each kind of reason for rejected frames once, and once that the frames differ from those of training."""
        for kind, rejected in list(self._session.capture.counters.rejected.items()):
            if kind not in self._reported_kinds:
                self._reported_kinds.add(kind)
                self._log(f"warning: a picture of the source was refused: {rejected.why}")
        inference = self._session.inference
        if not self._drift_reported and inference is not None and inference.counters.drift_message:
            self._drift_reported = True
            self._log(f"warning: {inference.counters.drift_message}")
