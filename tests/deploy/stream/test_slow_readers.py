"""A reader that is slower than the masks, or pauses, never reads a fresh state whose mask is over the budget."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from igtl_samples import Client, frame, read_status, read_string, result

from deploy.stream.igtl import protocol
from deploy.stream.outputs import pacing
from deploy.stream.outputs.base import OutputContext, OutputThread
from deploy.stream.outputs.igtl_options import IgtlOptions
from deploy.stream.outputs.igtl_server import IgtlServer
from deploy.stream.outputs.json_lines import JsonLinesOutput
from deploy.stream.outputs.pacing import (
    SLOW,
    TOO_OLD,
    UNKNOWN,
    Pace,
    is_observable,
    retract,
    unread_bytes,
    unread_in_file,
    withhold_reason,
)
from deploy.stream.state.display_state import DisplayState, FreshnessLimits
from deploy.stream.state.frames import MaskStatus
from edgemt.model_card import ModelCard

BUDGET_MS = 400
READERS = {  # messages a second, and the pause before each of some messages
    "quick": lambda n: 0.0,
    "25 a second": lambda n: 1 / 25,
    "10 a second": lambda n: 1 / 10,
    "1 a second": lambda n: 1.0,
    "3 s pause": lambda n: 3.0 if n == 20 else 0.0,
}
pytestmark = pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="the system does not tell what is unread")


@pytest.fixture
def live() -> Iterator[DisplayState]:
    """Masks at 30 Hz, each 10 ms after its frame."""
    on, stop = DisplayState(FreshnessLimits(budget_ms=BUDGET_MS, no_signal_ms=450), model="tiny"), threading.Event()

    def drive() -> None:
        number = 0
        while not stop.wait(0.023):
            number += 1
            new = frame(number, size=(48, 64))
            on.put_frame(new)
            stop.wait(0.01)
            on.put_result(result(new, size=(120, 160)))

    thread = threading.Thread(target=drive, daemon=True)
    thread.start()
    yield on
    stop.set()
    thread.join()


def states_of_lines(on: DisplayState, pause_s: Callable[[int], float], seconds: float) -> list[dict[str, Any]]:
    reads, writes = os.pipe()
    with os.fdopen(reads) as reader, os.fdopen(writes, "w") as writer:
        lines = JsonLinesOutput("", OutputContext(on, ModelCard(), ()), to=writer)
        output_thread = OutputThread(lines, on, name="lines")
        try:
            return collected(lambda: reader.readline(), pause_s, seconds)
        finally:
            output_thread.close()


def states_of_igtl(port: int, pause_s: Callable[[int], float], seconds: float) -> list[dict[str, Any]]:
    client = Client(port)
    with client.link:
        return collected(lambda: read_string(client.until("STRING")[1]), pause_s, seconds)


def collected(read: Callable[[], str], pause_s: Callable[[int], float], seconds: float) -> list[dict[str, Any]]:
    """Every state with its age when it was read, the pause being taken after each."""
    out, ends = [], time.monotonic() + seconds
    while time.monotonic() < ends:
        said = json.loads(read())
        now = time.monotonic_ns()
        said["read_age_ms"] = None if said["captured_ns"] is None else (now - said["captured_ns"]) / 1e6
        out.append(said)
        time.sleep(pause_s(len(out)))
    return out


@pytest.mark.parametrize("way", ["lines", "igtl"])
def test_no_fresh_state_is_over_budget_when_read(way: str, live: DisplayState) -> None:
    server = IgtlServer(live, options=IgtlOptions(port=0))
    found: dict[str, list[dict[str, Any]]] = {}

    def read(name: str) -> None:
        seconds = 5.0 if "pause" in name else 2.5
        if way == "igtl":
            found[name] = states_of_igtl(server.port, READERS[name], seconds)
        else:
            found[name] = states_of_lines(live, READERS[name], seconds)

    threads = [threading.Thread(target=read, args=(name,)) for name in READERS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    server.close()
    assert set(found) == set(READERS)
    fresh = {name: [said for said in states if said["state"] == "fresh"] for name, states in found.items()}
    for name, states in fresh.items():
        assert all(said["read_age_ms"] <= BUDGET_MS for said in states), name
    assert len(fresh["quick"]) > 5 and len(fresh["3 s pause"]) > 5  # and who reads quickly gets them
    assert len(fresh["1 a second"]) <= 1  # the first, before its speed shows
    assert any(said["reason"] for said in found["1 a second"])


@pytest.mark.parametrize(("version", "after"), [(1, "IMAGE"), (1, "STRING"), (2, "STATUS")])
def test_client_that_pauses_between_messages_reads_no_old_state(live: DisplayState, version: int, after: str) -> None:
    """The state that follows a pause was judged when it was over, whatever lay in the buffers meanwhile."""
    server = IgtlServer(live, options=IgtlOptions(port=0, version=version))
    client = Client(server.port)
    before: list[bool] = []

    def fresh() -> tuple[str, bool, float]:
        """Kind of the next message, whether it calls a mask fresh, and until when, in nanoseconds."""
        header = protocol.read_header(client._take(protocol.HEADER.size), max_bytes=1 << 24)
        content, metadata = protocol.read_content(header, client._take(header.size))
        if header.kind == "STRING":
            state = json.loads(read_string(content))
            return header.kind, state["state"] == "fresh", state["valid_until_ns"] or 0
        if header.kind == "STATUS":
            return header.kind, read_status(content).code == protocol.OK, np.inf
        return header.kind, metadata.get("state") == "fresh", int(metadata.get("valid_until_ns", 0))

    try:
        for _ in range(2):
            ends = time.monotonic() + 5
            while True:  # read quickly until masks are fresh, and stop behind the message `after`
                kind, is_fresh, _ = fresh()
                before.append(is_fresh)
                if kind == after and sum(before[-12:]) > 5:
                    break
                assert time.monotonic() < ends
            time.sleep(BUDGET_MS / 1e3 + 0.2)
            for number in range(3):
                kind, is_fresh, until = fresh()
                assert not is_fresh or until > time.monotonic_ns(), kind
                assert not (is_fresh and number == 0 and kind == "STATUS")  # of the state before the pause
    finally:
        client.link.close()
        server.close()


def test_client_that_waits_for_headers_gets_whole_messages(live: DisplayState) -> None:
    import fcntl
    import struct
    import termios

    server = IgtlServer(live, options=IgtlOptions(port=0))
    client = Client(server.port)
    seen = []
    try:
        ends = time.monotonic() + 6
        while time.monotonic() < ends and sum(seen[-20:]) < 3:
            waiting = struct.unpack("i", fcntl.ioctl(client.link.fileno(), termios.FIONREAD, bytes(4)))[0]
            if waiting < protocol.HEADER.size:
                time.sleep(0.001)
                continue
            header = protocol.read_header(client._take(protocol.HEADER.size), max_bytes=1 << 24)
            content, _ = protocol.read_content(header, client._take(header.size))
            if header.kind == "STRING":
                seen.append(json.loads(read_string(content))["state"] == "fresh")
        assert sum(seen[-20:]) >= 3
    finally:
        client.link.close()
        server.close()


def test_state_has_end_of_validity_on_both_clocks(live: DisplayState) -> None:
    said = next(s for s in states_of_lines(live, lambda n: 0.0, 1.0) if s["state"] == "fresh")
    ends = said["captured_ns"] + BUDGET_MS * 10**6
    assert said["valid_until_ns"] == ends
    assert said["valid_for_ms"] == pytest.approx((ends - said["sent_ns"]) / 1e6, abs=0.01)
    assert said["sent_ns"] - said["captured_ns"] == pytest.approx(said["age_ms"] * 1e6, abs=5e6)
    here = time.time() + (ends - time.monotonic_ns()) / 1e9
    assert said["valid_until_utc"] == pytest.approx(here, abs=0.05)
    stale = MaskStatus("stale", "no mask yet", "tiny").message(now_ns=1)
    assert stale["valid_until_ns"] is stale["valid_for_ms"] is stale["valid_until_utc"] is None


def test_status_and_metadata_have_end_of_validity(live: DisplayState) -> None:
    server = IgtlServer(live, options=IgtlOptions(port=0, version=2))
    client = Client(server.port)
    try:
        for _ in range(200):
            header = protocol.read_header(client._take(protocol.HEADER.size), max_bytes=1 << 24)
            _, metadata = protocol.read_content(header, client._take(header.size))
            if header.kind == "IMAGE" and metadata:
                break
        assert metadata["state"] == "fresh" and int(metadata["valid_until_ns"]) > time.monotonic_ns()
        status = read_status(client.until("STATUS", lambda c: read_status(c).code == protocol.OK)[1])
        assert status.message.startswith("valid until 20") and status.message.endswith("+00:00")
    finally:
        client.link.close()
        server.close()


def test_unsubscribed_client_gets_current_answers_only(live: DisplayState) -> None:
    server = IgtlServer(live, options=IgtlOptions(port=0))
    client = Client(server.port)
    try:
        client.until("STATUS")
        client.link.sendall(protocol.pack("STP_IMAGE", b"", device="d", stamp=0))
        time.sleep(0.1)
        client.link.settimeout(0.05)
        with pytest.raises(TimeoutError):  # what was under way, then silence
            while True:
                client.link.recv(1 << 16)
        time.sleep(2 * BUDGET_MS / 1e3)
        client.link.settimeout(5)
        for _ in range(3):
            requested = time.monotonic_ns()
            client.link.sendall(protocol.pack("GET_IMAGE", b"", device="d", stamp=0))
            said = json.loads(read_string(client.until("STRING")[1]))
            client.until("STATUS")
            assert said["state"] == "fresh"
            assert said["captured_ns"] > requested - BUDGET_MS * 10**6
            time.sleep(0.2)
        client.link.sendall(protocol.pack("STT_IMAGE", b"", device="d", stamp=0))
        for _ in range(3):
            client.until("STRING")
    finally:
        client.link.close()
        server.close()


def test_send_buffer_is_small_when_unread_bytes_are_unknown(
    live: DisplayState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "_peer_queue", lambda link: None)
    server = IgtlServer(live, options=IgtlOptions(port=0))
    client = Client(server.port)
    try:
        assert not is_observable(client.link)
        said = json.loads(read_string(client.until("STRING", lambda c: b'"fresh"' in c)[1]))
        assert said["valid_until_ns"] > time.monotonic_ns()
        (link,) = server._clients
        assert link.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 1 << 17
    finally:
        client.link.close()
        server.close()


def test_unread_bytes_counts_bytes_not_read_by_other_program() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    reader = socket.create_connection(listener.getsockname())
    writer = listener.accept()[0]
    with listener, reader, writer:
        assert is_observable(writer) and unread_bytes(writer) == 0
        writer.sendall(bytes(1000))
        assert unread_bytes(writer) == 1000
        reader.recv(400)
        assert unread_bytes(writer) == 600
    one, other = socket.socketpair()
    with one, other:
        one.sendall(b"abc")
        assert unread_bytes(one) > 0 and unread_in_file(one.fileno()) > 0
        other.recv(10)
        assert unread_bytes(one) == 0
    assert unread_in_file(os.open(os.devnull, os.O_WRONLY)) == 0


@pytest.mark.parametrize("read", [0, 5, 12])
def test_retract_removes_whole_line_or_nothing(read: int) -> None:
    reads, writes = os.pipe()
    line = b"state: fresh\n"
    try:
        os.write(writes, line)
        first = os.read(reads, read)
        assert retract(writes, line) is (read == 0)
        os.write(writes, b"next\n")
        assert first + os.read(reads, 100) == (b"next\n" if read == 0 else line + b"next\n")
    finally:
        os.close(reads)
        os.close(writes)


def test_retract_leaves_bytes_of_other_writer() -> None:
    reads, writes = os.pipe()
    try:
        os.write(writes, b"12345")
        assert not retract(writes, b"abcde")
        assert os.read(reads, 10) == b"12345"
    finally:
        os.close(reads)
        os.close(writes)


def test_closed_reader_is_detected() -> None:
    reads, writes = os.pipe()
    os.write(writes, b"a line\n")
    assert unread_in_file(writes) == 7
    os.close(reads)
    with pytest.raises(BrokenPipeError):
        unread_in_file(writes)
    os.close(writes)


def test_withhold_reason_distinguishes_slow_reader_and_old_mask() -> None:
    pace = Pace()
    assert withhold_reason(pace, "image", remaining_s=1.0, budget_s=0.1) == UNKNOWN
    for _ in range(3):
        pace.sent(1.0, "image")
        pace.update(1.01, 0)
    assert withhold_reason(pace, "image", remaining_s=0.05, budget_s=0.1) == ""
    assert withhold_reason(pace, "image", remaining_s=0.005, budget_s=0.1) == TOO_OLD
    pace.sent(2.0, "image")
    pace.update(2.06, 0)
    assert withhold_reason(pace, "image", remaining_s=0.05, budget_s=0.1) == SLOW


def test_pace_uses_slowest_of_latest_messages_per_kind() -> None:
    pace = Pace()
    for kind, took in [("image", 0.03), ("state", 0.01)]:
        pace.sent(1.0, kind)
        pace.update(1.0 + took / 2, 7)
        assert pace.in_flight and pace.lag_s(kind) == float("inf")
        pace.update(1.0 + took, 0)
    pace.sent(2.0, "image")
    assert pace.waited_s(2.5) == 0.5
    pace.update(2.01, 0)
    assert pace.lag_s("image", "state") == pytest.approx(0.04)
    assert pace.lag_s("status") == pytest.approx(0.03)
    for _ in range(5):
        pace.sent(3.0, "image")
        pace.update(3.001, 0)
    assert pace.lag_s("image") == pytest.approx(0.001)
    assert np.isfinite(pace.lag_s("state"))
