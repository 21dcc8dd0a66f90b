"""An ultrasound machine through PLUS, or 3D Slicer: pictures of an OpenIGTLink server.

The machine's time stamp is kept as the source's own time; its clock is not ours, so no age is made of it alone.
Pictures that wait in the socket are old by as much as the reader was late: of those, the newest is given.
"""

from __future__ import annotations

import re
import socket
import time

import numpy as np

from deploy.stream.igtl import protocol
from deploy.stream.sources import Corrupt, Lost, Picture
from deploy.stream.state.frames import Frame

_CONNECT_S, _SILENCE_S = 2.0, 2.0
_MOST = 4096 * 2160 * 4 + (1 << 16)  # bytes of a message
_MOST_SKIPPED = 256  # messages, so that a sender who never pauses is read as well
_FORM = re.compile(r"igtl://(\[[0-9a-fA-F:]+\]|[^/:\[\]]+)(?::(\d{1,5}))?(?:/(.{1,20}))?")


class IgtlSource:
    """`igtl://HOST[:PORT][/DEVICE]`: the pictures of one device, or of the first that sends any."""

    live = True
    hz: float | None = None

    def __init__(self, text: str) -> None:
        found = _FORM.fullmatch(text)
        if found is None or not 0 < int(found[2] or protocol.PORT) < 65536:
            raise ValueError(f"source {text}: write igtl://HOST, igtl://HOST:PORT or igtl://HOST:PORT/DEVICE")
        self.name = text
        self._address = (found[1].strip("[]"), int(found[2] or protocol.PORT))
        self._device: str | None = found[3]
        self._others: set[str] = set()  # devices that sent pictures nobody asked for
        self._link: socket.socket | None = None

    def open(self) -> None:
        try:
            self._link = socket.create_connection(self._address, timeout=_CONNECT_S)
        except OSError as error:
            host, port = self._address
            why = f"nothing answers at {host}, port {port} ({error.strerror or error})"
            raise ValueError(f"source {self.name}: {why}; start its server") from None
        self._link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
        self._link = None

    def origin(self, frame: Frame) -> tuple[protocol.Image, int] | None:
        """The message that a frame came in and its time stamp, for a mask that shall lie in the same place."""
        return frame.origin if isinstance(frame.origin, tuple) else None

    def read(self) -> Picture:
        """The next picture. Raises Corrupt for a damaged one, Lost when the server is gone or talks nonsense."""
        silent_from, messages = time.monotonic(), 0
        newest: tuple[protocol.Header, bytearray] | None = None
        while True:
            try:
                header = protocol.read_header(self._exactly(protocol.HEADER.size), most=_MOST)
                body = self._exactly(header.size)
                messages += 1
                if header.kind == "IMAGE" and self._wanted(header.device):
                    newest = header, body
                if newest is None:
                    self._check(silent_from)
                elif messages >= _MOST_SKIPPED or not self._another_waits():
                    content, _ = protocol.read_content(*newest)
                    return self._picture(protocol.read_image(content), newest[0].stamp)
            except protocol.WireError as error:
                raise (Corrupt if error.resumable else Lost)(str(error)) from None
            except OSError as error:
                raise Lost("no data from the server" if isinstance(error, TimeoutError) else str(error)) from None

    def _wanted(self, device: str) -> bool:
        self._device = self._device or device
        if device != self._device:
            self._others.add(device)
        return device == self._device

    def _check(self, silent_from: float) -> None:
        if time.monotonic() - silent_from > _SILENCE_S:
            others = f"; it sends {', '.join(sorted(self._others))}" if self._others else ""
            raise Lost(f"no picture of {self._device or 'any device'}{others}")

    def _picture(self, image: protocol.Image, stamp: int) -> Picture:
        pixels = image.pixels[..., :3] if image.pixels.ndim == 3 and image.pixels.shape[2] == 4 else image.pixels
        if pixels.dtype != np.uint8 or (pixels.ndim == 3 and pixels.shape[2] != 3):
            kind = f"{pixels.dtype} {list(pixels.shape)}"
            raise ValueError(
                f"source {self.name}: sends {kind}; 8-bit grey or colour is read, let the sender convert it"
            )
        return Picture(pixels, protocol.nanoseconds_of(stamp), (image, stamp))

    def _another_waits(self) -> bool:
        """Whether a whole message lies in the socket already."""
        link = self._link
        if link is None:
            return False
        link.setblocking(False)
        try:
            head = link.recv(protocol.HEADER.size, socket.MSG_PEEK)
            if len(head) < protocol.HEADER.size:
                return False
            whole = protocol.HEADER.size + protocol.read_header(head, most=_MOST).size
            return len(link.recv(whole, socket.MSG_PEEK)) == whole
        except (protocol.WireError, OSError):  # whatever it is, the next read says it
            return False

    def _exactly(self, count: int) -> bytearray:
        link = self._link
        if link is None:
            raise Lost("not connected")
        data = bytearray(count)
        view, until = memoryview(data), time.monotonic() + _SILENCE_S
        while view:
            link.settimeout(max(until - time.monotonic(), 0.001))
            got = link.recv_into(view)
            if not got:
                raise Lost("the server closed the connection")
            view = view[got:]
        return data
