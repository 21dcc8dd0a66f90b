"""Display snapshots as messages for the page: JSON, the picture as JPEG, and the raw mask.

The page draws the mask itself, so the viewer can choose classes and opacity. It removes the mask by its own clock when
no message arrives. A picture or a mask that the page has already is not sent again.

    4 bytes: length of the JSON, big-endian | JSON | JPEG | mask, one byte per pixel | lines, one bit per pixel

Lines are the uncertain region and the outer and inner regions of the classes, in the order of `lines` in the JSON, each
padded to a byte.

Shapes: H W of the picture, h w of the mask.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from deploy.stream.state.display_state import DisplayState
from deploy.stream.state.frames import DisplaySnapshot, Frame
from deploy.stream.state.overlay import Colour

QUALITY = 88  # of the JPEG
EncodeFn = Callable[[np.ndarray], bytes]


def jpeg_encoder() -> EncodeFn:
    """OpenCV's encoder if it is installed, because it releases the interpreter lock; else Pillow's."""
    try:
        import cv2
    except ImportError:
        return _encode_with_pillow
    return lambda pixels: _encode_with_opencv(cv2, pixels)


class PageUpdates:
    """Builds the messages for any number of pages. A picture is compressed once, and only on request."""

    def __init__(
        self, display_state: DisplayState, *, classes: Sequence[str], colours: Sequence[Colour],
        recording: Callable[[], bool], encode: EncodeFn | None = None, overlapping: bool = False,
        on_sent: Callable[[DisplaySnapshot], None] = lambda snapshot: None,
        patient: Callable[[], dict[str, Any] | None] = lambda: None,
    ) -> None:  # fmt: skip
        """`on_sent` is called with every snapshot before it is sent. `patient` gives the status of the patient head."""
        self._display_state, self._recording, self._on_sent = display_state, recording, on_sent
        self._patient = patient
        self._encode = encode or jpeg_encoder()
        foreground = list(zip(classes, colours, strict=False))[1:]
        self.about: dict[str, Any] = {
            "classes": [{"name": name, "colour": "#{:02x}{:02x}{:02x}".format(*colour)} for name, colour in foreground],
            "budget_ms": display_state.limits.budget_ms,
            "no_signal_ms": display_state.limits.no_signal_ms,
            "claim": display_state.claim,
            "uncertain_above": display_state.uncertain_above,
            "overlapping": overlapping,
        }
        self.ended = False  # part of every message
        self._lock = threading.Lock()
        self._jpeg: tuple[int, bytes] = (-1, b"")

    def next(self, *, version: int, frame: int, mask: int, wait_s: float) -> bytes:
        """The next message: wait until the display state is newer than `version`, at most `wait_s`.

        `frame` and `mask` are the ids of the picture and the mask that the page has, -1 for none.
        """
        state, started = self._display_state, self._display_state.clock()
        wait_s = 0.0 if self.ended else min(wait_s, state.seconds_until_change(state.snapshot()))
        version = state.wait(version, wait_s)
        snapshot, jpeg = self._snapshot_with_jpeg(frame)
        self._on_sent(snapshot)
        record, mask_bytes = snapshot.status.to_json(), b""
        regions: list[tuple[dict[str, Any], bytes]] = []
        if snapshot.status.mask is not None:
            record["mask_size"] = list(snapshot.status.mask.shape)
            if snapshot.status.frame_id != mask:
                mask_bytes = np.ascontiguousarray(snapshot.status.mask).tobytes()
                regions = _regions(snapshot)
        data = {
            "seen": version,
            "waited_ms": round((state.clock() - started) / 1e6, 3),
            "record": record,
            "picture": _picture_info(snapshot.frame, state.clock()),
            "recording": self._recording(),
            "ended": self.ended,
            "patient": self._patient(),
            "lines": [about for about, _ in regions],
        }
        return pack_message(data, jpeg, mask_bytes, b"".join(bits for _, bits in regions))

    def encode_frame(self, frame: Frame) -> bytes:
        """Any frame as JPEG, as it is sent to a page."""
        return self._encode(frame.pixels)

    def _snapshot_with_jpeg(self, known_frame: int) -> tuple[DisplaySnapshot, bytes]:
        """A snapshot, and its picture as JPEG unless it has the id `known_frame`.

        Compression takes time, so the status of the mask is taken afterwards, for the same picture.
        """
        while True:
            snapshot = self._display_state.snapshot()
            if snapshot.frame is None or snapshot.frame.id == known_frame:
                return snapshot, b""
            jpeg = self._encode_once(snapshot.frame)
            latest, frame = self._display_state.snapshot(), snapshot.frame
            if latest.frame is not None and (latest.frame.epoch, latest.frame.size) == (frame.epoch, frame.size):
                return replace(latest, frame=frame), jpeg

    def _encode_once(self, frame: Frame) -> bytes:
        with self._lock:
            if self._jpeg[0] != frame.id:
                self._jpeg = (frame.id, self._encode(frame.pixels))
            return self._jpeg[1]


def _regions(snapshot: DisplaySnapshot) -> list[tuple[dict[str, Any], bytes]]:
    """({"class": value, "outer": bool}, or {"uncertain": true}, and bits) of each region of the mask that is shown."""
    marks = snapshot.result.marks if snapshot.result is not None else None
    if marks is None:
        return []
    unsure = marks.uncertain
    hatched = [] if unsure is None else [({"uncertain": True}, np.packbits(unsure).tobytes())]
    return hatched + [
        ({"class": band.value, "outer": region is band.outer}, np.packbits(region).tobytes())
        for band in marks.bands
        for region in (band.outer, band.inner)
        if region is not None
    ]


def pack_message(data: dict[str, Any], jpeg: bytes, mask_bytes: bytes, line_bytes: bytes = b"") -> bytes:
    """One message of JSON, picture and mask, in the format of the module's docstring."""
    text = json.dumps({**data, "jpeg_bytes": len(jpeg), "mask_bytes": len(mask_bytes)}).encode()
    return len(text).to_bytes(4, "big") + text + jpeg + mask_bytes + line_bytes


def _picture_info(frame: Frame | None, now_ns: int) -> dict[str, Any] | None:
    if frame is None:
        return None
    return {"id": frame.id, "age_ms": round((now_ns - frame.captured_ns) / 1e6, 3), "size": list(frame.size)}


def _encode_with_opencv(cv2: Any, pixels: np.ndarray) -> bytes:
    factor = _shrink_factor(pixels, max_side=1920)
    if factor > 1:
        size = (pixels.shape[1] // factor, pixels.shape[0] // factor)
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1])


def _encode_with_pillow(pixels: np.ndarray) -> bytes:
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.reduce(_shrink_factor(pixels, max_side=1280)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _shrink_factor(pixels: np.ndarray, *, max_side: int) -> int:
    """Integer factor by which the picture must shrink so that its longer side is at most `max_side`."""
    return -(-max(pixels.shape[:2]) // max_side)
