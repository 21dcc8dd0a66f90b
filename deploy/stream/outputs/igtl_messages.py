"""OpenIGTLink messages of a display snapshot.

Three devices: `EdgeMT_Mask`, an 8-bit IMAGE of class indices; `EdgeMT_State`, a STRING of JSON with the state, the age
at the time of sending and the end of validity; `EdgeMT_Status`, a STATUS whose text has the end of validity in UTC.
After a mask that must no longer be shown, an empty mask is sent, because viewers show the last image until the next.

The mask of a frame that was received by OpenIGTLink has the size, position and time stamp of that image. Any other mask
has its own size, with a scale of one millimetre per pixel of the frame.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime, timezone

import numpy as np

from deploy.stream.igtl import protocol
from deploy.stream.state.frames import DisplaySnapshot, Frame, MaskStatus

MASK, STATE, STATUS = "EdgeMT_Mask", "EdgeMT_State", "EdgeMT_Status"
Origin = Callable[[Frame], "tuple[protocol.Image, int] | None"]  # frame -> its image message and time stamp
_CODES = {
    "fresh": protocol.OK,
    "stale": protocol.TIMEOUT,
    "invalid": protocol.UNKNOWN,
    "no-signal": protocol.NOT_PRESENT,
}


class MessageBuilder:
    """Packs messages. The message of one mask is packed once for all clients."""

    def __init__(self, *, version: int, origin: Origin | None = None) -> None:
        self._version, self._origin = version, origin or (lambda frame: None)
        self._mask_frame_id, self._mask_message = -1, b""
        self._last_image: protocol.Image | None = None  # the last mask, which a viewer may still show

    def image_message(self, snapshot: DisplaySnapshot) -> bytes:
        """The mask, or an empty mask if none may be shown; b"" if no mask was sent before."""
        if snapshot.result is not None and snapshot.status.mask is not None:
            if self._mask_frame_id != snapshot.result.frame.id:
                age_ms = snapshot.status.age_ms or 0.0
                self._last_image, stamp = self._to_image(snapshot.result.frame, snapshot.status.mask, age_ms)
                self._mask_frame_id = snapshot.result.frame.id
                self._mask_message = self._pack(
                    "IMAGE",
                    protocol.pack_image(self._last_image),
                    device=MASK,
                    stamp=stamp,
                    metadata=_validity(snapshot.status),
                )
            return self._mask_message
        if self._last_image is None:
            return b""
        source_image = self._origin(snapshot.frame) if snapshot.frame is not None else None
        stamp_now = source_image[1] if source_image else None
        empty = self._last_image.resized(np.zeros_like(self._last_image.pixels))
        return self._pack("IMAGE", protocol.pack_image(empty), device=MASK, stamp=stamp_now)

    def state_message(self, status: MaskStatus, *, now_ns: int) -> bytes:
        """The status as JSON, with the end of its validity."""
        return self._pack("STRING", protocol.pack_string(json.dumps(status.message(now_ns=now_ns))), device=STATE)

    def status_message(self, status: MaskStatus) -> bytes:
        text = _reason_text(status) or _validity_text(status)
        return self.pack_status(protocol.Status(_CODES[status.state], status.state, text))

    def pack_status(self, status: protocol.Status) -> bytes:
        return self._pack("STATUS", protocol.pack_status(status), device=STATUS)

    def _to_image(self, frame: Frame, mask: np.ndarray, age_ms: float) -> tuple[protocol.Image, int]:
        source_image = self._origin(frame)
        if source_image is None:
            return protocol.Image(frame.pixels).resized(mask), protocol.stamp_of(time.time() - age_ms / 1e3)
        rows, columns = (np.arange(n) * m // n for n, m in zip(frame.size, mask.shape, strict=True))
        return source_image[0].resized(mask[rows[:, None], columns]), source_image[1]

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
        used = metadata if self._version > 1 else None
        return protocol.pack(kind, content, device=device, stamp=stamp, version=self._version, metadata=used)


def _validity(status: MaskStatus) -> dict[str, str]:
    """Metadata of a mask, for messages of version 2."""
    message = status.message(now_ns=time.monotonic_ns())
    return {name: str(message[name]) for name in ("state", "frame_id", "valid_until_ns", "valid_until_utc")}


def _reason_text(status: MaskStatus) -> str:
    return f"{status.reason}: {status.refused}" if status.refused else status.reason


def _validity_text(status: MaskStatus) -> str:
    """The end of validity as text, for a STATUS message; "" without one."""
    end = status.message(now_ns=time.monotonic_ns())["valid_until_utc"]
    if end is None:
        return ""
    return f"valid until {datetime.fromtimestamp(end, timezone.utc).isoformat(timespec='milliseconds')}"
