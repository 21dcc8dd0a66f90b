"""The notification socket of systemd (sd_notify), in the standard library alone.

With `Type=notify` and `WatchdogSec=` in its unit, a service reports READY=1 once and WATCHDOG=1 again and again; if the
latter stops for longer than `WatchdogSec`, systemd kills and restarts it. Without NOTIFY_SOCKET nothing here has an
effect.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

_PINGS = 4  # in the time of WatchdogSec


def notify(text: str, *, environment: Mapping[str, str] = os.environ) -> bool:
    """Send lines such as "READY=1"; False where no service manager listens. Never raises for a socket that is gone."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return False
    if address.startswith("@"):
        address = f"\0{address[1:]}"  # the abstract name space of Linux
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(1.0)
            sender.connect(address)
            sender.send(text.encode())
    except OSError:
        return False
    return True


def watchdog_s(environment: Mapping[str, str] = os.environ) -> float:
    """WatchdogSec of this process's unit in seconds; 0 where there is none."""
    try:
        for_this = int(environment.get("WATCHDOG_PID", os.getpid())) == os.getpid()
        return int(environment.get("WATCHDOG_USEC", "0")) / 1e6 if for_this else 0.0
    except ValueError:
        return 0.0


class Answering(Protocol):
    """Whether the service does its work: no ping is sent while this is False."""

    def __call__(self, within_s: float) -> bool: ...


class Watchdog:
    """Reports READY=1 at once, WATCHDOG=1 while `answering(WatchdogSec)` is true, and STOPPING=1 at the end."""

    def __init__(self, answering: Answering, *, environment: Mapping[str, str] = os.environ) -> None:
        self._answering, self._environment, self._stop = answering, dict(environment), threading.Event()
        self._within_s = watchdog_s(self._environment)
        self._thread: threading.Thread | None = None
        if notify("READY=1", environment=self._environment) and self._within_s > 0:
            self._thread = threading.Thread(target=self._run, name="edgemt-watchdog", daemon=True)
            self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2.0)
        notify("STOPPING=1", environment=self._environment)

    def _run(self) -> None:
        answered = True
        while not self._stop.is_set():
            now = self._answering(self._within_s)
            if now:
                notify("WATCHDOG=1", environment=self._environment)
            if now != answered:
                answered = now
                notify(f"STATUS={'answering' if now else 'does not answer'}", environment=self._environment)
            self._stop.wait(self._within_s / _PINGS)


class Progress:
    """Whether work that comes in is answered, from two counters that only grow.

    `came` and `answered` return them. It is answered while the second one grows, or while nothing came since it grew
    last: a source that is silent is no fault of the service.
    """

    def __init__(
        self, came: Callable[[], int], answered: Callable[[], int], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._came, self._answered, self._clock = came, answered, clock
        self._last, self._came_then, self._since = answered(), came(), clock()

    def __call__(self, within_s: float) -> bool:
        answered, came, now = self._answered(), self._came(), self._clock()
        if answered != self._last:
            self._last, self._came_then, self._since = answered, came, now
        elif came == self._came_then:
            self._since = now
        return now - self._since < within_s
