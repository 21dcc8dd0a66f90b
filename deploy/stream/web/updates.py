"""One look at the board as the bytes that the page is sent: JSON, the picture as JPEG, the mask as it is.

The page draws the mask itself, so that colours and opacity are the viewer's affair, and takes it away by its own clock
when nothing comes any more. What the page has already is not sent again.

    4 bytes: length of the JSON, big-endian | JSON | JPEG | mask, one byte a pixel

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

from deploy.stream.state.display_state import Board
from deploy.stream.state.frames import Frame, Shown
from deploy.stream.state.overlay import Colour

QUALITY = 88  # of the JPEG
Encode = Callable[[np.ndarray], bytes]


def jpeg_encoder() -> Encode:
    """OpenCV's where it is installed: it lets other threads run meanwhile, Pillow's does not."""
    try:
        import cv2
    except ImportError:
        return _pillow
    return lambda pixels: _opencv(cv2, pixels)


class Looks:
    """Makes looks for any number of pages; a picture is compressed once, and only when somebody asks."""

    def __init__(
        self, board: Board, *, classes: Sequence[str], colours: Sequence[Colour], recording: Callable[[], bool],
        encode: Encode | None = None, sent: Callable[[Shown], None] = lambda shown: None,
    ) -> None:  # fmt: skip
        self._board, self._recording, self._encode, self._sent = board, recording, encode or jpeg_encoder(), sent
        shown = list(zip(classes, colours, strict=False))[1:]
        self.about: dict[str, Any] = {
            "classes": [{"name": name, "colour": "#{:02x}{:02x}{:02x}".format(*colour)} for name, colour in shown],
            "budget_ms": board.limits.budget_ms,
            "no_signal_ms": board.limits.no_signal_ms,
        }
        self.ended = False  # told to every page that asks
        self._lock = threading.Lock()
        self._jpeg: tuple[int, bytes] = (-1, b"")

    def next(self, *, seen: int, frame: int, mask: int, wait_s: float) -> bytes:
        """Sleeps until there is something newer than `seen`, or for `wait_s`. `frame` and `mask`: ids the page has."""
        clock, came = self._board.clock, self._board.clock()
        wait_s = 0.0 if self.ended else min(wait_s, self._board.next_change_s(self._board.look()))
        version = self._board.wait(seen, wait_s)
        shown, jpeg = self._with_picture(frame)
        self._sent(shown)
        record, grid = shown.record.to_json(), b""
        if shown.record.mask is not None:
            record["mask_size"] = list(shown.record.mask.shape)
            grid = b"" if shown.record.frame_id == mask else np.ascontiguousarray(shown.record.mask).tobytes()
        said = {
            "seen": version,
            "waited_ms": round((clock() - came) / 1e6, 3),
            "record": record,
            "picture": _picture(shown.frame, clock()),
            "recording": self._recording(),
            "ended": self.ended,
        }
        return packed(said, jpeg, grid)

    def picture(self, frame: Frame) -> bytes:
        """Any frame as the JPEG that a page is sent."""
        return self._encode(frame.pixels)

    def _with_picture(self, had: int) -> tuple[Shown, bytes]:
        """Compressing takes a while: what is said of the mask is judged again afterwards, for the same picture."""
        while True:
            shown = self._board.look()
            if shown.frame is None or shown.frame.id == had:
                return shown, b""
            jpeg = self._compressed(shown.frame)
            now = self._board.look()
            if now.frame is not None and (now.frame.epoch, now.frame.size) == (shown.frame.epoch, shown.frame.size):
                return replace(now, frame=shown.frame), jpeg

    def _compressed(self, frame: Frame) -> bytes:
        with self._lock:
            if self._jpeg[0] != frame.id:
                self._jpeg = (frame.id, self._encode(frame.pixels))
            return self._jpeg[1]


def packed(said: dict[str, Any], jpeg: bytes, grid: bytes) -> bytes:
    """JSON, picture and mask in one, as at the top of this file."""
    text = json.dumps({**said, "jpeg_bytes": len(jpeg), "mask_bytes": len(grid)}).encode()
    return len(text).to_bytes(4, "big") + text + jpeg + grid


def _picture(frame: Frame | None, now_ns: int) -> dict[str, Any] | None:
    if frame is None:
        return None
    return {"id": frame.id, "age_ms": round((now_ns - frame.captured_ns) / 1e6, 3), "size": list(frame.size)}


def _opencv(cv2: Any, pixels: np.ndarray) -> bytes:
    step = _step(pixels, most=1920)
    if step > 1:
        size = (pixels.shape[1] // step, pixels.shape[0] // step)
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1])


def _pillow(pixels: np.ndarray) -> bytes:
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.reduce(_step(pixels, most=1280)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _step(pixels: np.ndarray, *, most: int) -> int:
    """By how much the longer side has to shrink."""
    return -(-max(pixels.shape[:2]) // most)
