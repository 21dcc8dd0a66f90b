"""A DICOMweb server of the tests."""

from __future__ import annotations

import email
import email.policy
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from typing import Any

import pydicom

DONE = (
    """<NativeDicomModel><DicomAttribute tag="00081199" vr="SQ" keyword="ReferencedSOPSequence"/></NativeDicomModel>"""
)


class Stow:
    """A DICOMweb server that takes one request after the other, read by the library of e-mail; with `tls` in https."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.status, self.body = 200, DONE
        self.stored: list[tuple[str, str, Any]] = []  # path, authorization, data set
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
                message = email.message_from_bytes(head + body, policy=email.policy.HTTP)
                for part in message.iter_parts():
                    assert part.get_content_type() == "application/dicom"
                    image = pydicom.dcmread(BytesIO(part.get_payload(decode=True)))
                    outer.stored.append((self.path, self.headers.get("Authorization", ""), image))
                self.send_response(outer.status)
                self.send_header("Content-Type", "application/dicom+xml")
                self.end_headers()
                self.wfile.write(outer.body.encode())

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_address[1]}/dicom-web"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def stow(tls: ssl.SSLContext | None = None) -> Iterator[Stow]:
    server = Stow(tls)
    try:
        yield server
    finally:
        server.close()
