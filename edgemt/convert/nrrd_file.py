"""NRRD files: header, geometry and voxels; raw, gzip, bzip2, text and hexadecimal, with data in the file or beside it.

Format: https://teem.sourceforge.net/nrrd/format.html, versions 1 to 5. A file that decodes to more than its header
states is refused, and so is a data file outside the folder of its header.
"""

from __future__ import annotations

import bz2
import gzip
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgemt.convert.geometry import LPS_TO_RAS, affine_of
from edgemt.convert.names import inner_path
from edgemt.io.atomic import write_bytes
from edgemt.io.decode_limits import check_bytes
from edgemt.io.plain_files import read_regular

_TYPES = {
    "int8": "i1", "signed char": "i1", "int8_t": "i1", "uint8": "u1", "unsigned char": "u1", "uchar": "u1",
    "uint8_t": "u1", "int16": "i2", "short": "i2", "signed short": "i2", "short int": "i2", "int16_t": "i2",
    "uint16": "u2", "unsigned short": "u2", "ushort": "u2", "uint16_t": "u2", "int32": "i4", "int": "i4",
    "signed int": "i4", "int32_t": "i4", "uint32": "u4", "unsigned int": "u4", "uint": "u4", "uint32_t": "u4",
    "int64": "i8", "long long": "i8", "longlong": "i8", "int64_t": "i8", "uint64": "u8", "unsigned long long": "u8",
    "ulonglong": "u8", "uint64_t": "u8", "float": "f4", "double": "f8",
}  # fmt: skip
_NAMES = {"i1": "int8", "u1": "uint8", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint", "i8": "int64",
          "u8": "uint64", "f4": "float", "f8": "double"}  # fmt: skip
_TO_RAS = {
    "left-posterior-superior": LPS_TO_RAS, "lps": LPS_TO_RAS, "right-anterior-superior": np.eye(4), "ras": np.eye(4),
    "left-anterior-superior": np.diag([-1.0, 1, 1, 1]), "las": np.diag([-1.0, 1, 1, 1]),
}  # fmt: skip
_HEADER = 1 << 22  # bytes at most


@dataclass(frozen=True)
class Nrrd:
    """A file: `array` in the order of its axes (the first varies fastest), with the axes that lie in space.

    `affine` maps indices of those three axes to RAS millimetres. `fields`: the header; `pairs`: key := value lines.
    """

    array: np.ndarray
    affine: np.ndarray
    space_axes: tuple[int, ...]
    fields: Mapping[str, str] = field(default_factory=dict)
    pairs: Mapping[str, str] = field(default_factory=dict)


def read_nrrd(path: Path) -> Nrrd:
    """A volume with three axes in space, and at most one further axis. Raises ValueError, naming the file."""
    fields, pairs, data = _header(path)
    try:
        sizes = tuple(int(n) for n in fields["sizes"].split())
        kind = np.dtype(_TYPES[fields["type"].lower()])
    except KeyError as error:
        raise ValueError(f"{path}: its header has no usable {error.args[0]!r}; export it again") from None
    except ValueError:
        raise ValueError(f"{path}: its sizes {fields['sizes']!r} are no numbers; export it again") from None
    if len(sizes) != int(fields.get("dimension", "0") or 0) or min(sizes, default=0) < 1:
        raise ValueError(f"{path}: states dimension {fields.get('dimension')} and sizes {sizes}; export it again")
    check_bytes(path, sizes, kind.itemsize)
    array = _voxels(path, fields, data, sizes, kind)
    affine, axes = _geometry(path, fields, sizes)
    return Nrrd(array, affine, axes, fields, pairs)


