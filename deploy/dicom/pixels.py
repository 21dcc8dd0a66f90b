"""One DICOM file as frames: the same pixels for `predict` and `stream`, as the standard means them to be looked at.

What is read is listed in deploy/README.md; anything else is refused in one line. The steps, in the order
of PS3.3 C.11 and PS3.4 N.2: stored values; modality (rescale or LUT); window or VOI LUT, once; MONOCHROME1 inverted.
Colour goes to RGB and has no window.

Shapes: F frames, H W size in pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgemt.io.bit_depth import Depth
from edgemt.io.decode_errors import decoding
from edgemt.io.images import to_uint8

GREY, PALETTE = ("MONOCHROME1", "MONOCHROME2"), "PALETTE COLOR"
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
VIDEO_SYNTAXES = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (100, 101, 102, 103, 104, 105, 106, 107, 108))
_USED = (0x0008, 0x0018, 0x0020, 0x0028)  # groups of elements that decide how a picture is read
AUTO = Depth()
_MOST_PIXELS = 1 << 31  # of one file; more would fill the memory
_PERCENTILES = (0.5, 99.5)  # of a volume without a window, as in training
_SAMPLED = 1 << 26  # values of a cine that its percentiles are taken of
_PIXEL_DATA = 0x7FE00010


class NotAPicture(ValueError):
    """A DICOM object of another kind: a report, a presentation state, a segmentation."""


@dataclass(frozen=True)
class Window:
    """Of a grey picture: `low` and `high` of modality values become 0 and 255; `kind` as VOI LUT Function."""

    centre: float
    width: float
    kind: Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"] = "LINEAR"

    def apply(self, values: np.ndarray) -> np.ndarray:
        """uint8 of the same shape, PS3.3 C.11.2.1.2: LINEAR ((x - (c - 0.5)) / (w - 1) + 0.5) 255, LINEAR_EXACT
        ((x - c) / w + 0.5) 255, SIGMOID 255 / (1 + exp(-4 (x - c) / w))."""
        if self.kind == "SIGMOID":
            curve = 255 / (1 + np.exp(-4 * (values.astype(np.float64) - self.centre) / self.width))
            return np.rint(curve).astype(np.uint8)
        if self.kind == "LINEAR_EXACT":
            return to_uint8(_deep(values), window=(self.centre - self.width / 2, self.centre + self.width / 2))
        middle, half = self.centre - 0.5, (self.width - 1) / 2
        return to_uint8(_deep(values), window=(middle - half, middle + half))


@dataclass(frozen=True)
class Range:
    """Of a grey picture without a window: these values become 0 and 255."""

    low: float
    high: float

    def apply(self, values: np.ndarray) -> np.ndarray:
        return to_uint8(_deep(values), window=(self.low, self.high))


class DicomFile:
    """The pixels of one file, a frame at a time. Raises ValueError in one line that names the file.

    `header` is the data set without its pixels; nothing of it that names a patient is put into a message.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.header = _read(self.path)
        with decoding(self.path, "DICOM", remedy="export it again"):
            _check(self.path, self.header)
            self.count = int(self.header.get("NumberOfFrames") or 1)
            self.size = (int(self.header.Rows), int(self.header.Columns))
            self.grey = self.header.PhotometricInterpretation in GREY

    def view(self, index: int, window: Window | Range | None) -> np.ndarray:
        """uint8 [H, W] or [H, W, 3]; a grey picture through `window`: `shared_window`, or that of the file's volume.
        With None, values go through the VOI LUT of the file, or stay as they are where they have 8 bits."""
        if not self.grey:
            return self._colour(index)
        values = self.values(index)
        if window is not None:
            pixels = window.apply(values)
        elif (lut := _voi_lut(self._groups(index))) is not None:
            pixels = _through(values, lut)
        else:
            pixels = np.clip(values, 0, 255).astype(np.uint8)
        return 255 - pixels if self.header.PhotometricInterpretation == "MONOCHROME1" else pixels

    def values(self, index: int) -> np.ndarray:
        """[H, W] of a grey picture after the modality rescale or LUT. 8-bit values without either stay uint8."""
        from pydicom.pixels import apply_modality_lut

        stored, groups = self._decoded(index), self._groups(index)
        sequence = self.header.get("ModalityLUTSequence")
        if sequence:
            return np.asarray(apply_modality_lut(stored, self.header))
        slope, zero = (float(groups.get(name, usual)) for name, usual in (("RescaleSlope", 1), ("RescaleIntercept", 0)))
        if not (np.isfinite(slope) and np.isfinite(zero) and slope != 0):
            raise ValueError(f"{self.path}: its rescale ({slope:g}, {zero:g}) makes no sense; export it again")
        return stored if (slope, zero) == (1, 0) else stored.astype(np.float64) * slope + zero

    def own_window(self, index: int) -> Window | None:
        """The first window of the file for this frame, if it has one that is valid."""
        groups = self._groups(index)
        centre, width = (_first(groups.get(name)) for name in ("WindowCenter", "WindowWidth"))
        kind = str(groups.get("VOILUTFunction") or "LINEAR")
        if centre is None or width is None or not (np.isfinite(centre) and np.isfinite(width)):
            return None
        if kind not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
            raise ValueError(f"{self.path}: its VOI LUT function {kind!r} is not read; export it with a plain window")
        if width < (1 if kind == "LINEAR" else 0) or (kind != "LINEAR" and width == 0):
            return None
        return Window(centre, width, kind)  # type: ignore[arg-type]

    def shared_window(self, depth: Depth = AUTO) -> Window | Range | None:
        """One window for all frames, or a cine would flicker: that of the file, or percentiles; None where a VOI LUT
        or 8-bit values need none."""
        return window_of([self], depth) if self.grey else None

    def has_lut(self, index: int) -> bool:
        return _voi_lut(self._groups(index)) is not None

    def eight_bit(self, index: int) -> bool:
        """Whether stored values are those of an 8-bit picture, which go to a network as they are."""
        header = self.header
        plain = int(header.BitsStored) == 8 and int(header.get("PixelRepresentation") or 0) == 0
        if not plain or header.get("ModalityLUTSequence"):
            return False
        groups = self._groups(index)
        return (float(groups.get("RescaleSlope", 1)), float(groups.get("RescaleIntercept", 0))) == (1, 0)

    def close(self) -> None:
        self.__dict__.pop("_data", None)

    def _groups(self, index: int) -> dict[str, Any]:
        """Window and rescale of one frame, from the file or from its functional groups."""
        out = {name: self.header.get(name) for name in (*_VOI, *_MODALITY) if name in self.header}
        shared, frames = (self.header.get(f"{kind}FunctionalGroupsSequence") or [] for kind in ("Shared", "PerFrame"))
        for group in (*shared[:1], *frames[index : index + 1]):
            for sequence, names in (("FrameVOILUTSequence", _VOI), ("PixelValueTransformationSequence", _MODALITY)):
                for item in (group.get(sequence) or [])[:1]:
                    out.update({name: item.get(name) for name in names if name in item})
        return {name: value for name, value in out.items() if value is not None}

    def _colour(self, index: int) -> np.ndarray:
        from pydicom.pixels import apply_color_lut

        pixels = self._decoded(index)
        if self.header.PhotometricInterpretation == PALETTE:
            entries = apply_color_lut(pixels, self.header)
            pixels = entries if entries.dtype == np.uint8 else (entries >> 8).astype(np.uint8)
        return np.ascontiguousarray(pixels[..., :3])

    def _decoded(self, index: int) -> np.ndarray:
        """[H, W] stored values, or [H, W, 3] in RGB."""
        from pydicom.pixels import pixel_array

        if not 0 <= index < self.count:
            raise IndexError(f"frame {index} of {self.count}")
        try:
            native = not self.header.file_meta.TransferSyntaxUID.is_encapsulated
            pixels = pixel_array(self._native(index) if native else self._whole(), index=0 if native else index)
        except ValueError as error:
            if str(error).startswith(str(self.path)):
                raise
            raise self._undecodable(index, error) from None
        except Exception as error:  # each decoder has its own
            raise self._undecodable(index, error) from None
        if pixels.shape[:2] != self.size or (pixels.ndim == 3) != (self.header.SamplesPerPixel == 3):
            raise ValueError(
                f"{self.path}: frame {index + 1} has shape {pixels.shape}, not {self.size}; export it again"
            )
        return np.asarray(pixels)

    def _undecodable(self, index: int, error: Exception) -> ValueError:
        which = f"frame {index + 1} of {self.count}" if self.count > 1 else "its pixels"
        return ValueError(f"{self.path}: {which} cannot be decoded ({first_line(error)}); convert it to plain DICOM")

    def _native(self, index: int) -> Any:
        """A data set of one frame: pydicom takes three bytes for a pixel of native YBR_FULL_422, which has two."""
        header = self.header
        one = header.group_dataset(0x0028)
        one.file_meta = header.file_meta
        one.NumberOfFrames = 1
        length = frame_bytes(header)
        data = self._whole()
        start = index * length
        piece = data[start : start + length]
        if len(piece) < length:
            raise ValueError(f"{self.path}: ends in the middle of frame {index + 1} of {self.count}; copy it again")
        one.PixelData = bytes(piece) + b"\0" * (length % 2)
        one["PixelData"].VR = header["PixelData"].VR
        return one

    def _whole(self) -> Any:
        """Of a native file its bytes of pixels, of a compressed one the data set; read once."""
        if "_data" not in self.__dict__:
            native = not self.header.file_meta.TransferSyntaxUID.is_encapsulated
            self._data: Any = self.header.PixelData if native else self.header
        return self._data


