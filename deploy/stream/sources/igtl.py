"""Images of an OpenIGTLink server: an ultrasound machine through PLUS, or 3D Slicer.

The time stamp of a message is stored as the source's own time. It is on the clock of another machine, so no age is
computed from it alone. Of several images that wait in the socket, only the newest is returned.
"""

from __future__ import annotations

import re
import socket
import time

import numpy as np

from deploy.stream.igtl import protocol
from deploy.stream.sources.base import CorruptFrameError, SourceFrame, SourceLostError
from deploy.stream.state.frames import Frame

_CONNECT_S, _SILENCE_S = 2.0, 2.0
_MAX_BYTES = 4096 * 2160 * 4 + (1 << 16)  # of a message
_MAX_SKIPPED = 256  # messages; a limit for senders that never pause
_FORM = re.compile(r"igtl://(\[[0-9a-fA-F:]+\]|[^/:\[\]]+)(?::(\d{1,5}))?(?:/(.{1,20}))?")


class IgtlSource:
    """`igtl://HOST[:PORT][/DEVICE]`: the images of one device, or of the first device that sends an image."""

    live = True
    hz: float | None = None

    def __init__(self, text: str) -> None:
        match = _FORM.fullmatch(text)
        if match is None or not 0 < int(match[2] or protocol.PORT) < 65536:
            raise ValueError(f"source {text}: write igtl://HOST, igtl://HOST:PORT or igtl://HOST:PORT/DEVICE")
        self.name = text
        self._address = (match[1].strip("[]"), int(match[2] or protocol.PORT))
        self._device: str | None = match[3]
        self._other_devices: set[str] = set()  # devices whose images are ignored
        self._socket: socket.socket | None = None

    def open(self) -> None:
        try:
            self._socket = socket.create_connection(self._address, timeout=_CONNECT_S)
        except OSError as error:
            host, port = self._address
            why = f"nothing answers at {host}, port {port} ({error.strerror or error})"
            raise ValueError(f"source {self.name}: {why}; start its server") from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def origin(self, frame: Frame) -> tuple[protocol.Image, int] | None:
        """The image message and time stamp of a frame, for a mask in the same position."""
        return frame.origin if isinstance(frame.origin, tuple) else None

    def read(self) -> SourceFrame:
        """The next image.

        Raises CorruptFrameError for a damaged one, SourceLostError when the server is gone or sends invalid data.
        """
        started, messages = time.monotonic(), 0
        newest: tuple[protocol.Header, bytearray] | None = None
        while True:
            try:
                header = protocol.read_header(self._exactly(protocol.HEADER.size), max_bytes=_MAX_BYTES)
                body = self._exactly(header.size)
                messages += 1
                if header.kind == "IMAGE" and self._is_selected(header.device):
                    newest = header, body
                if newest is None:
                    self._check_timeout(started)
                elif messages >= _MAX_SKIPPED or not self._next_is_complete():
                    content, _ = protocol.read_content(*newest)
                    return self._to_frame(protocol.read_image(content), newest[0].stamp)
            except protocol.WireError as error:
                raise (CorruptFrameError if error.resumable else SourceLostError)(str(error)) from None
            except OSError as error:
                raise SourceLostError(
                    "no data from the server" if isinstance(error, TimeoutError) else str(error)
                ) from None

    def _is_selected(self, device: str) -> bool:
        self._device = self._device or device
        if device != self._device:
            self._other_devices.add(device)
        return device == self._device

    def _check_timeout(self, started: float) -> None:
        if time.monotonic() - started > _SILENCE_S:
            others = f"; it sends {', '.join(sorted(self._other_devices))}" if self._other_devices else ""
            raise SourceLostError(f"no image of {self._device or 'any device'}{others}")

    def _to_frame(self, image: protocol.Image, stamp: int) -> SourceFrame:
        pixels = image.pixels[..., :3] if image.pixels.ndim == 3 and image.pixels.shape[2] == 4 else image.pixels
        if pixels.dtype != np.uint8 or (pixels.ndim == 3 and pixels.shape[2] != 3):
            kind = f"{pixels.dtype} {list(pixels.shape)}"
            raise ValueError(
                f"source {self.name}: sends {kind}; only 8-bit grey or colour can be read, convert it in the sender"
            )
        return SourceFrame(pixels, protocol.nanoseconds_of(stamp), (image, stamp))

    def _next_is_complete(self) -> bool:
        """Whether the socket has already received another complete message."""
        connection = self._socket
        if connection is None:
            return False
        connection.setblocking(False)
        try:
            head = connection.recv(protocol.HEADER.size, socket.MSG_PEEK)
            if len(head) < protocol.HEADER.size:
                return False
            num_bytes = protocol.HEADER.size + protocol.read_header(head, max_bytes=_MAX_BYTES).size
            return len(connection.recv(num_bytes, socket.MSG_PEEK)) == num_bytes
        except (protocol.WireError, OSError):  # the next read reports the error
            return False

    def _exactly(self, count: int) -> bytearray:
        connection = self._socket
        if connection is None:
            raise SourceLostError("not connected")
        data = bytearray(count)
        view, deadline = memoryview(data), time.monotonic() + _SILENCE_S
        while view:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            received = connection.recv_into(view)
            if not received:
                raise SourceLostError("the server closed the connection")
            view = view[received:]
        return data
