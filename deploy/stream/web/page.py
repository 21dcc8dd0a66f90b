"""The live page: video, masks with their age, on this machine, for whoever has its address. Nothing is fetched from
elsewhere and nothing is stored.

The address holds a random token; without it, or under another host name (as a page from outside would come after DNS
rebinding), everything is refused. A page asks for the next look and the answer waits until there is one, so that at
most one picture is under way to it and a slow page gets fewer, never older ones. Where the model takes corrections, a
page may also say where it clicked; anything else that is sent to it is refused.
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

from deploy.stream.correction.session import CorrectableStage, NotHeld
from deploy.stream.outputs import Stage
from deploy.stream.outputs.recording import under_way
from deploy.stream.web.corrections import ENDPOINTS, LONGEST
from deploy.stream.web.server import PageServer, listening_place
from deploy.stream.web.updates import Encode, Looks

_SCRIPT = "text/javascript; charset=utf-8"
_FILES = {  # what may be asked for -> the file in web/ and its type
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
_GOODBYE_S = 1.5  # for pages to hear of the end of the stream
_WAIT_S = 0.4  # an answer comes so often even when nothing happens: silence means that we are gone


def source_label(name: str) -> str:
    """What a page is told of a source: of a file its name alone, of an address no password."""
    if "://" in name:
        scheme, _, rest = name.partition("://")
        place, slash, path = rest.partition("/")
        return f"{scheme}://{place.rpartition('@')[2]}{slash}{path.partition('?')[0]}"
    return name if name.startswith("/dev/") else os.path.basename(name.rstrip("/")) or name


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
        self._board = stage.board
        self.token = secrets.token_urlsafe(24)
        correcting = stage.correcting if isinstance(stage, CorrectableStage) else None
        looks = Looks(
            stage.board, classes=stage.card.classes, colours=stage.colours, recording=recording, encode=encode,
            sent=correcting.sent if correcting is not None else lambda shown: None,
        )  # fmt: skip
        about = {**looks.about, "name": stage.card.name, "model": stage.board.model}
        about["source"] = source_label(getattr(stage.source, "name", ""))
        about["correct"] = correcting.about if correcting is not None else None
        self._server = PageServer(listening_place(host, port), _Handler, token=self.token, looks=looks, about=about)
        self._server.correcting = correcting
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
        """Where the stream has ended, the pages that look are told so first; else they find nobody there."""
        if self._board.closed:
            self._server.looks.ended = True
            until = time.monotonic() + _GOODBYE_S
            while self._server.watched and time.monotonic() < until:
                time.sleep(0.01)
        self._server.shutdown()
        self._server.server_close()
        self._server.hang_up()
        self._thread.join(2)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "EdgeMT", ""
    timeout = 10  # seconds that a peer may stand still
    wbufsize = 1 << 16  # header and body leave together
    disable_nagle_algorithm = True

    def handle_one_request(self) -> None:
        self.server.reads(self.connection)
        super().handle_one_request()

    def do_GET(self) -> None:
        self.server.has_read(self.connection)
        name = self._asked_for()
        if name is None:
            return
        if name in _FILES:
            file, kind = _FILES[name]
            return self._answer(200, kind, (files("deploy.stream.web") / file).read_bytes())
        if name == "about.json":
            return self._answer(200, "application/json", json.dumps(self.server.about).encode())
        if name == "look":
            return self._look(urlsplit(self.path).query)
        self._refuse(404, "no such page")

    def do_POST(self) -> None:
        """A click, a box, or a case to keep: a little JSON, from the page itself."""
        name, correcting = self._asked_for(), self.server.correcting
        if name is None:
            return
        if correcting is None or name not in ENDPOINTS:
            return self._refuse(501, "nothing can be sent here")
        if self.headers.get("Content-Type", "").partition(";")[0] != "application/json":
            return self._refuse(415, "JSON only")
        length = self.headers.get("Content-Length", "")
        if not (length.isdecimal() and len(length) < 10 and int(length) <= LONGEST):
            return self._refuse(413, f"say at most {LONGEST} bytes, and how many")
        try:
            body = self.rfile.read(int(length))
            self.server.has_read(self.connection)
            data = ENDPOINTS[name](correcting, body, self.server.looks.picture)
        except NotHeld as error:
            return self._refuse(410, str(error))
        except ValueError as error:
            return self._refuse(400, str(error))
        self._answer(200, "application/octet-stream", data)

    def _asked_for(self) -> str | None:
        """What stands behind the token; None where that is not for whoever asks, who has been told."""
        own = {"", *(f"http://{name}" for name in self.server.host_names)}
        token, _, name = urlsplit(self.path).path.removeprefix("/").partition("/")
        site = self.headers.get("Sec-Fetch-Site", "none")
        if self.headers.get("Host", "") not in self.server.host_names:
            self._refuse(421, "another host")
        elif site not in ("none", "same-origin") or self.headers.get("Origin", "") not in own:
            self._refuse(403, "from another page")
        elif not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._refuse(403, "no token")
        else:
            self.server.proves(self.connection)
            return name
        return None

    def _look(self, query: str) -> None:
        try:
            said = {key: int(values[-1]) for key, values in parse_qs(query, max_num_fields=8).items()}
            seen, frame, mask = (said.get(key, -1) for key in ("seen", "frame", "mask"))
        except ValueError:
            return self._refuse(400, "numbers only")
        ending = self.server.looks.ended  # before the look was made: then it tells the end
        self.server.looking(self.connection)
        data = self.server.looks.next(seen=seen, frame=frame, mask=mask, wait_s=_WAIT_S)
        self._answer(200, "application/octet-stream", data)
        self.wfile.flush()
        self.server.looking(self.connection, told_end=ending)

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
