"""OpenIGTLink on the wire: what 3D Slicer, PLUS and ultrasound machines speak. Versions 1 and 2, no sockets here.

A message is a header of 58 bytes, big-endian, and a body. From version 2 on the body is an extended header, the
content, and metadata. A header cannot be trusted before it was checked: `read_header` refuses what is too large or no
message at all, `read_content` what was damaged on the way.

Source: the protocol of openigtlink.org, version 2.

Shapes: R C rows and columns, K colours; i runs along columns, j along rows, k along slices, there is one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from deploy.stream.igtl.crc64 import crc64

PORT = 18944
HEADER = struct.Struct(">H12s20sQQQ")
HEAD = 34  # bytes of a header that name kind and device; time stamp, size and CRC follow
_EXTENDED = struct.Struct(">HHII")  # sizes of this, of the metadata's header and of the metadata, and a number
_IMAGE = struct.Struct(">HBBBBHHH12f6H")
_STATUS = struct.Struct(">Hq20s")
_STRING = struct.Struct(">HH")
_UTF8 = 106  # its number at IANA
_SCALARS = {2: "i1", 3: "u1", 4: "i2", 5: "u2", 6: "i4", 7: "u4", 10: "f4", 11: "f8"}


class WireError(ValueError):
    """Not OpenIGTLink, or damaged. `resumable`: the next message begins where this one ends."""

    def __init__(self, what: str, *, resumable: bool = False) -> None:
        super().__init__(what)
        self.resumable = resumable


class Header(NamedTuple):
    version: int
    kind: str  # "IMAGE", "STATUS", "STRING", "TRANSFORM", "GET_STATUS" ...
    device: str
    stamp: int  # seconds and, in the lower 32 bits, parts of one; the sender's clock
    size: int  # of the body, bytes
    crc: int


@dataclass(frozen=True, eq=False)
class Image:
    """`place` holds the columns of the wire: what one step along i, j and k is in mm, then the picture's centre."""

    pixels: np.ndarray  # [R, C] or [R, C, K]
    place: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    coordinates: int = 1  # 1: towards right, anterior, superior; 2: left, posterior, superior

    def resized(self, pixels: np.ndarray) -> Image:
        """Other pixels over the same square millimetres. Of the same size, the place stays bit for bit."""
        rows, columns = self.pixels.shape[0] / pixels.shape[0], self.pixels.shape[1] / pixels.shape[1]
        along, down = (tuple(v * by for v in self.place[at : at + 3]) for at, by in ((0, columns), (3, rows)))
        return Image(pixels, (*along, *down, *self.place[6:]), self.coordinates)


class Status(NamedTuple):
    code: int
    name: str = ""
    message: str = ""


OK, UNKNOWN, TIMEOUT, CHECKSUM, NOT_READY, NOT_PRESENT = 1, 2, 7, 9, 13, 16  # codes of a STATUS


def pack_image(image: Image) -> bytes:
    """The content of an IMAGE message. Raises ValueError for a picture that it cannot hold."""
    pixels = np.ascontiguousarray(image.pixels)
    kind = {name: code for code, name in _SCALARS.items()}.get(pixels.dtype.str[1:])
    if kind is None or pixels.ndim not in (2, 3) or max(pixels.shape) > 0xFFFF or pixels.size == 0:
        raise ValueError(f"image {pixels.dtype} {list(pixels.shape)}: OpenIGTLink takes [R, C] or [R, C, K] numbers")
    rows, columns = pixels.shape[:2]
    colours = pixels.shape[2] if pixels.ndim == 3 else 1
    little = 2 if pixels.dtype.itemsize == 1 or pixels.dtype.newbyteorder("=").str[0] == "<" else 1
    head = _IMAGE.pack(
        1, colours, kind, little, image.coordinates, columns, rows, 1, *image.place, 0, 0, 0, columns, rows, 1
    )
    return head + pixels.tobytes()


