"""DICOM files of every kind of pixel that is read, with the picture that each stands for."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

SIZE = (24, 32)


def dataset(sop: str = uid.UltrasoundMultiFrameImageStorage, syntax: str = uid.ExplicitVRLittleEndian) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = syntax
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = sop
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    image.PatientName, image.PatientID, image.PatientBirthDate = "Nobody", "x", ""
    image.PatientSex, image.StudyInstanceUID, image.SeriesInstanceUID = "O", uid.generate_uid(), uid.generate_uid()
    image.StudyID, image.SeriesNumber, image.InstanceNumber, image.Modality = "1", 1, 1, "US"
    image.StudyDate, image.StudyTime, image.AccessionNumber, image.ReferringPhysicianName = "20240101", "1010", "", ""
    image.Manufacturer = "x"
    return image


def grey(
    values: np.ndarray, *, stored: int = 8, kind: str = "MONOCHROME2", signed: bool = False, **more: Any
) -> Dataset:
    """[F, H, W] stored values."""
    image = dataset(syntax=more.pop("syntax", uid.ExplicitVRLittleEndian), sop=more.pop("sop", dataset.__defaults__[0]))
    allocated = more.pop("allocated", 8 if stored <= 8 else 16)
    big = ">" if image.file_meta.TransferSyntaxUID == uid.ExplicitVRBigEndian else "<"
    mask = (1 << stored) - 1
    data = (values.astype(np.int64) & (mask if not signed else (1 << allocated) - 1)).astype(f"{big}u{allocated // 8}")
    return filled(image, data.tobytes(), values.shape[:3], stored, allocated, kind, signed=signed, **more)


def colour(
    pixels: np.ndarray, *, kind: str = "RGB", planar: int = 0, syntax: str = uid.ExplicitVRLittleEndian
) -> Dataset:
    """uint8 [F, H, W, 3] in RGB, stored as `kind`."""
    image = dataset(syntax=syntax)
    stored = pixels if kind == "RGB" else ybr(pixels)
    if kind == "YBR_FULL_422":
        stored = half(stored)
    elif planar:
        stored = stored.transpose(0, 3, 1, 2)
    return filled(image, stored.tobytes(), pixels.shape[:3], 8, 8, kind, SamplesPerPixel=3, PlanarConfiguration=planar)


def palette(indices: np.ndarray, table: np.ndarray, *, bits: int = 8) -> Dataset:
    """[F, H, W] of indices into `table` [N, 3] of `bits`."""
    image = dataset()
    for name, column in zip(("Red", "Green", "Blue"), table.T, strict=True):
        setattr(image, f"{name}PaletteColorLookupTableDescriptor", [len(table), 0, bits])
        data = column.astype("<u2" if bits == 16 else "u1").tobytes()
        setattr(image, f"{name}PaletteColorLookupTableData", data)
    return filled(image, indices.astype(np.uint8).tobytes(), indices.shape, 8, 8, "PALETTE COLOR")


def jpeg(pixels: np.ndarray, *, format: str = "JPEG", syntax: str = uid.JPEGBaseline8Bit, **options: Any) -> Dataset:
    """uint8 [F, H, W] or [F, H, W, 3], compressed by Pillow."""
    parts = []
    for picture in pixels:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format, **options)
        parts.append(buffer.getvalue())
    kind = "MONOCHROME2" if pixels.ndim == 3 else ("YBR_FULL_422" if format == "JPEG" else "YBR_RCT")
    more = {} if pixels.ndim == 3 else {"SamplesPerPixel": 3, "PlanarConfiguration": 0}
    return filled(dataset(syntax=syntax), encapsulate(parts), pixels.shape[:3], 8, 8, kind, **more)


def filled(
    image: Dataset, data: bytes, shape: tuple[int, ...], stored: int, allocated: int, kind: str, *,
    signed: bool = False, **more: Any,
) -> Dataset:  # fmt: skip
    image.NumberOfFrames, image.Rows, image.Columns = shape
    image.FrameTime, image.FrameIncrementPointer = "40", 0x00181063
    image.BitsAllocated, image.BitsStored, image.HighBit = allocated, stored, stored - 1
    image.PixelRepresentation, image.PhotometricInterpretation, image.SamplesPerPixel = int(signed), kind, 1
    for name, value in more.items():
        setattr(image, name, value)
    image.PixelData = data + b"\0" * (len(data) % 2)
    image["PixelData"].VR = "OW" if allocated > 8 else "OB"
    image["PixelData"].is_undefined_length = image.file_meta.TransferSyntaxUID.is_encapsulated
    return image


def save(image: Dataset, path: Path) -> Path:
    image.save_as(path, enforce_file_format=True)
    return path


def ybr(pixels: np.ndarray) -> np.ndarray:
    """PS3.3 C.7.6.3.1.2, YBR_FULL."""
    matrix = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    return np.clip(np.rint(pixels @ matrix.T + [0, 128, 128]), 0, 255).astype(np.uint8)


def rgb(stored: np.ndarray) -> np.ndarray:
    """The way back from YBR_FULL."""
    y, b, r = (stored[..., k].astype(float) - (0, 128, 128)[k] for k in range(3))
    out = np.stack([y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b], -1)
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def half(stored: np.ndarray) -> np.ndarray:
    """YBR [F, H, W, 3] -> [F, H, W / 2, 4]: two luminances and the colour of the first."""
    return np.stack([stored[:, :, 0::2, 0], stored[:, :, 1::2, 0], stored[:, :, 0::2, 1], stored[:, :, 0::2, 2]], -1)


def smooth(frames: int = 3, *, seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """uint8 [F, H, W, 3] without noise, every frame another."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]] / max(size)
    draw = np.random.default_rng(seed)
    waves = [np.sin(x * a + y * b + c) for a, b, c in draw.uniform(1, 5, (3 * frames, 3))]
    return np.rint(127.5 + 100 * np.stack(waves)).astype(np.uint8).reshape(frames, 3, *size).transpose(0, 2, 3, 1)
