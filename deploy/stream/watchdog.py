"""The watchdog of a stream under systemd: pings while frames are answered with masks and pictures are shown."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from deploy.service.notify import Progress, Watchdog
from deploy.stream.session import Session


@contextmanager
def stream_watchdog(session: Session, *, environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Report readiness, and ping until the end of the block; nothing happens without NOTIFY_SOCKET.

    A runner that hangs or fails, also after its restarts, stops the pings; a source without frames does not, as the
    display shows that there is no signal and another start would not change it.
    """

    def masks() -> int:
        return session.inference.counters.masks if session.inference is not None else 0

    answered = Progress(lambda: session.capture.counters.frames, masks)

    def answering(within_s: float) -> bool:
        return answered(within_s) & session.shows(within_s)

    watchdog = Watchdog(answering, environment=environment)
    try:
        yield
    finally:
        watchdog.close()
