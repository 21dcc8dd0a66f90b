"""Frames of one DICOM file, rendered as the standard defines it: the same pixels for `predict` and `stream`.

The supported formats are listed in deploy/README.md; others are refused in one line. The steps, in the order
of PS3.3 C.11 and PS3.4 N.2: stored values; modality (rescale or LUT); window or VOI LUT, once; MONOCHROME1 inverted.
Colour images become RGB and have no window.

Shapes: F frames, H W size in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy.dicom.header import (
    GREY,
    PALETTE,
    PIXEL_DATA,
    VIDEO_SYNTAXES,
    check_readable,
    first_line,
    read_header,
)
from deploy.dicom.windows import Range, Window, as_deep
from edgemt.io.bit_depth import Depth
from edgemt.io.decode_errors import decoding
from edgemt.io.images import to_uint8

AUTO = Depth()
_PERCENTILES = (0.5, 99.5)  # of a volume without a window, as in training
_SAMPLED = 1 << 26  # values of a cine from which percentiles are computed


class DicomFile:
    """The frames of one file. Methods raise ValueError in one line that names the file.

    `header` is the data set; messages contain nothing of it that identifies a patient.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.header = read_header(self.path)
        with decoding(self.path, "DICOM", remedy="export it again"):
            check_readable(self.path, self.header)
            self.count = int(self.header.get("NumberOfFrames") or 1)
            self.size = (int(self.header.Rows), int(self.header.Columns))
            self.grey = self.header.PhotometricInterpretation in GREY

    def view(self, index: int, window: Window | Range | None) -> np.ndarray:
        """Frame `index` as uint8 [H, W] or [H, W, 3].

        `window` of a grey image: `shared_window`, or that of its volume; None applies the VOI LUT of the file, or
        takes 8-bit values unchanged.
        """
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
        """Values [H, W] of a grey image after the modality rescale or LUT; 8-bit values without either stay uint8."""
        from pydicom.pixels import apply_modality_lut

        stored, groups = self._decoded(index), self._groups(index)
        sequence = self.header.get("ModalityLUTSequence")
        if sequence:
            return np.asarray(apply_modality_lut(stored, self.header))
        slope, zero = (float(groups.get(name, usual)) for name, usual in (("RescaleSlope", 1), ("RescaleIntercept", 0)))
        if not (np.isfinite(slope) and np.isfinite(zero) and slope != 0):
            raise ValueError(f"{self.path}: its rescale ({slope:g}, {zero:g}) is not valid; export it again")
        return stored if (slope, zero) == (1, 0) else stored.astype(np.float64) * slope + zero

    def own_window(self, index: int) -> Window | None:
        """The first window of the file for this frame; None where it has no valid one."""
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
        """One window for all frames, so that a cine does not flicker: that of the file, or percentiles.

        None where a VOI LUT or 8-bit values need no window.
        """
        return window_of([self], depth) if self.grey else None

    def has_lut(self, index: int) -> bool:
        """True where the frame has a VOI LUT."""
        return _voi_lut(self._groups(index)) is not None

    def eight_bit(self, index: int) -> bool:
        """True for an 8-bit image without rescale, whose values are used unchanged."""
        header = self.header
        plain = int(header.BitsStored) == 8 and int(header.get("PixelRepresentation") or 0) == 0
        if not plain or header.get("ModalityLUTSequence"):
            return False
        groups = self._groups(index)
        return (float(groups.get("RescaleSlope", 1)), float(groups.get("RescaleIntercept", 0))) == (1, 0)

    def close(self) -> None:
        """Release the pixel data."""
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
        except Exception as error:  # each decoder raises its own types
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
        """A data set of one frame: pydicom assumes three bytes per pixel for native YBR_FULL_422, which has two."""
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
        """Pixel bytes of a native file, the data set of a compressed one; read once."""
        if "_data" not in self.__dict__:
            native = not self.header.file_meta.TransferSyntaxUID.is_encapsulated
            self._data: Any = self.header.PixelData if native else self.header
        return self._data


_VOI = ("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence")
_MODALITY = ("RescaleSlope", "RescaleIntercept")


def window_of(files: Sequence[DicomFile], depth: Depth = AUTO) -> Window | Range | None:
    """The common window of the files of a series.

    `depth` is the rule used in training: its window, or the percentiles of all values where training used those of each
    volume. For a model of 8-bit images, or without a rule: the window that all frames share; else None for 8-bit
    values, which stay unchanged, and the range between percentiles for others.

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


def video_inside(path: str | Path) -> bytes | None:
    """The MPEG or HEVC stream of a DICOM video, its fragments joined; None for any other file."""
    header = read_header(Path(path))
    if getattr(header.file_meta, "TransferSyntaxUID", "") not in VIDEO_SYNTAXES or PIXEL_DATA not in header:
        return None
    from io import BytesIO

    from pydicom.encaps import generate_fragments, parse_basic_offsets

    buffer = BytesIO(header.PixelData)
    parse_basic_offsets(buffer)
    return b"".join(generate_fragments(buffer))


def _voi_lut(groups: dict[str, Any]) -> Any:
    sequence = groups.get("VOILUTSequence")
    return sequence[0] if sequence else None


def _through(values: np.ndarray, lut: Any) -> np.ndarray:
    """Apply a VOI LUT and scale its entries to 8 bits; values beyond its ends take its first or last entry."""
    entries, start, bits = (int(n) for n in lut.LUTDescriptor)
    entries = entries or 1 << 16
    if start > 0x7FFF and np.min(values) < 0:
        start -= 1 << 16
    data = lut.LUTData
    table = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.asarray(data, np.int64) & 0xFFFF
    table = table[:entries]
    found = table[np.clip(np.rint(values).astype(np.int64) - start, 0, len(table) - 1)]
    return to_uint8(as_deep(found), window=(0.0, float((1 << bits) - 1)))


def _first(value: Any) -> float | None:
    """The first number of an element that may hold several; None for an empty one."""
    if value is None or value == "":
        return None
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return float(value)
    return float(value[0]) if len(value) else None
