"""The socket under the live page: where it listens, under which names, and how many it speaks to at a time.

A connection that has not shown the token yet gives way to a new one: slow or idle connections cannot lock a page out.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any

from deploy.stream.correction.session import Correcting
from deploy.stream.web.updates import Looks

_CONNECTIONS = 16  # at a time
_UNPROVEN = 8  # of these, from one address without the token
_READ_S = 5.0  # for a whole request, from the end of the one before
_RECENT_S = 3.0  # since a page looked last


@dataclass(eq=False)
class _Peer:
    request: Any  # its socket
    address: str
    began: float = field(default_factory=time.monotonic)
    since: float = field(default_factory=time.monotonic)  # when the request that is read now was begun to be waited for
    reading: bool = True
    proven: bool = False


class PageServer(ThreadingHTTPServer):
    """A thread a page, a few at most."""

    daemon_threads = True
    block_on_close = False
    correcting: Correcting | None = None

    def __init__(
        self, address: tuple[str, int], handler: Any, *, token: str, looks: Looks, about: dict[str, Any]
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.token, self.looks, self.about = token, looks, about
        self._peers: dict[Any, _Peer] = {}
        self._watching: dict[Any, float] = {}
        self._lock = threading.Lock()
        try:
            super().__init__(address, handler)
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            where = f"{address[0]}:{address[1]}"
            raise ValueError(
                f"output page:{where}: cannot listen ({why}); name another port, or 0 for a free one"
            ) from None
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        also = ["localhost"] if ipaddress.ip_address(address[0]).is_loopback else []
        self.host_names = [f"{name}:{self.server_address[1]}" for name in (host, *also)]
        if self.server_address[1] == 80:  # which browsers leave out
            self.host_names += [host, *also]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            strangers = [peer for peer in self._peers.values() if not peer.proven]
            same = [peer for peer in strangers if peer.address == client_address[0]]
            full = strangers if len(self._peers) >= _CONNECTIONS else same if len(same) >= _UNPROVEN else None
            if full is not None:
                if not full:  # sixteen pages that have shown the token
                    return self.shutdown_request(request)
                self._hang_up(min(full, key=lambda peer: peer.began))
            self._peers[request] = _Peer(request, client_address[0])
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._peers.pop(request, None)
            self._watching.pop(request, None)

    def service_actions(self) -> None:
        """Called many times a second: whoever takes too long over a request goes."""
        now = time.monotonic()
        with self._lock:
            for peer in [peer for peer in self._peers.values() if peer.reading and now - peer.since > _READ_S]:
                self._hang_up(peer)

    def reads(self, request: Any) -> None:
        """The next request of this connection is waited for from now on."""
        if (peer := self._peers.get(request)) is not None:
            peer.since, peer.reading = time.monotonic(), True

    def has_read(self, request: Any) -> None:
        """A whole request came."""
        if (peer := self._peers.get(request)) is not None:
            peer.reading = False

    def proves(self, request: Any) -> None:
        """The token came with a request."""
        if (peer := self._peers.get(request)) is not None:
            peer.proven = True

    def _hang_up(self, peer: _Peer) -> None:
        """Its thread ends by itself; its place is free at once."""
        self._peers.pop(peer.request, None)
        with contextlib.suppress(OSError):
            peer.request.shutdown(socket.SHUT_RDWR)

    def looking(self, peer: Any, *, told_end: bool = False) -> None:
        """A page requests a look, or was sent the one that tells the end of the stream."""
        if told_end:
            self._watching.pop(peer, None)
        else:
            self._watching[peer] = time.monotonic()

    @property
    def watched(self) -> bool:
        """Whether a page that looked lately was not sent the end of the stream yet."""
        return any(time.monotonic() - at < _RECENT_S for at in list(self._watching.values()))

    def hang_up(self) -> None:
        """On everyone: a page must see at once that nothing comes any more."""
        for peer in list(self._peers):
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A page that was closed in the middle of an answer is no news."""


def listening_place(host: str, port: int) -> tuple[str, int]:
    """Raises ValueError for what is no address of its own: a name, or every network at once."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
    except ValueError:
        raise ValueError(
            f"output page:{host}:{port}: {host!r} is no address; write 127.0.0.1, or one of this machine"
        ) from None
    if address.is_unspecified:
        raise ValueError(f"output page:{host}:{port}: means every network; write the address of the one it shall be")
    return str(address), port
