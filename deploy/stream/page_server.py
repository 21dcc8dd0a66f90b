"""The socket under the live page: where it listens, under which names, and how many it speaks to at a time."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
from http.server import ThreadingHTTPServer
from typing import Any

from deploy.stream.correcting import Correcting
from deploy.stream.page_looks import Looks

_CONNECTIONS = 16
_RECENT_S = 3.0  # since a page looked last


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
        self._peers: set[Any] = set()
        self._watching: dict[Any, float] = {}
        self._free = threading.BoundedSemaphore(_CONNECTIONS)
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

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        self._peers.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._peers.discard(request)
            self._watching.pop(request, None)
            self._free.release()

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
