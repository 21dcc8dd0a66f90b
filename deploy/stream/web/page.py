"""The live page: video and masks with their age, in a browser, by default on this machine only.

The page loads nothing from other servers, and the server stores nothing. The address contains a random token. A request
without it, or with another host name (as after DNS rebinding), is rejected. The page requests an update, and the answer
waits until there is a new one: at most one picture is on the way, so a slow page gets fewer pictures, never older ones.
With a promptable model, the page can also send clicks and boxes; all other data is rejected.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from deploy.stream.correction.session import CorrectableOutputContext, FrameNotFrozenError
from deploy.stream.outputs.base import OutputContext, is_recording
from deploy.stream.web.corrections import ENDPOINTS, MAX_BYTES
from deploy.stream.web.server import PageServer, check_address
from deploy.stream.web.updates import EncodeFn, PageUpdates

_SCRIPT = "text/javascript; charset=utf-8"
_FILES = {  # path after the token -> the file in this folder and its type
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    **{name: (name, _SCRIPT) for name in ("page.js", "looks.js", "figures.js", "contour.js", "correct.js")},
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
_END_TIMEOUT_S = 1.5  # for pages to receive the end of the stream
_WAIT_S = 0.4  # maximum wait for a new update; without an answer for longer, the server is gone


def source_label(name: str) -> str:
    """The name of a source for the page: without the folder of a file, without the password of an address."""
    if "://" in name:
        scheme, _, address = name.partition("://")
        host, slash, path = address.partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}"
    return name if name.startswith("/dev/") else os.path.basename(name.rstrip("/")) or name


def open_page(argument: str, context: OutputContext) -> Page:
    """The page for `page`, `page:PORT` or `page:HOST:PORT`. Its address is printed on stderr."""
    host, _, port = argument.rpartition(":")
    if not (port or "0").isdigit():
        raise ValueError(f"output page:{argument}: write page, page:PORT or page:HOST:PORT")
    page = Page(context, host=host or "127.0.0.1", port=int(port or 0))
    print(f"edgemt: page: {page.address}", file=sys.stderr, flush=True)
    return page


class Page:
    """Serves until it is closed. Raises ValueError, in one line, if it cannot listen."""

    def __init__(
        self, context: OutputContext, *, host: str = "127.0.0.1", port: int = 0,
        recording: Callable[[], bool] = is_recording, encode: EncodeFn | None = None,
    ) -> None:  # fmt: skip
        self._display_state = context.display_state
        self.token = secrets.token_urlsafe(24)
        corrections = context.corrections if isinstance(context, CorrectableOutputContext) else None
        updates = PageUpdates(
            context.display_state, classes=context.card.classes, colours=context.colours, recording=recording,
            encode=encode, overlapping=context.card.overlapping,
            on_sent=corrections.offer if corrections is not None else lambda snapshot: None,
            patient=corrections.patient.status if corrections and corrections.patient else lambda: None,
        )  # fmt: skip
        about = {**updates.about, "name": context.card.name, "model": context.display_state.model}
        about["source"] = source_label(getattr(context.source, "name", ""))
        about["correct"] = corrections.about if corrections is not None else None
        self._server = PageServer(check_address(host, port), _Handler, token=self.token, updates=updates, about=about)
        self._server.corrections = corrections
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
        """Stop the server. If the stream has ended, open pages receive that first, for at most `_END_TIMEOUT_S`."""
        if self._display_state.closed:
            self._server.updates.ended = True
            deadline = time.monotonic() + _END_TIMEOUT_S
            while self._server.has_viewers and time.monotonic() < deadline:
                time.sleep(0.01)
        self._server.shutdown()
        self._server.server_close()
        self._server.close_connections()
        self._thread.join(2)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "EdgeMT", ""
    timeout = 10  # seconds without data until the connection is closed
    wbufsize = 1 << 16  # header and body are sent together
    disable_nagle_algorithm = True

    def handle_one_request(self) -> None:
        self.server.request_started(self.connection)
        super().handle_one_request()

    def do_GET(self) -> None:
        self.server.request_received(self.connection)
        name = self._checked_path()
        if name is None:
            return
        if name in _FILES:
            file, kind = _FILES[name]
            return self._respond(200, kind, (files("deploy.stream.web") / file).read_bytes())
        if name == "about.json":
            return self._respond(200, "application/json", json.dumps(self.server.about).encode())
        if name == "look":
            return self._send_update(urlsplit(self.path).query)
        self._reject(404, "no such page")

    def do_POST(self) -> None:
        """A request of `corrections.ENDPOINTS`: a small JSON object, from the page itself."""
        name, corrections = self._checked_path(), self.server.corrections
        if name is None:
            return
        if corrections is None or name not in ENDPOINTS:
            return self._reject(501, "nothing can be sent here")
        if self.headers.get("Content-Type", "").partition(";")[0] != "application/json":
            return self._reject(415, "JSON only")
        length = self.headers.get("Content-Length", "")
        if not (length.isdecimal() and len(length) < 10 and int(length) <= MAX_BYTES):
            return self._reject(413, f"send at most {MAX_BYTES} bytes, with a Content-Length")
        try:
            body = self.rfile.read(int(length))
            self.server.request_received(self.connection)
            data = ENDPOINTS[name](corrections, body, self.server.updates.encode_frame)
        except FrameNotFrozenError as error:
            return self._reject(410, str(error))
        except ValueError as error:
            return self._reject(400, str(error))
        self._respond(200, "application/octet-stream", data)

    def _checked_path(self) -> str | None:
        """The path after the token. None for a request that is not from the page; it is then rejected here."""
        own_origins = {"", *(f"http://{name}" for name in self.server.host_names)}
        token, _, name = urlsplit(self.path).path.removeprefix("/").partition("/")
        site = self.headers.get("Sec-Fetch-Site", "none")
        if self.headers.get("Host", "") not in self.server.host_names:
            self._reject(421, "another host")
        elif site not in ("none", "same-origin") or self.headers.get("Origin", "") not in own_origins:
            self._reject(403, "from another page")
        elif not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._reject(403, "no token")
        else:
            self.server.token_shown(self.connection)
            return name
        return None

    def _send_update(self, query: str) -> None:
        try:
            numbers = {key: int(values[-1]) for key, values in parse_qs(query, max_num_fields=8).items()}
            version, frame, mask = (numbers.get(key, -1) for key in ("seen", "frame", "mask"))
        except ValueError:
            return self._reject(400, "numbers only")
        ending = self.server.updates.ended  # read before the update is built: only then the update has the end
        self.server.update_requested(self.connection)
        data = self.server.updates.next(version=version, frame=frame, mask=mask, wait_s=_WAIT_S)
        self._respond(200, "application/octet-stream", data)
        self.wfile.flush()
        self.server.update_requested(self.connection, end_sent=ending)

    def _reject(self, status: int, why: str) -> None:
        self.close_connection = True
        self._respond(status, "text/plain; charset=utf-8", f"{why}\n".encode())

    def _respond(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """No log: the address contains the token."""
