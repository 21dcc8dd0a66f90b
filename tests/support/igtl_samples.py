"""Frames, results and a plain client for the tests of OpenIGTLink."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable

import numpy as np

from deploy.stream.igtl import protocol
from deploy.stream.state.display_state import DisplayState, FreshnessLimits
from deploy.stream.state.frames import Frame, InferenceResult
from deploy.stream.state.overlay import empty_overlay


def until(true: Callable[[], object], *, seconds: float = 10.0) -> None:
    """Wait for what another thread does."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.005)


def frame(number: int = 0, *, size: tuple[int, int] = (12, 16), source_ns: int | None = None) -> Frame:
    return Frame(number, np.full((*size, 3), number, np.uint8), time.monotonic_ns(), source_ns)


def result(of: Frame, *, size: tuple[int, int] = (6, 8)) -> InferenceResult:
    mask = np.zeros(size, np.uint8)
    mask[1:3, 2:5] = 1 + of.id % 2
    return InferenceResult(of, mask, empty_overlay(of.size), time.monotonic_ns())


def display_state(budget_ms: float = 60_000) -> DisplayState:
    return DisplayState(FreshnessLimits(budget_ms=budget_ms, no_signal_ms=120_000), model="tiny")


def show(on: DisplayState, number: int = 0, **size: tuple[int, int]) -> Frame:
    new = frame(number, **size)
    on.put_frame(new)
    on.put_result(result(new))
    return new


class Client:
    """As plain as one can be."""

    def __init__(self, port: int) -> None:
        self.link = socket.create_connection(("127.0.0.1", port), timeout=10)

    def next(self) -> tuple[protocol.Header, bytes]:
        header = protocol.read_header(self._take(protocol.HEADER.size), max_bytes=1 << 24)
        content, _ = protocol.read_content(header, self._take(header.size))
        return header, bytes(content)

    def until(self, kind: str, true: Callable[[bytes], bool] = lambda content: True) -> tuple[protocol.Header, bytes]:
        for _ in range(1000):
            header, content = self.next()
            if header.kind == kind and true(content):
                return header, content
        raise AssertionError(f"no such {kind} came")

    def _take(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            got = self.link.recv(count - len(data))
            assert got, "the server closed the connection"
            data += got
        return data


def read_status(content: bytes | memoryview) -> protocol.Status:
    """The status in the content of a STATUS message: code 2 bytes, subcode 8, name 20, text."""
    code, _, name = struct.unpack_from(">Hq20s", content)
    text = bytes(content[30:])
    return protocol.Status(code, *(part.split(b"\0")[0].decode() for part in (name, text)))


def read_string(content: bytes | memoryview) -> str:
    """The text in the content of a STRING message: encoding 2 bytes, length 2, text."""
    encoding, count = struct.unpack_from(">HH", content)
    assert encoding == 106  # UTF-8
    return bytes(content[4 : 4 + count]).decode()
