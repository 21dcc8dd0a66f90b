"""The OpenIGTLink wire format, versions 1 and 2, as used by 3D Slicer, PLUS and ultrasound machines. No sockets.

A message is a header of 58 bytes, big-endian, and a body. From version 2 on, the body consists of an extended header,
the content, and metadata. Input is untrusted: `read_header` rejects anything that is no header or announces too many
bytes, `read_content` rejects a body whose checksum differs.

Reference: the protocol at openigtlink.org, version 2.

Shapes: R C rows and columns, K colours; i runs along columns, j along rows, k along slices (always one slice).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from deploy.stream.igtl.crc64 import crc64

PORT = 18944
HEADER = struct.Struct(">H12s20sQQQ")
HEAD_BYTES = 34  # bytes of a header that name kind and device; time stamp, size and CRC follow
_EXTENDED = struct.Struct(">HHII")  # sizes of this header, of the metadata index and of the metadata; message id
_IMAGE = struct.Struct(">HBBBBHHH12f6H")
_STATUS = struct.Struct(">Hq20s")
_STRING = struct.Struct(">HH")
_UTF8 = 106  # IANA number of the character set
_SCALARS = {2: "i1", 3: "u1", 4: "i2", 5: "u2", 6: "i4", 7: "u4", 10: "f4", 11: "f8"}


class WireError(ValueError):
    """The data is not OpenIGTLink, or damaged. `resumable`: the next message can be read after this one."""

    def __init__(self, message: str, *, resumable: bool = False) -> None:
        super().__init__(message)
        self.resumable = resumable


class Header(NamedTuple):
    """The fields of an OpenIGTLink message header."""

    version: int
    kind: str  # "IMAGE", "STATUS", "STRING", "TRANSFORM", "GET_STATUS" ...
    device: str
    stamp: int  # seconds since 1970 on the sender's clock, as a 32.32 fixed-point number
    size: int  # of the body, bytes
    crc: int


@dataclass(frozen=True, eq=False)
class Image:
    """One slice and its position.

    `ijk_to_world` has 12 numbers in the order of the wire: the vectors in mm of one step along i, j and k, then the
    centre of the image.
    """

    pixels: np.ndarray  # [R, C] or [R, C, K]
    ijk_to_world: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    coordinates: int = 1  # of the world: 1 is right, anterior, superior; 2 is left, posterior, superior

    def resized(self, pixels: np.ndarray) -> Image:
        """Other pixels over the same area in mm. With the same size, the position stays identical."""
        rows, columns = self.pixels.shape[0] / pixels.shape[0], self.pixels.shape[1] / pixels.shape[1]
        i, j = (tuple(v * by for v in self.ijk_to_world[at : at + 3]) for at, by in ((0, columns), (3, rows)))
        return Image(pixels, (*i, *j, *self.ijk_to_world[6:]), self.coordinates)


class Status(NamedTuple):
    """The content of a STATUS message; code 1 (`OK`) is success."""

    code: int
    name: str = ""
    message: str = ""


OK, UNKNOWN, TIMEOUT, CHECKSUM, NOT_PRESENT = 1, 2, 7, 9, 16  # codes of a STATUS


def pack_image(image: Image) -> bytes:
    """The content of an IMAGE message. Raises ValueError for a type, shape or size that the format does not allow."""
    pixels = np.ascontiguousarray(image.pixels)
    kind = {name: code for code, name in _SCALARS.items()}.get(pixels.dtype.str[1:])
    if kind is None or pixels.ndim not in (2, 3) or max(pixels.shape) > 0xFFFF or pixels.size == 0:
        raise ValueError(f"image {pixels.dtype} {list(pixels.shape)}: OpenIGTLink takes [R, C] or [R, C, K] numbers")
    rows, columns = pixels.shape[:2]
    colours = pixels.shape[2] if pixels.ndim == 3 else 1
    little = 2 if pixels.dtype.itemsize == 1 or pixels.dtype.newbyteorder("=").str[0] == "<" else 1
    head = _IMAGE.pack(
        1, colours, kind, little, image.coordinates, columns, rows, 1, *image.ijk_to_world, 0, 0, 0, columns, rows, 1
    )
    return head + pixels.tobytes()


def read_image(content: bytes | memoryview) -> Image:
    """One complete slice from the content of an IMAGE message. Raises WireError, resumable, for anything else."""
    if len(content) < _IMAGE.size:
        raise WireError("IMAGE: cut short", resumable=True)
    values = _IMAGE.unpack_from(content)
    colours, kind, endian, coordinates, columns, rows, slices = values[1:8]
    is_part = values[20:] != (0, 0, 0, columns, rows, slices)
    if kind not in _SCALARS or not 1 <= colours <= 4 or slices != 1 or rows < 1 or columns < 1 or is_part:
        form = f"{columns} x {rows} x {slices} of {colours} numbers of type {kind}{', a part of it' if is_part else ''}"
        raise WireError(f"IMAGE: {form}; only one whole slice can be read", resumable=True)
    dtype = np.dtype((">" if endian == 1 else "<") + _SCALARS[kind])
    expected = rows * columns * colours * dtype.itemsize
    if len(content) - _IMAGE.size != expected:
        raise WireError(
            f"IMAGE: {len(content) - _IMAGE.size} bytes of pixels, {expected} expected from its size", resumable=True
        )
    ijk_to_world = values[8:20]
    if not np.isfinite(ijk_to_world).all():
        raise WireError("IMAGE: its position is not a finite number", resumable=True)
    flat = np.frombuffer(content, dtype, offset=_IMAGE.size)
    pixels = flat.reshape((rows, columns, colours) if colours > 1 else (rows, columns))
    return Image(pixels.astype(dtype.newbyteorder("=")), ijk_to_world, coordinates)


def pack_status(status: Status) -> bytes:
    """The content of a STATUS message. Its name is cut to 19 ASCII characters."""
    name = status.name.encode("ascii", "replace")[:19]
    return _STATUS.pack(status.code, 0, name) + status.message.encode("utf-8") + b"\0"


def pack_string(text: str) -> bytes:
    """The content of a STRING message: UTF-8, cut to 65535 bytes."""
    data = text.encode("utf-8")[:0xFFFF]
    return _STRING.pack(_UTF8, len(data)) + data


def pack(
    kind: str, content: bytes, *, device: str, stamp: int, version: int = 1, metadata: dict[str, str] | None = None
) -> bytes:
    """A complete message. Raises ValueError for metadata with version 1, which has none."""
    if version not in (1, 2) or (metadata and version == 1):
        raise ValueError(f"version {version}: must be 1, or 2, which alone has metadata")
    body = content if version == 1 else _extended(content, metadata or {})
    name = device.encode("ascii", "replace")[:20]
    return HEADER.pack(version, kind.encode("ascii"), name, stamp, len(body), crc64(body)) + body


def _extended(content: bytes, metadata: dict[str, str]) -> bytes:
    pairs = [(key.encode("utf-8"), value.encode("utf-8")) for key, value in metadata.items()]
    index = struct.pack(">H", len(pairs)) + b"".join(struct.pack(">HHI", len(k), _UTF8, len(v)) for k, v in pairs)
    texts = b"".join(k + v for k, v in pairs)
    return _EXTENDED.pack(_EXTENDED.size, len(index), len(texts), 0) + content + index + texts


def read_header(data: bytes | bytearray | memoryview, *, max_bytes: int) -> Header:
    """The header in 58 bytes. Raises WireError for invalid data and for a body of more than `max_bytes` bytes."""
    version, kind, device, stamp, size, crc = HEADER.unpack(data)
    name = kind.rstrip(b"\0")
    if not 1 <= version <= 3 or not name or not all(48 <= c <= 57 or 65 <= c <= 90 or c == 95 for c in name):
        raise WireError("not OpenIGTLink")
    if size > max_bytes:
        raise WireError(f"{name.decode()}: announces that {size} bytes follow, more than the limit of {max_bytes}")
    return Header(version, name.decode(), _text(device), stamp, size, crc)


def read_content(header: Header, body: bytes | bytearray | memoryview) -> tuple[memoryview, dict[str, str]]:
    """(content, metadata) of a body. Raises WireError, resumable, if the checksum or the sizes do not match."""
    if crc64(body) != header.crc:
        raise WireError(f"{header.kind}: damaged on the way (its CRC differs)", resumable=True)
    view = memoryview(body)
    if header.version == 1:
        return view, {}
    if len(view) < _EXTENDED.size:
        raise WireError(f"{header.kind}: cut short", resumable=True)
    start, index, texts, _ = _EXTENDED.unpack_from(view)
    end = len(view) - index - texts
    if start < _EXTENDED.size or end < start:
        raise WireError(f"{header.kind}: its parts are longer than the whole", resumable=True)
    return view[start:end], _metadata(view[end : end + index], view[end + index :], header.kind)


def _metadata(index: memoryview, texts: memoryview, kind: str) -> dict[str, str]:
    if not len(index):
        return {}
    count = int.from_bytes(index[:2], "big")
    if len(index) != 2 + 8 * count:
        raise WireError(f"{kind}: its list of metadata is cut short", resumable=True)
    out, at = {}, 0
    for key_size, _, value_size in struct.iter_unpack(">HHI", index[2:]):
        middle, end = at + key_size, at + key_size + value_size
        if end > len(texts):
            raise WireError(f"{kind}: its metadata is cut short", resumable=True)
        out[bytes(texts[at:middle]).decode("utf-8", "replace")] = bytes(texts[middle:end]).decode("utf-8", "replace")
        at = end
    return out


def stamp_of(seconds: float) -> int:
    """Seconds since 1970 as a time stamp of the wire."""
    return (int(seconds) << 32) | int((seconds % 1) * 2**32)


def nanoseconds_of(stamp: int) -> int:
    """A 32.32 fixed-point time stamp in seconds as whole nanoseconds."""
    return (stamp >> 32) * 10**9 + ((stamp & 0xFFFFFFFF) * 10**9 >> 32)


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")
