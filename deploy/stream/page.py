"""The live page: video, masks with their age, on this machine, for whoever has its address. Nothing is fetched from
elsewhere and nothing is stored.

The address holds a random token; without it, or under another host name (as a page from outside would come after DNS
rebinding), everything is refused. A page asks for the next look and the answer waits until there is one, so that at
most one picture is under way to it and a slow page gets fewer, never older ones.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import secrets
import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from deploy.stream.outputs import Stage
from deploy.stream.page_looks import Encode, Looks
from deploy.stream.recording import under_way

_SCRIPT = "text/javascript; charset=utf-8"
_FILES = {  # what may be asked for -> the file in web/ and its type
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    **{name: (name, _SCRIPT) for name in ("page.js", "looks.js", "figures.js", "contour.js")},
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_WAIT_S = 0.4  # an answer comes so often even when nothing happens: silence means that we are gone
_CONNECTIONS = 16


def open_page(argument: str, stage: Stage) -> Page:
    """`page`, `page:PORT` or `page:HOST:PORT`. Says the address on stderr."""
    host, _, port = argument.rpartition(":")
    if not (port or "0").isdigit():
        raise ValueError(f"output page:{argument}: write page, page:PORT or page:HOST:PORT")
    page = Page(stage, host=host or "127.0.0.1", port=int(port or 0))
    print(f"edgemt: page: {page.address}", file=sys.stderr, flush=True)
    return page


class Page:
    """Serves until it is closed. Raises ValueError, in one line, where it cannot listen."""

    def __init__(
        self, stage: Stage, *, host: str = "127.0.0.1", port: int = 0, recording: Callable[[], bool] = under_way,
        encode: Encode | None = None,
    ) -> None:  # fmt: skip
        self.token = secrets.token_urlsafe(24)
        looks = Looks(
            stage.board, classes=stage.card.classes, colours=stage.colours, recording=recording, encode=encode
        )
        about = {**looks.about, "name": stage.card.name, "model": stage.board.model}
        self._server = _Server(_address(host, port), _Handler, token=self.token, looks=looks, about=about)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="edgemt-page", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def address(self) -> str:
        return f"http://{self._server.host_names[0]}/{self.token}/"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._server.hang_up()
        self._thread.join(2)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(
        self, address: tuple[str, int], handler: Any, *, token: str, looks: Looks, about: dict[str, Any]
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.token, self.looks, self.about = token, looks, about
        self._peers: set[Any] = set()
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
            self._free.release()

    def hang_up(self) -> None:
        """On everyone: a page must see at once that nothing comes any more."""
        for peer in list(self._peers):
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A page that was closed in the middle of an answer is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "EdgeMT", ""
    timeout = 10  # seconds that a peer may stand still
    wbufsize = 1 << 16  # header and body leave together
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.headers.get("Host", "") not in self.server.host_names:
            return self._refuse(421, "another host")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return self._refuse(403, "from another page")
        url = urlsplit(self.path)
        token, _, name = url.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            return self._refuse(403, "no token")
        if name in _FILES:
            file, kind = _FILES[name]
            return self._answer(200, kind, (files("deploy.stream") / "web" / file).read_bytes())
        if name == "about.json":
            return self._answer(200, "application/json", json.dumps(self.server.about).encode())
        if name == "look":
            return self._look(url.query)
        self._refuse(404, "no such page")

    def _look(self, query: str) -> None:
        try:
            said = {key: int(values[-1]) for key, values in parse_qs(query, max_num_fields=8).items()}
            seen, frame, mask = (said.get(key, -1) for key in ("seen", "frame", "mask"))
        except ValueError:
            return self._refuse(400, "numbers only")
        data = self.server.looks.next(seen=seen, frame=frame, mask=mask, wait_s=_WAIT_S)
        self._answer(200, "application/octet-stream", data)

    def _refuse(self, status: int, why: str) -> None:
        self.close_connection = True
        self._answer(status, "text/plain; charset=utf-8", f"{why}\n".encode())

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """The address holds the token, so requests are not written anywhere."""


def _address(host: str, port: int) -> tuple[str, int]:
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
    except ValueError:
        raise ValueError(
            f"output page:{host}:{port}: {host!r} is no address; write 127.0.0.1, or one of this machine"
        ) from None
    if address.is_unspecified:
        raise ValueError(f"output page:{host}:{port}: means every network; write the address of the one it shall be")
    return str(address), port
