"""Masks for 3D Slicer and whoever else speaks OpenIGTLink: a server on loopback that no client can slow down.

One thread serves all, without waiting for any: a client that reads slowly gets the newest message whenever it has taken
the one before. The protocol has neither password nor encryption: whoever reaches the port reads the masks.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from deploy.stream import igtl
from deploy.stream.board import Board
from deploy.stream.igtl_listening import IgtlOptions, listen
from deploy.stream.igtl_messages import Origin, Speaker
from deploy.stream.outputs import Stage

_BEAT_S = 1.0  # a message at least so often, so that a client can tell a quiet server from a dead one


@dataclass(eq=False)
class _Client:
    link: socket.socket
    began: float = 0.0  # when the message that is arriving began
    moved: float = 0.0  # when it last took a byte of ours
    arriving: bytearray = field(default_factory=bytearray)
    leaving: memoryview = memoryview(b"")
    answer: bytes = b""
    seen: object = None  # what it was last told
    told: float = 0.0
    mistakes: int = 0


def open_igtl(argument: str, stage: Stage) -> IgtlServer:
    """`igtl`, `igtl:PORT` or `igtl:HOST:PORT`."""
    host, _, port = argument.rpartition(":")
    if not (port or "0").isdigit():
        raise ValueError(f"output igtl:{argument}: write igtl, igtl:PORT or igtl:HOST:PORT")
    options = IgtlOptions(host=(host or "127.0.0.1").strip("[]"), port=int(port or igtl.PORT))
    origin = getattr(getattr(stage, "source", None), "origin", None)  # a source of OpenIGTLink knows where a frame lies
    return IgtlServer(stage.board, options=options, origin=origin, say=_warn)


def _warn(text: str) -> None:
    print(f"edgemt: warning: {text}", file=sys.stderr, flush=True)


class IgtlServer:
    """Reads the board and tells every client. Raises ValueError when it cannot listen."""

    def __init__(
        self, board: Board, *, options: IgtlOptions | None = None, origin: Origin | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:  # fmt: skip
        self._options = options or IgtlOptions()
        self._board, self._say = board, say
        self._speaker = Speaker(version=self._options.version, origin=origin)
        self._listener = listen(self._options)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self.port = self.address[1]
        self._clients: dict[socket.socket, _Client] = {}
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._listener, selectors.EVENT_READ)
        self._bell, self._wake = socket.socketpair()
        self._bell.setblocking(False)
        self._wake.setblocking(False)
        self._ready.register(self._bell, selectors.EVENT_READ)
        self._closing = False
        self.dropped: list[str] = []  # why clients had to go
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._serve, self._watch)]
        for thread in self._threads:
            thread.start()

    @property
    def clients(self) -> int:
        return len(self._clients)

    def close(self) -> None:
        self._closing = True
        self._ring()
        for thread in self._threads:
            thread.join(2)

    def _watch(self) -> None:
        seen = -1
        while not self._closing:
            seen = self._board.wait(seen, min(self._board.next_change_s(self._board.look()), _BEAT_S / 2))
            self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # a bell that is full rings already
            self._wake.send(b"\0")

    def _serve(self) -> None:
        while not self._closing:
            for key, events in self._ready.select(_BEAT_S):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._bell:
                    with contextlib.suppress(BlockingIOError):
                        self._bell.recv(4096)
                elif (client := self._clients.get(key.fileobj)) is not None:  # type: ignore[call-overload]
                    self._attend(client, events)
            self._tell()
        for client in list(self._clients.values()):
            self._drop(client)
        for link in (self._listener, self._bell, self._wake):
            link.close()
        self._ready.close()

    def _accept(self) -> None:
        try:
            link, _ = self._listener.accept()
        except OSError:
            return
        if len(self._clients) >= self._options.clients:
            link.close()
            self.dropped.append("too many clients")
            return
        link.setblocking(False)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)  # what the kernel holds grows old there
        self._clients[link] = _Client(link)
        self._ready.register(link, selectors.EVENT_READ)

    def _attend(self, client: _Client, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                self._receive(client)
            if events & selectors.EVENT_WRITE:
                self._send(client)
        except igtl.WireError as error:
            self._drop(client, str(error))
        except BlockingIOError:
            pass
        except OSError as error:
            self._drop(client, type(error).__name__)

    def _receive(self, client: _Client) -> None:
        data = client.link.recv(1 << 16)
        if not data:
            self._drop(client)
            return
        client.began = client.began if client.arriving else time.monotonic()
        client.arriving += data
        while len(client.arriving) >= igtl.HEADER.size:
            header = igtl.read_header(client.arriving[: igtl.HEADER.size], most=self._options.most_bytes)
            end = igtl.HEADER.size + header.size
            if len(client.arriving) < end:
                return
            body = bytes(client.arriving[igtl.HEADER.size : end])
            del client.arriving[:end]
            client.began = time.monotonic()
            self._answer(client, header, body)

    def _answer(self, client: _Client, header: igtl.Header, body: bytes) -> None:
        try:
            igtl.read_content(header, body)
        except igtl.WireError as error:
            client.mistakes += 1
            if client.mistakes > self._options.mistakes:
                raise
            client.answer = self._speaker.status(igtl.Status(igtl.CHECKSUM, "damaged", str(error)))
            return
        if header.kind == "GET_STATUS":
            client.told = 0.0

    def _tell(self) -> None:
        """Whoever has taken everything gets what is new; whoever stands still too long goes."""
        if not self._clients:
            return
        now, shown = time.monotonic(), self._board.look()
        news = (shown.record.state, shown.record.reason, shown.record.frame_id)
        for client in list(self._clients.values()):
            since = min(client.began if client.arriving else now, client.moved if client.leaving else now)
            if now - since > self._options.stall_s:
                self._drop(client, "stands still in the middle of a message")
            elif not client.leaving and (client.answer or client.seen != news or now - client.told > _BEAT_S):
                client.leaving = memoryview(client.answer + self._speaker.messages(shown))
                client.answer, client.seen, client.told, client.moved = b"", news, now, now
                self._attend(client, selectors.EVENT_WRITE)

    def _send(self, client: _Client) -> None:
        try:
            sent = client.link.send(client.leaving)
            client.leaving, client.moved = client.leaving[sent:], time.monotonic()
        finally:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.leaving else 0)
            self._ready.modify(client.link, wanted)

    def _drop(self, client: _Client, why: str | None = None) -> None:
        if self._clients.pop(client.link, None) is None:
            return
        self._ready.unregister(client.link)
        client.link.close()
        if why is not None:
            self.dropped.append(why)
            self._say(f"OpenIGTLink: a client was dropped: {why}")
