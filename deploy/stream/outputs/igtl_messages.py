"""What an OpenIGTLink client is told of a look at the board.

Three devices: `EdgeMT_Mask`, an 8-bit IMAGE of class indices; `EdgeMT_State`, a STRING of JSON with the state, its age
when it was sent and until when it holds; `EdgeMT_Status`, a STATUS, whose text holds the same end in UTC. A mask that
may no longer be shown is followed by an empty one, for a viewer keeps what it has. The mask of a picture that came by
OpenIGTLink has that picture's size, place and time stamp; any other has its own size, one millimetre being one pixel of
the frame.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime, timezone

import numpy as np

from deploy.stream.igtl import protocol
from deploy.stream.state.frames import Frame, MaskRecord, Shown

MASK, STATE, STATUS = "EdgeMT_Mask", "EdgeMT_State", "EdgeMT_Status"
Origin = Callable[[Frame], "tuple[protocol.Image, int] | None"]  # the message a frame came in, and its time stamp
_CODES = {
    "fresh": protocol.OK,
    "stale": protocol.TIMEOUT,
    "invalid": protocol.UNKNOWN,
    "no-signal": protocol.NOT_PRESENT,
}


class Speaker:
    """Packs messages; the one of a mask is packed once, whoever it goes to."""

    def __init__(self, *, version: int, origin: Origin | None = None) -> None:
        self._version, self._origin = version, origin or (lambda frame: None)
        self._mask_of, self._mask = -1, b""  # frame id
        self._drawn: protocol.Image | None = None  # the last mask: a viewer may still hold it

    def image(self, shown: Shown) -> bytes:
        """The mask, or an empty one where a viewer may still show an older one; no bytes where none was ever sent."""
        if shown.result is not None and shown.record.mask is not None:
            if self._mask_of != shown.result.frame.id:
                age_ms = shown.record.age_ms or 0.0
                self._drawn, stamp = self._placed(shown.result.frame, shown.record.mask, age_ms)
                self._mask_of = shown.result.frame.id
                self._mask = self._pack(
                    "IMAGE",
                    protocol.pack_image(self._drawn),
                    device=MASK,
                    stamp=stamp,
                    metadata=_validity(shown.record),
                )
            return self._mask
        if self._drawn is None:
            return b""
        came = self._origin(shown.frame) if shown.frame is not None else None
        empty = self._drawn.resized(np.zeros_like(self._drawn.pixels))
        return self._pack("IMAGE", protocol.pack_image(empty), device=MASK, stamp=came[1] if came else None)

    def state(self, record: MaskRecord, *, now_ns: int) -> bytes:
        """The record as JSON, with until when it holds."""
        return self._pack("STRING", protocol.pack_string(json.dumps(record.message(now_ns=now_ns))), device=STATE)

    def status_of(self, record: MaskRecord) -> bytes:
        return self.status(protocol.Status(_CODES[record.state], record.state, _reason(record) or _until(record)))

    def status(self, status: protocol.Status) -> bytes:
        return self._pack("STATUS", protocol.pack_status(status), device=STATUS)

    def _placed(self, frame: Frame, mask: np.ndarray, age_ms: float) -> tuple[protocol.Image, int]:
        came = self._origin(frame)
        if came is None:
            return protocol.Image(frame.pixels).resized(mask), protocol.stamp_of(time.time() - age_ms / 1e3)
        rows, columns = (np.arange(n) * m // n for n, m in zip(frame.size, mask.shape, strict=True))
        return came[0].resized(mask[rows[:, None], columns]), came[1]

    def _pack(
        self,
        kind: str,
        content: bytes,
        *,
        device: str,
        stamp: int | None = None,
        metadata: dict[str, str] | None = None,
    ) -> bytes:
        stamp = protocol.stamp_of(time.time()) if stamp is None else stamp
        carried = metadata if self._version > 1 else None
        return protocol.pack(kind, content, device=device, stamp=stamp, version=self._version, metadata=carried)


def _validity(record: MaskRecord) -> dict[str, str]:
    """Metadata of a mask, for messages of version 2."""
    message = record.message(now_ns=time.monotonic_ns())
    return {name: str(message[name]) for name in ("state", "frame_id", "valid_until_ns", "valid_until_utc")}


def _reason(record: MaskRecord) -> str:
    return f"{record.reason}: {record.refused}" if record.refused else record.reason


def _until(record: MaskRecord) -> str:
    """The end of a fresh state for a STATUS, which has room for text alone."""
    ends = record.message(now_ns=time.monotonic_ns())["valid_until_utc"]
    if ends is None:
        return ""
    return f"valid until {datetime.fromtimestamp(ends, timezone.utc).isoformat(timespec='milliseconds')}"
