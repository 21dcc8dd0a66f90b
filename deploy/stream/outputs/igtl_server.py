"""Masks for 3D Slicer and whoever else speaks OpenIGTLink: a server on loopback that no client can slow down.

One thread serves all, without waiting for any. A client has one message under way: the next is made when its program
has read the one before, as far as the system can tell (see `pacing`). A mask is called fresh only to a client that has
taken its last messages quickly enough for the mask to be within the budget when it is read. What is called fresh is
sent in two pieces: the first `igtl.HEAD` bytes, which are the same whatever follows, and, once the client's program has
read them, the rest, judged at that moment. So a client that pauses between two messages reads no old state. A client
that waits for a whole header before it reads gets whole messages after a few. A client that sends
STP_IMAGE gets nothing more unless it sends GET_IMAGE (or any other GET_), which is answered with mask, state and status
of that moment; STT_IMAGE starts the sending again.

The protocol has neither password nor encryption: whoever reaches the port reads the masks.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from deploy.stream.igtl import protocol
from deploy.stream.outputs import Stage
from deploy.stream.outputs.igtl_messages import Origin, Speaker
from deploy.stream.outputs.igtl_options import IgtlOptions, listen
from deploy.stream.outputs.pacing import SLOW, UNKNOWN, Pace, is_observable, unread_bytes, withheld
from deploy.stream.state.display_state import Board
from deploy.stream.state.frames import MaskRecord, Result, Shown

_BEAT_S = 1.0  # a message at least so often, so that a client can tell a quiet server from a dead one
_PROBE_S = 0.03  # between two messages to a client whose speed has to be learned anew
_TICK_S = 0.001
_UNREAD_STALLS = 2  # a message that arrived whole may lie unread for so many times `stall_s`
_SEND_BYTES = 1 << 15  # what the system holds for a client; it doubles the number
_PARTS = ("image", "state", "status")
_HEAD_S = 0.25  # so long the head of a message may lie unread before the rest follows, and calls nothing fresh
_WHOLE_S = 0.05  # a late message that is read so quickly was waited for as a whole
_WHOLES = 3  # such messages in a row before a client gets whole ones


@dataclass(eq=False)
class _Client:
    link: socket.socket
    began: float = 0.0  # when the message that is arriving began
    arriving: bytearray = field(default_factory=bytearray)
    leaving: memoryview = memoryview(b"")
    answer: bytes = b""
    sent_news: tuple[str, str, int | None] = ("", "", None)  # state, reason and frame that the last turn began with
    turn_at: float = 0.0  # when it began
    parts: list[str] = field(default_factory=list)  # of the turn, still to be sent
    mask_of: Result | None = None  # the mask that was sent in this turn
    pushed: bool = True  # False: it gets what it requests
    requested: bool = False
    mistakes: int = 0
    pace: Pace = field(default_factory=Pace)
    observable: bool = False  # whether the system tells what its program has not read
    begun: str = ""  # the message whose head was sent and the rest was not
    late_at: float = 0.0  # when the rest of one followed a head that was not read
    wholes: int = 0  # late ones in a row that were then read at once

    @property
    def takes_heads(self) -> bool:
        return self.observable and self.pushed and self.wholes < _WHOLES

    @property
    def idle(self) -> bool:
        """Everything sent was taken."""
        return not self.leaving and not self.pace.under_way


def open_igtl(argument: str, stage: Stage) -> IgtlServer:
    """`igtl`, `igtl:PORT` or `igtl:HOST:PORT`."""
    host, _, port = argument.rpartition(":")
    if not (port or "0").isdigit():
        raise ValueError(f"output igtl:{argument}: write igtl, igtl:PORT or igtl:HOST:PORT")
    options = IgtlOptions(host=(host or "127.0.0.1").strip("[]"), port=int(port or protocol.PORT))
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
            patience_s = self._patience_s()
            if patience_s < _TICK_S:  # finer than the selector's clock
                time.sleep(patience_s)
                patience_s = 0.0
            for key, events in self._ready.select(patience_s):
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
        observable = is_observable(link)
        if not observable:  # then what the system holds for the reader can only be little
            link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 1)
        self._clients[link] = _Client(link, observable=observable)
        self._ready.register(link, selectors.EVENT_READ)

    def _attend(self, client: _Client, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                self._receive(client)
            if events & selectors.EVENT_WRITE and client.link in self._clients:  # reading may have dropped it
                self._send(client)
        except protocol.WireError as error:
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
        while len(client.arriving) >= protocol.HEADER.size:
            header = protocol.read_header(client.arriving[: protocol.HEADER.size], most=self._options.most_bytes)
            end = protocol.HEADER.size + header.size
            if len(client.arriving) < end:
                return
            body = bytes(client.arriving[protocol.HEADER.size : end])
            del client.arriving[:end]
            client.began = time.monotonic()
            self._answer(client, header, body)

    def _answer(self, client: _Client, header: protocol.Header, body: bytes) -> None:
        try:
            protocol.read_content(header, body)
        except protocol.WireError as error:
            client.mistakes += 1
            if client.mistakes > self._options.mistakes:
                raise
            client.answer = self._speaker.status(protocol.Status(protocol.CHECKSUM, "damaged", str(error)))
            return
        if header.kind.startswith("GET_"):
            client.requested = True
        elif header.kind.startswith(("STP_", "STT_")):
            client.pushed = header.kind.startswith("STT_")

    def _tell(self) -> None:
        """Send the next message to every client that has taken the one before; drop a client that takes nothing."""
        for client in list(self._clients.values()):
            now = time.monotonic()
            if client.pace.under_way and not client.leaving:
                self._look_up(client, now)
            begun = now - client.began if client.arriving else 0.0
            unread = client.pace.waited_s(now) / (1 if client.leaving else _UNREAD_STALLS)
            if max(begun, unread) > self._options.stall_s:
                self._drop(client, "stands still in the middle of a message")
            elif client.idle:
                self._send_next(client, now)

    def _look_up(self, client: _Client, now: float) -> None:
        """Whether the message under way was read; of one whose head was, the rest follows."""
        unread = unread_bytes(client.link)
        if not client.begun:
            client.pace.update(now, unread)
            if not unread and client.late_at:
                client.wholes = client.wholes + 1 if now - client.late_at < _WHOLE_S else 0
                client.late_at = 0.0
        elif not unread or client.pace.waited_s(now) > _HEAD_S:
            part, client.begun = client.begun, ""
            client.late_at = now if unread else 0.0
            client.wholes = client.wholes if unread else 0
            client.leaving = memoryview(self._rest(client, part, late=unread > 0))[protocol.HEAD :]
            self._attend(client, selectors.EVENT_WRITE)

    def _rest(self, client: _Client, part: str, *, late: bool) -> bytes:
        """The message of a head that was sent, judged at this moment. A mask that is no longer fresh is followed by
        another, or by an empty one."""
        shown = self._view(client, self._board.look(client.mask_of), parts=(part, *client.parts))
        if late:
            shown = replace(shown, record=MaskRecord("stale", SLOW, shown.record.model), result=None)
        if part == "image":
            client.mask_of = shown.result
            return self._speaker.image(shown)
        if shown.result is None:
            client.parts = list(_PARTS)
        return self._packed(part, shown.record)

    def _send_next(self, client: _Client, now: float) -> None:
        part, data, client.answer = "status", client.answer, b""
        fresh = False
        while not data:
            if not client.parts and not self._begin_turn(client, now):
                return
            part, data, fresh = self._part(client, client.parts.pop(0))
        if fresh and client.takes_heads:
            client.begun, data = part, data[: protocol.HEAD]
        client.leaving = memoryview(data)
        client.pace.sent(now, part)
        self._attend(client, selectors.EVENT_WRITE)

    def _begin_turn(self, client: _Client, now: float) -> bool:
        """Whether there is something for this client; then its parts are laid out."""
        record = self._view(client, self._board.look(), parts=_PARTS).record
        news, since = (record.state, record.reason, record.frame_id), now - client.turn_at
        if client.pushed:
            probe = record.reason == UNKNOWN or (record.reason == SLOW and since > _PROBE_S)
            due = client.requested or news != client.sent_news or probe or since > 0.9 * _BEAT_S
        else:
            due = client.requested
        if due:
            client.requested, client.sent_news, client.turn_at = False, news, now
            client.parts, client.mask_of = ["status"] if record.reason == UNKNOWN else list(_PARTS), None
        return due

    def _part(self, client: _Client, part: str) -> tuple[str, bytes, bool]:
        """What is sent now, judged at this moment, and whether it calls a mask fresh. A state is that of the mask sent
        before it: where that mask is no longer fresh, or another is, the image comes first again."""
        shown = self._view(client, self._board.look(client.mask_of), parts=(part, *client.parts))
        if part == "image" or (client.mask_of is not shown.result and shown.record.reason != UNKNOWN):
            client.mask_of, client.parts = shown.result, ["state", "status"]
            says = shown.result is not None and self._options.version > 1  # in its metadata
            return "image", self._speaker.image(shown), says
        return part, self._packed(part, shown.record), shown.record.state == "fresh"

    def _packed(self, part: str, record: MaskRecord) -> bytes:
        if part == "state":
            return self._speaker.state(record, now_ns=self._board.clock())
        return self._speaker.status_of(record)

    def _view(self, client: _Client, shown: Shown, *, parts: Sequence[str]) -> Shown:
        """`shown` as this client may have it: without the mask if that grew too old before the client reads it."""
        if shown.result is None or shown.record.valid_until_ns is None or not client.pushed:
            return shown
        left_s = (shown.record.valid_until_ns - self._board.clock()) / 1e9
        why = withheld(client.pace, *parts, left_s=left_s, budget_s=self._board.limits.budget_ms / 1e3)
        return replace(shown, record=MaskRecord("stale", why, shown.record.model), result=None) if why else shown

    def _patience_s(self) -> float:
        """How long to wait for events: nothing signals that a reader took its message, so that is looked up."""
        now, patience = time.monotonic(), _BEAT_S
        for client in self._clients.values():
            if client.pace.under_way and not client.leaving:
                patience = min(patience, max(0.0002, min(client.pace.waited_s(now) / 4, 0.01)))
            elif client.sent_news[1] == SLOW:
                patience = min(patience, _PROBE_S)
        return patience

    def _send(self, client: _Client) -> None:
        try:
            client.leaving = client.leaving[client.link.send(client.leaving) :]
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
