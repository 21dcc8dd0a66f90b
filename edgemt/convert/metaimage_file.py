"""MetaImage files (.mha, .mhd with .raw or .zraw): header, geometry and voxels.

Format: https://itk.org/Wiki/ITK/MetaIO/Documentation. Geometry is in LPS, as ITK writes it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgemt.convert.contract import Volume
from edgemt.convert.geometry import LPS_TO_RAS, affine_of
from edgemt.convert.names import inner_path
from edgemt.convert.nrrd_file import inflate
from edgemt.io.decode_limits import check_bytes
from edgemt.io.plain_files import read_regular

_TYPES = {"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "LONG": "i4",
          "ULONG": "u4", "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"}  # fmt: skip
_HEADER = 1 << 20  # bytes at most


def read_metaimage(path: Path) -> Volume:
    """A volume of one value a voxel. Raises ValueError, naming the file, for anything else."""
    raw = read_regular(path)
    start = raw[:_HEADER].find(b"ElementDataFile")
    end = raw.find(b"\n", start)
    if start < 0 or (end < 0 and b"LOCAL" in raw[start:]):
        raise ValueError(f"{path}: is no whole MetaImage file; export it again")
    end = len(raw) if end < 0 else end
    fields = {}
    for line in raw[:end].decode("utf-8", "replace").splitlines():
        key, _, value = line.partition("=")
        fields[key.strip().lower()] = value.strip()
    try:
        sizes = tuple(int(n) for n in fields["dimsize"].split())
        kind = np.dtype(_TYPES[fields["elementtype"].removeprefix("MET_")])
        channels = int(fields.get("elementnumberofchannels", "1"))
    except KeyError as error:
        raise ValueError(f"{path}: its header has no usable {error.args[0]}; export it again") from None
    except ValueError:
        raise ValueError(f"{path}: its sizes are no numbers; export it again") from None
    if len(sizes) != 3 or min(sizes) < 1 or channels != 1:
        raise ValueError(
            f"{path}: has sizes {sizes} and {channels} values a voxel; a volume has three axes and one value"
        )
    check_bytes(path, sizes, kind.itemsize)
    return Volume(_voxels(path, fields, raw[end + 1 :], sizes, kind), _affine(path, fields))


def _voxels(path: Path, fields: Mapping[str, str], data: bytes, sizes: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    beside = fields["elementdatafile"]
    if beside.split()[:1] == ["LIST"] or "%" in beside:
        raise ValueError(f"{path}: its voxels lie in several files; save it as one .mha")
    if beside != "LOCAL":
        try:
            data = read_regular(path.parent / inner_path(beside, source=path, field="ElementDataFile"))
        except FileNotFoundError:
            raise ValueError(f"{path}: its data file {beside} is not there; copy both files") from None
    wanted = int(np.prod(sizes)) * kind.itemsize
    if fields.get("compresseddata", "False").lower() == "true":
        try:
            data = inflate(data, wanted)
        except zlib.error as error:
            raise ValueError(f"{path}: its voxels cannot be unpacked ({error}); copy it again") from None
    if int(fields.get("headersize", "0") or 0) == -1:
        data = data[-wanted:]
    if len(data) != wanted:
        raise ValueError(f"{path}: holds {len(data)} bytes of voxels, its header states {wanted}; copy it again")
    swapped = fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "False")).lower() == "true"
    array = np.frombuffer(data, kind.newbyteorder(">" if swapped else "<")).reshape(sizes, order="F")
    return array.astype(kind.newbyteorder("="))


def _affine(path: Path, fields: Mapping[str, str]) -> np.ndarray:
    """The rows of TransformMatrix are the directions of the axes."""
    try:
        matrix = next(fields[k] for k in ("transformmatrix", "rotation", "orientation") if k in fields)
        origin = next(fields[k] for k in ("offset", "position", "origin") if k in fields)
        spacing = [float(v) for v in fields["elementspacing"].split()]
        directions = np.array([float(v) for v in matrix.split()]).reshape(3, 3).T * spacing
        return LPS_TO_RAS @ affine_of(directions, [float(v) for v in origin.split()])
    except (KeyError, StopIteration, ValueError):
        raise ValueError(
            f"{path}: states no usable TransformMatrix, Offset and ElementSpacing; save it with 3D Slicer or SimpleITK"
        ) from None
