"""An OpenIGTLink server for 3D Slicer and other clients, on loopback by default. No client can delay another.

One thread serves all clients without blocking. Each client has at most one unread message: the next one is built when
the client has read the one before, as far as the system reports it (see `pacing`). A mask is sent as fresh only if the
client read its last messages fast enough for the mask to be within the budget when it is read.

A message that declares a mask fresh is sent in two pieces: first `protocol.HEAD_BYTES` bytes, which do not depend on
the state, and, once the client has read them, the rest, with the state of that moment. So a client that pauses between
two messages never reads an old state. A client that waits for a whole header before it reads anything gets whole
messages after a few attempts.

A client that sends STP_IMAGE gets nothing more until it sends GET_IMAGE (or any other GET_), which is answered with the
current mask, state and status; STT_IMAGE starts the continuous transfer again.

The protocol has no password and no encryption: everyone who can connect to the port can read the masks.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from deploy.stream.igtl import protocol
from deploy.stream.outputs.base import OutputContext
from deploy.stream.outputs.igtl_client import Client
from deploy.stream.outputs.igtl_messages import MessageBuilder, Origin
from deploy.stream.outputs.igtl_options import IgtlOptions, listen
from deploy.stream.outputs.pacing import SLOW, UNKNOWN, is_observable, unread_bytes, withhold_reason
from deploy.stream.state.display_state import DisplayState
from deploy.stream.state.frames import DisplaySnapshot, InferenceResult, MaskStatus

_HEARTBEAT_S = 1.0  # maximum time between messages, so that clients can detect a dead server
_PROBE_S = 0.03  # between two messages to a client whose speed has to be measured again
_TICK_S = 0.001
_UNREAD_STALLS = 2  # a message that was sent completely may stay unread for this many times `stall_s`
_SEND_BYTES = 1 << 15  # send buffer of the system for one client; the system doubles the number
_KINDS = ("image", "state", "status")  # the messages of one round, in this order
_HEAD_S = 0.25  # how long the head of a message may stay unread; then the rest follows and declares nothing fresh
_WHOLE_READ_S = 0.05  # a client that reads a late message within this time was waiting for the whole of it


def open_igtl(argument: str, context: OutputContext) -> IgtlServer:
    """The server for `igtl`, `igtl:PORT` or `igtl:HOST:PORT`."""
    host, _, port = argument.rpartition(":")
    if not (port or "0").isdigit():
        raise ValueError(f"output igtl:{argument}: write igtl, igtl:PORT or igtl:HOST:PORT")
    options = IgtlOptions(host=(host or "127.0.0.1").strip("[]"), port=int(port or protocol.PORT))
    origin = getattr(getattr(context, "source", None), "origin", None)  # an OpenIGTLink source has image positions
    return IgtlServer(context.display_state, options=options, origin=origin, log=_warn)


def _warn(text: str) -> None:
    print(f"edgemt: warning: {text}", file=sys.stderr, flush=True)


class IgtlServer:
    """Sends snapshots of the display state to all clients. Raises ValueError if it cannot listen.

    `origin` gives the image message and time stamp that a frame came with; `log` gets one line per dropped client.
    """

    def __init__(
        self, display_state: DisplayState, *, options: IgtlOptions | None = None, origin: Origin | None = None,
        log: Callable[[str], None] = lambda text: None,
    ) -> None:  # fmt: skip
        self._options = options or IgtlOptions()
        self._display_state, self._log = display_state, log
        self._builder = MessageBuilder(version=self._options.version, origin=origin)
        self._listener = listen(self._options)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self.port = self.address[1]
        self._clients: dict[socket.socket, Client] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._closing = False
        self.disconnect_reasons: list[str] = []  # one per client that the server disconnected
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._serve, self._watch)]
        for thread in self._threads:
            thread.start()

    @property
    def num_clients(self) -> int:
        return len(self._clients)

    def close(self) -> None:
        self._closing = True
        self._wake()
        for thread in self._threads:
            thread.join(2)

    def _watch(self) -> None:
        state, version = self._display_state, -1
        while not self._closing:
            version = state.wait(version, min(state.seconds_until_change(state.snapshot()), _HEARTBEAT_S / 2))
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # with a full buffer the server thread is awake already
            self._wake_writer.send(b"\0")

    def _serve(self) -> None:
        while not self._closing:
            timeout_s = self._select_timeout_s()
            if timeout_s < _TICK_S:  # below the resolution of the selector
                time.sleep(timeout_s)
                timeout_s = 0.0
            for key, events in self._selector.select(timeout_s):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._wake_reader:
                    with contextlib.suppress(BlockingIOError):
                        self._wake_reader.recv(4096)
                elif (client := self._clients.get(key.fileobj)) is not None:  # type: ignore[call-overload]
                    self._handle_events(client, events)
            self._send_due()
        for client in list(self._clients.values()):
            self._disconnect(client)
        for connection in (self._listener, self._wake_reader, self._wake_writer):
            connection.close()
        self._selector.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if len(self._clients) >= self._options.max_clients:
            connection.close()
            self.disconnect_reasons.append("too many clients")
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        observable = is_observable(connection)
        if not observable:  # limit the bytes that the system buffers for the client
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 1)
        self._clients[connection] = Client(connection, observable=observable)
        self._selector.register(connection, selectors.EVENT_READ)

    def _handle_events(self, client: Client, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                self._receive(client)
            if events & selectors.EVENT_WRITE and client.connection in self._clients:  # _receive may disconnect it
                self._send(client)
        except protocol.WireError as error:
            self._disconnect(client, str(error))
        except BlockingIOError:
            pass
        except OSError as error:
            self._disconnect(client, type(error).__name__)

    def _receive(self, client: Client) -> None:
        data = client.connection.recv(1 << 16)
        if not data:
            self._disconnect(client)
            return
        client.rx_started = client.rx_started if client.rx_buffer else time.monotonic()
        client.rx_buffer += data
        while len(client.rx_buffer) >= protocol.HEADER.size:
            header = protocol.read_header(client.rx_buffer[: protocol.HEADER.size], max_bytes=self._options.max_bytes)
            end = protocol.HEADER.size + header.size
            if len(client.rx_buffer) < end:
                return
            body = bytes(client.rx_buffer[protocol.HEADER.size : end])
            del client.rx_buffer[:end]
            client.rx_started = time.monotonic()
            self._answer(client, header, body)

    def _answer(self, client: Client, header: protocol.Header, body: bytes) -> None:
        try:
            protocol.read_content(header, body)
        except protocol.WireError as error:
            client.num_errors += 1
            if client.num_errors > self._options.max_errors:
                raise
            client.answer = self._builder.pack_status(protocol.Status(protocol.CHECKSUM, "damaged", str(error)))
            return
        if header.kind.startswith("GET_"):
            client.requested = True
        elif header.kind.startswith(("STP_", "STT_")):
            client.subscribed = header.kind.startswith("STT_")

    def _send_due(self) -> None:
        """Send the next message to every client that has read the one before; disconnect stalled clients."""
        for client in list(self._clients.values()):
            now = time.monotonic()
            if client.pace.in_flight and not client.tx_buffer:
                self._check_unread(client, now)
            receiving_s = now - client.rx_started if client.rx_buffer else 0.0
            unread_s = client.pace.waited_s(now) / (1 if client.tx_buffer else _UNREAD_STALLS)
            if max(receiving_s, unread_s) > self._options.stall_s:
                self._disconnect(client, "stalled in the middle of a message")
            elif client.idle:
                self._send_next(client, now)

    def _check_unread(self, client: Client, now: float) -> None:
        """Check whether the last message was read; if only its head was sent, send the rest."""
        unread = unread_bytes(client.connection)
        if not client.head_sent:
            client.pace.update(now, unread)
            if not unread and client.late_since:
                client.num_whole_reads = client.num_whole_reads + 1 if now - client.late_since < _WHOLE_READ_S else 0
                client.late_since = 0.0
        elif not unread or client.pace.waited_s(now) > _HEAD_S:
            kind, client.head_sent = client.head_sent, ""
            client.late_since = now if unread else 0.0
            client.num_whole_reads = client.num_whole_reads if unread else 0
            client.tx_buffer = memoryview(self._rest_of_message(client, kind, late=unread > 0))[protocol.HEAD_BYTES :]
            self._handle_events(client, selectors.EVENT_WRITE)

    def _rest_of_message(self, client: Client, kind: str, *, late: bool) -> bytes:
        """The message whose head was sent, with the state of this moment.

        After a mask that is no longer fresh, a whole new round follows, with a newer or an empty mask.
        """
        snapshot = self._snapshot_for(client, client.round_mask, pending=(kind, *client.pending))
        if late:
            snapshot = replace(snapshot, status=MaskStatus("stale", SLOW, snapshot.status.model), result=None)
        if kind == "image":
            client.round_mask = snapshot.result
            return self._builder.image_message(snapshot)
        if snapshot.result is None:
            client.pending = list(_KINDS)
        return self._pack(kind, snapshot.status)

    def _send_next(self, client: Client, now: float) -> None:
        kind, data, client.answer = "status", client.answer, b""
        fresh = False
        while not data:
            if not client.pending and not self._begin_round(client, now):
                return
            kind, data, fresh = self._next_message(client, client.pending.pop(0))
        if fresh and client.split_messages:
            client.head_sent, data = kind, data[: protocol.HEAD_BYTES]
        client.tx_buffer = memoryview(data)
        client.pace.sent(now, kind)
        self._handle_events(client, selectors.EVENT_WRITE)

    def _begin_round(self, client: Client, now: float) -> bool:
        """Fill `client.pending` if a round of messages is due. Whether it is."""
        status = self._snapshot_for(client, None, pending=_KINDS).status
        current, since = (status.state, status.reason, status.frame_id), now - client.round_started
        if client.subscribed:
            probe = status.reason == UNKNOWN or (status.reason == SLOW and since > _PROBE_S)
            due = client.requested or current != client.last_sent or probe or since > 0.9 * _HEARTBEAT_S
        else:
            due = client.requested
        if due:
            client.requested, client.last_sent, client.round_started = False, current, now
            client.pending, client.round_mask = ["status"] if status.reason == UNKNOWN else list(_KINDS), None
        return due

    def _next_message(self, client: Client, kind: str) -> tuple[str, bytes, bool]:
        """(kind, message, whether it declares a mask fresh), with the state of this moment.

        A state message describes the mask that was sent before it. If that mask is no longer fresh, or another one is,
        an image message is sent first again.
        """
        snapshot = self._snapshot_for(client, client.round_mask, pending=(kind, *client.pending))
        if kind == "image" or (client.round_mask is not snapshot.result and snapshot.status.reason != UNKNOWN):
            client.round_mask, client.pending = snapshot.result, ["state", "status"]
            declares_fresh = snapshot.result is not None and self._options.version > 1  # in its metadata
            return "image", self._builder.image_message(snapshot), declares_fresh
        return kind, self._pack(kind, snapshot.status), snapshot.status.state == "fresh"

    def _pack(self, kind: str, status: MaskStatus) -> bytes:
        if kind == "state":
            return self._builder.state_message(status, now_ns=self._display_state.clock())
        return self._builder.status_message(status)

    def _snapshot_for(self, client: Client, mask: InferenceResult | None, *, pending: Sequence[str]) -> DisplaySnapshot:
        """A snapshot of `mask` (None: the newest one), without the mask if that will be too old for the client.

        It is too old if it will exceed the budget before the client has read the `pending` kinds of message.
        """
        snapshot = self._display_state.snapshot(mask)
        if snapshot.result is None or snapshot.status.valid_until_ns is None or not client.subscribed:
            return snapshot
        remaining_s = (snapshot.status.valid_until_ns - self._display_state.clock()) / 1e9
        budget_s = self._display_state.limits.budget_ms / 1e3
        why = withhold_reason(client.pace, *pending, remaining_s=remaining_s, budget_s=budget_s)
        if not why:
            return snapshot
        return replace(snapshot, status=MaskStatus("stale", why, snapshot.status.model), result=None)

    def _select_timeout_s(self) -> float:
        """How long to wait for events. No event signals that a client read its message, so it is polled."""
        now, timeout = time.monotonic(), _HEARTBEAT_S
        for client in self._clients.values():
            if client.pace.in_flight and not client.tx_buffer:
                timeout = min(timeout, max(0.0002, min(client.pace.waited_s(now) / 4, 0.01)))
            elif client.last_sent[1] == SLOW:
                timeout = min(timeout, _PROBE_S)
        return timeout

    def _send(self, client: Client) -> None:
        try:
            client.tx_buffer = client.tx_buffer[client.connection.send(client.tx_buffer) :]
        finally:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.tx_buffer else 0)
            self._selector.modify(client.connection, events)

    def _disconnect(self, client: Client, why: str | None = None) -> None:
        if self._clients.pop(client.connection, None) is None:
            return
        self._selector.unregister(client.connection)
        client.connection.close()
        if why is not None:
            self.disconnect_reasons.append(why)
            self._log(f"OpenIGTLink: a client was dropped: {why}")