_VOI = ("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence")
_MODALITY = ("RescaleSlope", "RescaleIntercept")


def window_of(files: Sequence[DicomFile], depth: Depth = AUTO) -> Window | Range | None:
    """How grey values of files that belong together are seen.

    `depth` is the rule of the model's training: its window, or the percentiles of all values where training took those
    of each volume. For a model of 8-bit images, or without a rule: through the window that all frames have; else
    8-bit values as they are (None), others spread by the percentiles of all of them.

    Raises ValueError for a file that cannot be decoded, where values are needed.
    """
    places = [(file, k) for file in files for k in range(file.count)]
    if depth.rule == "window" and depth.window is not None:
        return Range(*depth.window)
    if depth.rule != "percentiles":
        if any(file.has_lut(k) for file, k in places):
            return None
        windows = {file.own_window(k) for file, k in places}
        if len(windows) == 1 and None not in windows:
            return next(iter(windows))
        if windows == {None} and all(file.eight_bit(k) for file, k in places):
            return None
    every = max(1, len(places) * files[0].size[0] * files[0].size[1] // _SAMPLED)
    values = np.concatenate([file.values(k).reshape(-1) for file, k in places[::every]])
    low, high = np.percentile(values, _PERCENTILES)  # as `to_uint8` takes them
    return Range(float(low), float(high))


def frame_bytes(header: Any) -> int:
    """Bytes of one native frame."""
    samples = 2 if header.PhotometricInterpretation == "YBR_FULL_422" else int(header.SamplesPerPixel)
    return int(header.Rows) * int(header.Columns) * samples * (int(header.BitsAllocated) // 8)


def first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def is_dicom(path: str | Path) -> bool:
    """By content: DICM behind the preamble."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def video_inside(path: str | Path) -> bytes | None:
    """The MPEG or HEVC stream of a DICOM video, its fragments put together; None for any other file."""
    header = _read(Path(path))
    if getattr(header.file_meta, "TransferSyntaxUID", "") not in VIDEO_SYNTAXES or _PIXEL_DATA not in header:
        return None
    from io import BytesIO

    from pydicom.encaps import generate_fragments, parse_basic_offsets

    buffer = BytesIO(header.PixelData)
    parse_basic_offsets(buffer)
    return b"".join(generate_fragments(buffer))


def _read(path: Path) -> Any:
    try:
        import pydicom
    except ImportError:
        raise ValueError(f"{path}: reading DICOM needs pydicom; pip install pydicom") from None
    try:
        header = pydicom.dcmread(path)
        for tag in list(header.keys()):
            if tag.group in _USED:
                header[tag]  # decoded when first looked at: a damaged element is found here
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except PermissionError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); look at its permissions") from None
    except Exception as error:  # the library raises many kinds
        raise ValueError(f"{path}: cannot be read as DICOM ({first_line(error)}); copy or export it again") from None
    header.filename = os.fspath(path)
    return header


def _check(path: Path, header: Any) -> None:
    """Refuse what has no pixels, or pixels whose meaning is not read here."""
    if _PIXEL_DATA not in header or "Rows" not in header or "Columns" not in header:
        uid = str(header.get("SOPClassUID") or "")
        kind = getattr(header.get("SOPClassUID"), "name", uid)
        kind = "DICOM object" if kind == uid else kind  # an unknown one is what the file holds there, whatever it is
        floats = " with float pixels, which are not read" if "FloatPixelData" in header else ""
        raise NotAPicture(f"{path}: holds no picture ({kind}){floats}; name files of images")
    if header.get("SegmentSequence"):
        raise NotAPicture(f"{path}: is a segmentation, not a picture; name files of images")
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
        raise ValueError(f"{path}: {kind} with {samples} samples a pixel makes no sense; export it again")
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated or int(header.get("HighBit") or 0) != stored - 1:
        raise ValueError(f"{path}: {stored} of {allocated} bits a value are not read; convert it to 8 or 16 bits")
    if kind in (*COLOUR, PALETTE) and (kind != PALETTE and allocated != 8):
        raise ValueError(f"{path}: colour with {allocated} bits a channel is not read; convert it to 8 bits")
    if kind in GREY and header.get("PixelPresentation") in ("COLOR", "MIXED"):
        raise ValueError(f"{path}: grey with a supplemental colour palette is not read; convert it to RGB")


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


def _voi_lut(groups: dict[str, Any]) -> Any:
    sequence = groups.get("VOILUTSequence")
    return sequence[0] if sequence else None


def _through(values: np.ndarray, lut: Any) -> np.ndarray:
    """A VOI LUT, its entries spread over eight bits. Values beyond its ends take its first and last entry."""
    entries, start, bits = (int(n) for n in lut.LUTDescriptor)
    entries = entries or 1 << 16
    if start > 0x7FFF and np.min(values) < 0:
        start -= 1 << 16
    data = lut.LUTData
    table = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.asarray(data, np.int64) & 0xFFFF
    table = table[:entries]
    found = table[np.clip(np.rint(values).astype(np.int64) - start, 0, len(table) - 1)]
    return to_uint8(_deep(found), window=(0.0, float((1 << bits) - 1)))


def _deep(values: np.ndarray) -> np.ndarray:
    """`to_uint8` leaves uint8 as it is; a window applies to it all the same."""
    return values.astype(np.float32) if values.dtype == np.uint8 else values


def _first(value: Any) -> float | None:
    """Of an entry that may hold several: the first."""
    if value is None or value == "":
        return None
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return float(value)
    return float(value[0]) if len(value) else None