def read_image(content: bytes | memoryview) -> Image:
    """One whole slice; raises WireError for anything else."""
    if len(content) < _IMAGE.size:
        raise WireError("IMAGE: cut short", resumable=True)
    said = _IMAGE.unpack_from(content)
    colours, kind, endian, coordinates, columns, rows, slices = said[1:8]
    part = said[20:] != (0, 0, 0, columns, rows, slices)
    if kind not in _SCALARS or not 1 <= colours <= 4 or slices != 1 or rows < 1 or columns < 1 or part:
        form = f"{columns} x {rows} x {slices} of {colours} numbers of type {kind}{', a part of it' if part else ''}"
        raise WireError(f"IMAGE: {form}; one whole slice is read", resumable=True)
    type_ = np.dtype((">" if endian == 1 else "<") + _SCALARS[kind])
    wanted = rows * columns * colours * type_.itemsize
    if len(content) - _IMAGE.size != wanted:
        raise WireError(
            f"IMAGE: {len(content) - _IMAGE.size} bytes of pixels, its size asks for {wanted}", resumable=True
        )
    place = said[8:20]
    if not np.isfinite(place).all():
        raise WireError("IMAGE: its place is not a number", resumable=True)
    flat = np.frombuffer(content, type_, offset=_IMAGE.size)
    pixels = flat.reshape((rows, columns, colours) if colours > 1 else (rows, columns))
    return Image(pixels.astype(type_.newbyteorder("=")), place, coordinates)


def pack_status(status: Status) -> bytes:
    name = status.name.encode("ascii", "replace")[:19]
    return _STATUS.pack(status.code, 0, name) + status.message.encode("utf-8") + b"\0"


def read_status(content: bytes | memoryview) -> Status:
    if len(content) < _STATUS.size:
        raise WireError("STATUS: cut short", resumable=True)
    code, _, name = _STATUS.unpack_from(content)
    return Status(code, _text(name), _text(bytes(content[_STATUS.size :])))


def pack_string(text: str) -> bytes:
    data = text.encode("utf-8")[:0xFFFF]
    return _STRING.pack(_UTF8, len(data)) + data


def read_string(content: bytes | memoryview) -> str:
    if len(content) < _STRING.size or len(content) - _STRING.size < _STRING.unpack_from(content)[1]:
        raise WireError("STRING: cut short", resumable=True)
    count = _STRING.unpack_from(content)[1]
    return bytes(content[_STRING.size : _STRING.size + count]).decode("utf-8", "replace")


def pack_transform(matrix: np.ndarray) -> bytes:
    """[4, 4] or [3, 4]; columns one after the other."""
    return struct.pack(">12f", *np.asarray(matrix, np.float64)[:3].T.reshape(-1))


def read_transform(content: bytes | memoryview) -> np.ndarray:
    """[4, 4]."""
    if len(content) != 48:
        raise WireError(f"TRANSFORM: {len(content)} bytes, it has 48", resumable=True)
    out = np.eye(4)
    out[:3] = np.frombuffer(content, ">f4").reshape(4, 3).T
    return out


def pack(
    kind: str, content: bytes, *, device: str, stamp: int, version: int = 1, metadata: dict[str, str] | None = None
) -> bytes:
    """A whole message. Only version 2 carries metadata."""
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


def read_header(data: bytes | bytearray | memoryview, *, most: int) -> Header:
    """58 bytes. Raises WireError for what is no header, and for a body of more than `most` bytes."""
    version, kind, device, stamp, size, crc = HEADER.unpack(data)
    name = kind.rstrip(b"\0")
    if not 1 <= version <= 3 or not name or not all(48 <= c <= 57 or 65 <= c <= 90 or c == 95 for c in name):
        raise WireError("not OpenIGTLink")
    if size > most:
        raise WireError(f"{name.decode()}: says that {size} bytes follow, more than the {most} taken here")
    return Header(version, name.decode(), _text(device), stamp, size, crc)


def read_content(header: Header, body: bytes | bytearray | memoryview) -> tuple[memoryview, dict[str, str]]:
    """The content and the metadata of a body that arrived as it was sent. Raises WireError, resumable."""
    if crc64(body) != header.crc:
        raise WireError(f"{header.kind}: damaged on the way (its CRC differs)", resumable=True)
    whole = memoryview(body)
    if header.version == 1:
        return whole, {}
    if len(whole) < _EXTENDED.size:
        raise WireError(f"{header.kind}: cut short", resumable=True)
    start, index, texts, _ = _EXTENDED.unpack_from(whole)
    end = len(whole) - index - texts
    if start < _EXTENDED.size or end < start:
        raise WireError(f"{header.kind}: its parts are longer than the whole", resumable=True)
    return whole[start:end], _metadata(whole[end : end + index], whole[end + index :], header.kind)


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
    return (int(seconds) << 32) | int((seconds % 1) * 2**32)


def nanoseconds_of(stamp: int) -> int:
    return (stamp >> 32) * 10**9 + ((stamp & 0xFFFFFFFF) * 10**9 >> 32)


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")
