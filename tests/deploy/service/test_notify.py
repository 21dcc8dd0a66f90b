"""The watchdog of systemd, on a datagram socket that the test reads."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faulty_source import model, picture, threshold

from deploy.service.notify import Progress, Watchdog, notify, watchdog_s
from deploy.stream.session import Session, StreamOptions
from deploy.stream.sources.iterable import IterableSource
from deploy.stream.watchdog import stream_watchdog


class Manager:
    """What systemd is to a service: a socket, and the time until it would kill."""

    def __init__(self, path: Path, *, watchdog_s: float = 0.4) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(int(watchdog_s * 1e6))}

    def next(self, timeout_s: float) -> str:
        """The next message; "" if there is none in that time."""
        self._socket.settimeout(timeout_s)
        try:
            return self._socket.recv(4096).decode()
        except TimeoutError:
            return ""

    def pings(self, timeout_s: float) -> bool:
        """Whether a ping comes within that time."""
        while (message := self.next(timeout_s)) and message != "WATCHDOG=1":
            pass
        return bool(message)

    def silent(self, *, seconds: float = 0.4) -> bool:
        """Whether pings stop for that long, within 50 messages."""
        return any(not self.pings(seconds) for _ in range(50))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


def test_messages_arrive_also_by_an_abstract_address() -> None:
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(f"\0edgemt-test-{os.getpid()}")
    receiver.settimeout(5.0)
    assert notify("READY=1", environment={"NOTIFY_SOCKET": f"@edgemt-test-{os.getpid()}"})
    assert receiver.recv(100) == b"READY=1"
    receiver.close()


def test_nothing_happens_without_a_manager(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": "relative"}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}):
        assert not notify("READY=1", environment=environment)
        Watchdog(lambda within_s: True, environment=environment).close()
    assert watchdog_s({"WATCHDOG_USEC": "3000000"}) == 3.0
    assert watchdog_s({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}) == 0.0
    assert watchdog_s({"WATCHDOG_USEC": "soon"}) == 0.0


def test_pings_are_sent_while_the_service_answers(manager: Manager) -> None:
    state = {"answers": True}
    watchdog = Watchdog(lambda within_s: state["answers"], environment=manager.environment)
    assert manager.next(5.0) == "READY=1" and manager.pings(5.0) and manager.pings(5.0)
    state["answers"] = False
    assert manager.silent()
    state["answers"] = True
    assert manager.pings(5.0)
    watchdog.close()
    while (message := manager.next(1.0)) not in ("", "STOPPING=1"):
        pass
    assert message == "STOPPING=1"


def test_work_that_waits_too_long_is_not_answered() -> None:
    came, answered, now = [0], [0], [0.0]
    progress = Progress(lambda: came[0], lambda: answered[0], clock=lambda: now[0])
    now[0] = 100.0
    assert progress(5.0)  # nothing came
    came[0] = 1
    assert progress(5.0)
    now[0] = 104.9
    assert progress(5.0)
    now[0] = 105.0
    assert not progress(5.0)
    answered[0] = 1
    assert progress(5.0)
    now[0] = 200.0
    assert progress(5.0)  # all that came is answered


def test_a_runner_that_hangs_stops_the_pings_of_a_stream(manager: Manager) -> None:
    hang, done = threading.Event(), threading.Event()

    def infer(frames: np.ndarray) -> np.ndarray:
        if hang.is_set():
            done.wait(30.0)
        return threshold(frames)

    frames = (picture(k, size=(60, 80)) for k in range(100_000))
    session = Session(
        IterableSource(frames, hz=50), model(lambda: infer), options=StreamOptions(hang_ms=200.0), standby=False
    )  # fmt: skip
    runs = threading.Thread(target=session.run, daemon=True)
    with stream_watchdog(session, environment=manager.environment):
        runs.start()
        assert manager.next(5.0) == "READY=1"
        assert all(manager.pings(5.0) for _ in range(8))
        hang.set()
        assert manager.silent()
        assert session.capture.counters.frames and session.display_state.snapshot().status.state != "fresh"
    done.set()
    session.stop()
    runs.join(10.0)


def test_a_source_without_frames_does_not_stop_them(manager: Manager) -> None:
    """The display reads no-signal; to start again would not bring a camera back."""
    gate = threading.Event()

    def frames() -> Iterator[np.ndarray]:
        yield picture(0, size=(60, 80))
        gate.wait(30.0)

    session = Session(IterableSource(frames(), hz=0), model(lambda: threshold))
    runs = threading.Thread(target=session.run, daemon=True)
    with stream_watchdog(session, environment=manager.environment):
        runs.start()
        assert all(manager.pings(5.0) for _ in range(8))
    gate.set()
    session.stop()
    runs.join(10.0)
