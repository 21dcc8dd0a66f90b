"""What an OpenIGTLink client is told of a look at the board.

Three devices: `EdgeMT_Mask`, an 8-bit IMAGE of class indices; `EdgeMT_State`, a STRING of JSON with state and age when
it was sent; `EdgeMT_Status`, a STATUS. A mask that may no longer be shown is followed by an empty one, for a viewer
keeps what it has. The mask of a picture that came by OpenIGTLink has that picture's size, place and time stamp; any
other has its own size, one millimetre being one pixel of the frame.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np

from deploy.stream import igtl
from deploy.stream.frame_record import Frame, Shown

MASK, STATE, STATUS = "EdgeMT_Mask", "EdgeMT_State", "EdgeMT_Status"
Origin = Callable[[Frame], "tuple[igtl.Image, int] | None"]  # the message a frame came in, and its time stamp
_CODES = {"fresh": igtl.OK, "stale": igtl.TIMEOUT, "invalid": igtl.UNKNOWN, "no-signal": igtl.NOT_PRESENT}


class Speaker:
    """Packs messages; the one of a mask is packed once, whoever it goes to."""

    def __init__(self, *, version: int, origin: Origin | None = None) -> None:
        self._version, self._origin = version, origin or (lambda frame: None)
        self._mask_of, self._mask = -1, b""  # frame id
        self._drawn: igtl.Image | None = None  # the last mask: a viewer may still hold it

    def messages(self, shown: Shown) -> bytes:
        """Mask, state and status."""
        record = shown.record
        said = igtl.Status(_CODES[record.state], record.state, record.reason)
        text = self._pack("STRING", igtl.pack_string(json.dumps(record.to_json())), device=STATE)
        return self._image(shown) + text + self.status(said)

    def status(self, status: igtl.Status) -> bytes:
        return self._pack("STATUS", igtl.pack_status(status), device=STATUS)

    def _image(self, shown: Shown) -> bytes:
        if shown.result is not None and shown.record.mask is not None:
            if self._mask_of != shown.result.frame.id:
                self._drawn, stamp = self._placed(shown.result.frame, shown.record.mask, shown.record.age_ms or 0.0)
                self._mask_of = shown.result.frame.id
                self._mask = self._pack("IMAGE", igtl.pack_image(self._drawn), device=MASK, stamp=stamp)
            return self._mask
        if self._drawn is None:
            return b""
        came = self._origin(shown.frame) if shown.frame is not None else None
        empty = self._drawn.resized(np.zeros_like(self._drawn.pixels))
        return self._pack("IMAGE", igtl.pack_image(empty), device=MASK, stamp=came[1] if came else None)

    def _placed(self, frame: Frame, mask: np.ndarray, age_ms: float) -> tuple[igtl.Image, int]:
        came = self._origin(frame)
        if came is None:
            return igtl.Image(frame.pixels).resized(mask), igtl.stamp_of(time.time() - age_ms / 1e3)
        rows, columns = (np.arange(n) * m // n for n, m in zip(frame.size, mask.shape, strict=True))
        return came[0].resized(mask[rows[:, None], columns]), came[1]

    def _pack(self, kind: str, content: bytes, *, device: str, stamp: int | None = None) -> bytes:
        stamp = igtl.stamp_of(time.time()) if stamp is None else stamp
        return igtl.pack(kind, content, device=device, stamp=stamp, version=self._version)
