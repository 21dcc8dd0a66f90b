"""A line now and then for the terminal: state, age, rates. No pixels."""

from __future__ import annotations

import threading
from collections.abc import Callable

from deploy.stream.session import Session


class Ticker:
    """Speaks at once when the state changes for longer than a blink, and every few seconds besides."""

    def __init__(self, session: Session, *, say: Callable[[str], None], every_s: float = 5.0) -> None:
        self._session, self._say, self._every_s = session, say, every_s
        self._stop, self._warned = threading.Event(), False
        self._refusals: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="edgemt-ticker", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2.0)
        self._warn()

    def _run(self) -> None:
        said, since_s, frames = "", 0.0, 0
        while not self._stop.wait(0.5):
            since_s += 0.5
            self._warn()
            record = self._session.board.look().record
            if self._session.board.closed or (record.state == said and since_s < self._every_s):
                continue
            count = self._session.capture.counted.frames
            age = "" if record.age_ms is None else f", age {record.age_ms:.0f} ms"
            why = f" ({': '.join(filter(None, (record.reason, record.refused)))})" if record.reason else ""
            self._say(f"{record.state}{why}{age}, frame {count}, {(count - frames) / since_s:.1f} Hz")
            said, since_s, frames = record.state, 0.0, count

    def _warn(self) -> None:
        """Once a kind: why pictures are refused; and that masks are made of pictures unlike those of training."""
        for kind, refused in list(self._session.capture.counted.kinds.items()):
            if kind not in self._refusals:
                self._refusals.add(kind)
                self._say(f"warning: a picture of the source was refused: {refused.why}")
        inference = self._session.inference
        if not self._warned and inference is not None and inference.counted.unlike:
            self._warned = True
            self._say(f"warning: {inference.counted.unlike}")
