"""Header of a DICOM file: read, and refused where its pixels cannot be read."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from edgemt.io.decode_errors import Refused
from edgemt.io.decode_limits import check_bytes

GREY, PALETTE = ("MONOCHROME1", "MONOCHROME2"), "PALETTE COLOR"
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
VIDEO_SYNTAXES = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (100, 101, 102, 103, 104, 105, 106, 107, 108))
_USED = (0x0008, 0x0018, 0x0020, 0x0028)  # groups of elements that determine how pixels are read
_MOST_PIXELS = 1 << 31  # per file, to protect the memory
PIXEL_DATA = 0x7FE00010
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_STEP = 1 << 20


class NotAnImageError(ValueError):
    """A DICOM object of another kind: a report, a presentation state, a segmentation."""


def first_line(error: Exception) -> str:
    """First line of an error message, at most 120 characters."""
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def is_dicom(path: str | Path) -> bool:
    """True for a DICOM file by its content: DICM after the preamble."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dataset(path: Path, *, pixels: bool = True) -> Any:
    """`pydicom.dcmread`, which unpacks a deflated file as a whole; one that would fill the memory is refused before."""
    import pydicom

    with open(path, "rb") as file:
        check_inflated(file, path)
    return pydicom.dcmread(path, stop_before_pixels=not pixels)


def check_inflated(file: BinaryIO, name: str | Path) -> None:
    """Raises ValueError, with `name`, for a deflated data set that does not fit the free memory twice.

    PS3.10 7.1: after 132 bytes comes the group 0002 in explicit little endian, whose first element is its own length.
    """
    start = file.read(144)
    if start[128:136] != b"DICM\x02\x00\x00\x00":
        return
    if _DEFLATED not in file.read(int.from_bytes(start[140:144], "little")):
        return
    unpacker, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    packed = file.read(_STEP)
    while packed and not unpacker.eof:
        size += len(unpacker.decompress(packed, _STEP))
        check_bytes(name, (size,), 2)
        packed = unpacker.unconsumed_tail or file.read(_STEP)


def read_header(path: Path) -> Any:
    """The data set of a file. Raises ValueError, naming the file, for one that cannot be read."""
    try:
        import pydicom  # noqa: F401
    except ImportError:
        raise ValueError(f"{path}: reading DICOM needs pydicom; pip install pydicom") from None
    try:
        header = read_dataset(path)
        for tag in list(header.keys()):
            if tag.group in _USED:
                header[tag]  # elements are decoded lazily: a damaged one raises here
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except PermissionError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except Refused:
        raise
    except Exception as error:  # the library raises many kinds
        raise ValueError(f"{path}: cannot be read as DICOM ({first_line(error)}); copy or export it again") from None
    header.filename = os.fspath(path)
    return header


def check_readable(path: Path, header: Any) -> None:
    """Raises ValueError for a data set without pixels, and for pixels of a kind that is not supported."""
    if PIXEL_DATA not in header or "Rows" not in header or "Columns" not in header:
        uid = str(header.get("SOPClassUID") or "")
        kind = getattr(header.get("SOPClassUID"), "name", uid)
        kind = "DICOM object" if kind == uid else kind  # an unknown UID is arbitrary text of the file
        floats = " with float pixels, which are not read" if "FloatPixelData" in header else ""
        raise NotAnImageError(f"{path}: holds no picture ({kind}){floats}; name files of images")
    if header.get("SegmentSequence"):
        raise NotAnImageError(f"{path}: is a segmentation, not a picture; name files of images")
    syntax = getattr(header.file_meta, "TransferSyntaxUID", None)
    if syntax is None:
        raise ValueError(f"{path}: does not state its transfer syntax; export it again")
    pixels = int(header.Rows or 0) * int(header.Columns or 0) * int(header.get("NumberOfFrames") or 1)
    if not 0 < pixels < _MOST_PIXELS:
        raise ValueError(f"{path}: states {pixels} pixels; export it in parts")
    if syntax in VIDEO_SYNTAXES:
        raise ValueError(f"{path}: holds a video ({syntax.name}); `edgemt stream` plays it, or write it out as .mp4")
    _check_pixels(path, header)
    _check_decoder(path, syntax)


def _check_pixels(path: Path, header: Any) -> None:
    kind, samples = str(header.get("PhotometricInterpretation")), int(header.get("SamplesPerPixel") or 1)
    allocated, stored = int(header.get("BitsAllocated") or 0), int(header.get("BitsStored") or 0)
    if kind not in (*GREY, PALETTE, *COLOUR):
        raise ValueError(f"{path}: photometric interpretation {kind} is not read; convert it to RGB or MONOCHROME2")
    if samples != (3 if kind in COLOUR else 1):
        raise ValueError(f"{path}: {kind} with {samples} samples a pixel is not valid; export it again")
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated or int(header.get("HighBit") or 0) != stored - 1:
        raise ValueError(f"{path}: {stored} of {allocated} bits a value are not read; convert it to 8 or 16 bits")
    if kind in (*COLOUR, PALETTE) and (kind != PALETTE and allocated != 8):
        raise ValueError(f"{path}: colour with {allocated} bits a channel is not read; convert it to 8 bits")
    if kind in GREY and header.get("PixelPresentation") in ("COLOR", "MIXED"):
        raise ValueError(f"{path}: grey with a supplemental colour palette is not read; convert it to RGB")


def readable_syntaxes() -> list[str]:
    """UIDs of the transfer syntaxes whose pixels are decoded with what is installed here, plain ones first."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID_dictionary

    readable = []
    for value in (value for value, row in UID_dictionary.items() if row[1] == "Transfer Syntax"):
        try:
            if get_decoder(value).is_available:
                readable.append(value)
        except NotImplementedError:
            continue
    return readable


def _check_decoder(path: Path, syntax: Any) -> None:
    from pydicom.pixels import get_decoder

    if not syntax.is_encapsulated:
        return
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise ValueError(f"{path}: transfer syntax {syntax.name} is not read; convert it to plain DICOM") from None
    if not decoder.is_available:
        needed = "; ".join(decoder.missing_dependencies) or "a decoder"
        raise ValueError(f"{path}: {syntax.name} needs a decoder that is not installed ({needed})")