def _header(path: Path) -> tuple[dict[str, str], dict[str, str], bytes]:
    """Fields, key-value pairs, and what follows the empty line."""
    try:
        raw = read_regular(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    if not re.match(rb"NRRD000[1-5]\r?\n", raw):
        raise ValueError(f"{path}: is no NRRD file of version 1 to 5; export it again")
    end = re.search(rb"\r?\n\r?\n", raw[:_HEADER])
    text, data = (raw[: end.start()], raw[end.end() :]) if end else (raw[:_HEADER], b"")
    if not end and b"data file" not in text and b"datafile" not in text:
        raise ValueError(f"{path}: ends within its header; copy it again")
    fields: dict[str, str] = {}
    pairs: dict[str, str] = {}
    for line in text.decode("utf-8", "replace").splitlines()[1:]:
        if line.startswith("#") or not line.strip():
            continue
        if ":=" in line:
            key, _, value = line.partition(":=")
            pairs[key.strip()] = value.strip()
        else:
            key, _, value = line.partition(":")
            fields[key.strip().lower()] = value.strip()
    return fields, pairs, data


def _voxels(path: Path, fields: Mapping[str, str], data: bytes, sizes: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    beside = fields.get("data file") or fields.get("datafile")
    if beside is not None:
        if beside.split()[0] == "LIST" or "%" in beside:
            raise ValueError(f"{path}: its voxels lie in several files; save it as one .nrrd")
        file = path.parent / inner_path(beside, source=path, field="data file")
        try:
            data = read_regular(file)
        except FileNotFoundError:
            raise ValueError(f"{path}: its data file {beside} is not there; copy both files") from None
    wanted = int(np.prod(sizes)) * kind.itemsize
    encoding = fields.get("encoding", "raw").lower()
    if int(fields.get("line skip", fields.get("lineskip", "0")) or 0):
        raise ValueError(f"{path}: skips lines before its voxels, which is not read; save it as one .nrrd")
    skip = int(fields.get("byte skip", fields.get("byteskip", "0")) or 0)
    if encoding in ("text", "txt", "ascii"):
        values = np.array(data.split(), np.float64 if kind.kind == "f" else np.int64)
        if values.size != np.prod(sizes):
            raise ValueError(f"{path}: holds {values.size} numbers, its header states {np.prod(sizes)}; copy it again")
        return values.astype(kind).reshape(sizes, order="F")
    plain = _decoded(path, data, encoding, wanted + max(skip, 0))
    plain = plain[-wanted:] if skip == -1 else plain[skip:]
    if len(plain) != wanted:
        raise ValueError(f"{path}: holds {len(plain)} bytes of voxels, its header states {wanted}; copy it again")
    stored = kind.newbyteorder(">" if fields.get("endian", "little").lower() == "big" else "<")
    array = np.frombuffer(plain, stored).reshape(sizes, order="F")
    return array.astype(kind.newbyteorder("="))


def _decoded(path: Path, data: bytes, encoding: str, wanted: int) -> bytes:
    """At most `wanted` + 1 bytes, so that a small file cannot fill the memory."""
    try:
        if encoding == "raw":
            return data
        if encoding in ("gzip", "gz"):
            return inflate(data, wanted)
        if encoding in ("bzip2", "bz2"):
            return bz2.BZ2Decompressor().decompress(data, wanted + 1)
        if encoding == "hex":
            return bytes.fromhex(data.decode("ascii"))
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise ValueError(f"{path}: its voxels cannot be unpacked ({error}); copy it again") from None
    raise ValueError(f"{path}: encoding {encoding!r} is not read; save it with raw or gzip")


def inflate(data: bytes, wanted: int) -> bytes:
    """Unpack zlib or gzip data, at most `wanted` + 1 bytes."""
    out, rest = b"", data
    while rest and len(out) <= wanted:  # gzip data may have several members
        unpacker = zlib.decompressobj(47)
        out += unpacker.decompress(rest, wanted + 1 - len(out))
        if not unpacker.eof:
            break
        rest = unpacker.unused_data if unpacker.unused_data.startswith(b"\x1f\x8b") else b""
    return out


def _vector(text: str) -> list[float] | None:
    return None if text.strip().lower() == "none" else [float(v) for v in text.strip("() ").split(",")]


def _geometry(path: Path, fields: Mapping[str, str], sizes: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Affine in RAS and the three axes that lie in space."""
    space = fields.get("space", "").lower()
    if "space directions" not in fields or space not in _TO_RAS:
        raise ValueError(
            f"{path}: states no orientation ('space' LPS, RAS or LAS, and 'space directions'); save it with 3D Slicer "
            "or SimpleITK"
        )
    try:
        vectors = [_vector(text) for text in re.findall(r"none|\([^)]*\)", fields["space directions"], re.IGNORECASE)]
        origin = _vector(fields.get("space origin", "(0,0,0)")) or [0.0, 0.0, 0.0]
        axes = tuple(k for k, vector in enumerate(vectors) if vector is not None)
        directions = np.array([vector for vector in vectors if vector is not None]).T
    except ValueError:
        raise ValueError(f"{path}: its space directions are no numbers; export it again") from None
    if len(vectors) != len(sizes) or len(axes) != 3 or directions.shape != (3, 3) or len(sizes) > 4:
        raise ValueError(f"{path}: has {len(axes)} axes in space and sizes {sizes}; a volume has three, split it first")
    try:
        return _TO_RAS[space] @ affine_of(directions, origin), axes
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write_nrrd(path: Path, array: np.ndarray, affine: np.ndarray, pairs: Mapping[str, str]) -> None:
    """[X, Y, Z] with an affine in RAS, as NRRD in LPS with gzip; `pairs` are key := value lines."""
    lps = LPS_TO_RAS @ affine
    vectors = [_written(lps[:3, k].tolist()) for k in range(3)]
    lines = [
        "NRRD0004",
        "# written by edgemt export-labels",
        f"type: {_NAMES[array.dtype.str[1:]]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, array.shape))}",
        f"space directions: {' '.join(vectors)}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: {_written(lps[:3, 3].tolist())}",
        *(f"{key}:={value}" for key, value in pairs.items()),
    ]
    data = gzip.compress(array.astype(array.dtype.newbyteorder("<")).tobytes(order="F"), 6, mtime=0)
    write_bytes(path, ("\n".join(lines) + "\n\n").encode("utf-8") + data)


def _written(vector: Sequence[float]) -> str:
    return f"({','.join(f'{value + 0.0:.17g}' for value in vector)})"
