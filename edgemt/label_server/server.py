"""The HTTP server for label tools: on this machine only, with a token, one prediction at a time.

The token is the password of HTTP basic authentication, with any user name, which both Label Studio and CVAT can send;
or `Authorization: Bearer TOKEN`. A request without it, or with another host name (as after DNS rebinding), is rejected.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import secrets
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from edgemt.label_server.protocols import FUNCTION, INTERACTOR, LabelBackend

MAX_BYTES = 64 << 20  # of a request; an image is base64 in it
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class LabelServer(ThreadingHTTPServer):
    """Serves until it is closed. Raises ValueError, in one line, where it cannot listen.

    `log` gets one line for each rejected request: label tools show their users the status alone, not the reason.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self, backend: LabelBackend, *, port: int = 0, token: str = "", log: Callable[[str], None] | None = None
    ) -> None:
        self.backend, self.token, self.log = backend, token or secrets.token_urlsafe(24), log
        self.predicting = threading.Lock()  # runners take one batch at a time
        if not 0 <= port <= 65535:
            raise ValueError(f"port: must lie in 0 to 65535, is {port}")
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise ValueError(f"port: cannot listen at 127.0.0.1:{port} ({error.strerror}); name another port") from None
        self.host_names = tuple(f"{name}:{self.port}" for name in ("127.0.0.1", "localhost"))

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the server."""


class _Handler(BaseHTTPRequestHandler):
    server: LabelServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "EdgeMT", ""
    timeout = 30  # seconds without data until the connection is closed

    def do_GET(self) -> None:
        backend = self.server.backend
        answers: dict[str, Callable[[], Any]] = {
            "/": backend.health,
            "/health": backend.health,
            "/api/functions": backend.functions,
            f"/api/functions/{FUNCTION}": backend.function,
            f"/api/functions/{INTERACTOR}": backend.interactor,
        }
        self._answer(answers.get(self._path()))

    def do_POST(self) -> None:
        """A JSON object to one of the end points."""
        backend = self.server.backend
        answers: dict[str, Callable[[dict[str, Any]], Any]] = {
            "/setup": backend.setup,
            "/predict": backend.predict,
            "/": backend.invoke,  # CVAT, where it calls a function directly
            "/api/function_invocations": backend.invoke,
        }
        answer = answers.get(self._path())
        self._answer(None if answer is None else partial(self._with_body, answer))

    def _path(self) -> str:
        return urlsplit(self.path).path.rstrip("/") or "/"

    def _answer(self, call: Callable[[], Any] | None) -> None:
        if self.headers.get("Host", "") not in self.server.host_names:
            return self._reject(421, "another host")
        if not self._has_token():
            return self._reject(401, "no token", {"WWW-Authenticate": 'Basic realm="edgemt"'})
        if call is None:
            return self._reject(404, "no such end point")
        try:
            found = call()
        except _TooLargeError as error:
            return self._reject(413, str(error))
        except (ValueError, OSError) as error:
            return self._reject(400, " ".join(str(error).split()))
        except Exception as error:  # of a runtime: the client gets an answer, and the server goes on
            return self._reject(500, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        self._respond(200, "application/json", json.dumps(found).encode())

    def _with_body(self, answer: Callable[[dict[str, Any]], Any]) -> Any:
        body = self._body()  # before the lock: a slow client does not delay the others
        with self.server.predicting:
            return answer(body)

    def _has_token(self) -> bool:
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "basic":
            try:
                value = base64.b64decode(value, validate=True).decode().partition(":")[2]
            except (binascii.Error, ValueError):
                return False
        elif kind.lower() != "bearer":
            return False
        return hmac.compare_digest(value.strip().encode(), self.server.token.encode())

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not (length.isdecimal() and len(length) < 12 and int(length) <= MAX_BYTES):
            raise _TooLargeError(f"send at most {MAX_BYTES} bytes, with a Content-Length")
        try:
            found = json.loads(self.rfile.read(int(length)) or b"{}")
        except (TimeoutError, RecursionError, UnicodeDecodeError, json.JSONDecodeError):
            raise ValueError("the request is not whole JSON") from None
        if not isinstance(found, dict):
            raise ValueError("the request is no JSON object")
        return found

    def _reject(self, status: int, why: str, headers: dict[str, str] | None = None) -> None:
        self.close_connection = True
        if self.server.log is not None:
            self.server.log(f"rejected {self.command} {self._path()[:80]!r}: {why}")
        self._respond(status, "text/plain; charset=utf-8", f"{why}\n".encode(), headers)

    def _respond(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        more = {**_HEADERS, **(headers or {}), "Content-Type": kind, "Content-Length": str(len(body))}
        for name, value in more.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """No log of what is answered: requests name images of patients."""


class _TooLargeError(ValueError):
    """A request that is not read."""
