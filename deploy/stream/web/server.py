"""The HTTP server of the live page: its address, the accepted host names, and the limits on connections.

A connection that has not sent the token yet is dropped for a new one if there are too many, so slow or idle connections
cannot block a page.
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

from deploy.stream.correction.session import CorrectionSession
from deploy.stream.web.updates import PageUpdates

_MAX_CONNECTIONS = 16  # at a time
_MAX_WITHOUT_TOKEN = 8  # of these, without the token and from one address
_REQUEST_TIMEOUT_S = 5.0  # for a complete request, since the end of the last one
_VIEWER_TIMEOUT_S = 3.0  # a page without a request for this time is considered closed


@dataclass(eq=False)
class _Connection:
    request: Any  # its socket
    address: str
    opened: float = field(default_factory=time.monotonic)
    waiting_since: float = field(default_factory=time.monotonic)  # start of the wait for the current request
    reading: bool = True  # the current request is not complete yet
    has_token: bool = False


class PageServer(ThreadingHTTPServer):
    """One thread per connection. Raises ValueError, in one line, if it cannot listen."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64  # with 5, the default, a burst of connections delays the page by seconds
    corrections: CorrectionSession | None = None

    def __init__(
        self, address: tuple[str, int], handler: Any, *, token: str, updates: PageUpdates, about: dict[str, Any]
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.token, self.updates, self.about = token, updates, about
        self._connections: dict[Any, _Connection] = {}
        self._last_requests: dict[Any, float] = {}
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
        aliases = ["localhost"] if ipaddress.ip_address(address[0]).is_loopback else []
        self.host_names = [f"{name}:{self.server_address[1]}" for name in (host, *aliases)]
        if self.server_address[1] == 80:  # browsers omit this port
            self.host_names += [host, *aliases]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            without_token = [connection for connection in self._connections.values() if not connection.has_token]
            same_address = [connection for connection in without_token if connection.address == client_address[0]]
            to_drop: list[_Connection] | None = None  # candidates
            if len(self._connections) >= _MAX_CONNECTIONS:
                to_drop = without_token
            elif len(same_address) >= _MAX_WITHOUT_TOKEN:
                to_drop = same_address
            if to_drop is not None:
                if not to_drop:  # all connections have sent the token
                    return self.shutdown_request(request)
                self._drop(min(to_drop, key=lambda connection: connection.opened))
            self._connections[request] = _Connection(request, client_address[0])
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._connections.pop(request, None)
            self._last_requests.pop(request, None)

    def service_actions(self) -> None:
        """Called many times per second: drops connections whose request takes too long."""
        now = time.monotonic()
        with self._lock:
            for connection in list(self._connections.values()):
                if connection.reading and now - connection.waiting_since > _REQUEST_TIMEOUT_S:
                    self._drop(connection)

    def request_started(self, request: Any) -> None:
        """The wait for the next request of this connection starts now."""
        if (connection := self._connections.get(request)) is not None:
            connection.waiting_since, connection.reading = time.monotonic(), True

    def request_received(self, request: Any) -> None:
        """The current request is complete."""
        if (connection := self._connections.get(request)) is not None:
            connection.reading = False

    def token_shown(self, request: Any) -> None:
        """A request of this connection had the token."""
        if (connection := self._connections.get(request)) is not None:
            connection.has_token = True

    def _drop(self, connection: _Connection) -> None:
        """Shut the connection down; its thread ends by itself."""
        self._connections.pop(connection.request, None)
        with contextlib.suppress(OSError):
            connection.request.shutdown(socket.SHUT_RDWR)

    def update_requested(self, connection: Any, *, end_sent: bool = False) -> None:
        """A page requested an update, or was sent the last one, with the end of the stream."""
        if end_sent:
            self._last_requests.pop(connection, None)
        else:
            self._last_requests[connection] = time.monotonic()

    @property
    def has_viewers(self) -> bool:
        """Whether an open page was not sent the end of the stream yet."""
        return any(time.monotonic() - at < _VIEWER_TIMEOUT_S for at in list(self._last_requests.values()))

    def close_connections(self) -> None:
        """Close all connections, so that pages notice the end at once."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """No message: a page may be closed in the middle of an answer."""


def check_address(host: str, port: int) -> tuple[str, int]:
    """(address, port) to listen at. Raises ValueError for a host name, and for an address that means all networks."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
    except ValueError:
        raise ValueError(
            f"output page:{host}:{port}: {host!r} is no address; write 127.0.0.1, or another address of this machine"
        ) from None
    if address.is_unspecified:
        raise ValueError(f"output page:{host}:{port}: means every network; write the address of one network")
    return str(address), port
