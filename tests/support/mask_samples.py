"""Masks of one object in every file kind, and small folders of frames."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from PIL import Image

from edgemt.data.options import DataOptions
from edgemt.io import mask_files, masks

TRUTH = np.zeros((24, 32), np.uint8)
TRUTH[6:16, 8:20] = 1
TWO = ("background", "polyp")


def save_tiff(path: Path, array: np.ndarray, *, photometric: int = 1) -> None:
    """One strip, little-endian, one sample a pixel: kinds that Pillow cannot write."""
    kind = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    data, (h, w) = array.tobytes(), array.shape
    tags = [(256, 4, w), (257, 4, h), (258, 3, array.itemsize * 8), (259, 3, 1), (262, 3, photometric), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 4, h), (279, 4, len(data)), (339, 3, kind)]
    entries = b"".join(struct.pack("<HHII", tag, form, 1, value) for tag, form, value in tags)
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + b"\0" * 4
    )


def palette_image(array: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.frombytes("P", array.shape[::-1], np.ascontiguousarray(array).tobytes())
    image.putpalette([v for colour in colours for v in colour])
    return image


def colour_image(*colours: tuple[int, int, int], at: np.ndarray = TRUTH) -> Image.Image:
    return Image.fromarray(np.array(colours, np.uint8)[at])


def read_masks(folder: Path, *images: Image.Image, suffix: str = "png", **options: object) -> list[np.ndarray]:
    for i, image in enumerate(images):
        image.save(folder / f"m{i}.{suffix}")
    files = [mask_files.read_mask(folder / f"m{i}.{suffix}") for i in range(len(images))]
    rule = masks.decide([f.evidence for f in files], **{"classes": TWO, **options})  # type: ignore[arg-type]
    return [rule.indices(f) for f in files]


GREY = Image.fromarray(TRUTH * 255)
BIT = Image.fromarray(TRUTH.astype(bool))
INDEX = Image.fromarray(TRUTH)
ALPHA = Image.merge("RGBA", [Image.new("L", (32, 24))] * 3 + [GREY])

RAMP = np.arange(24 * 32, dtype=np.int64).reshape(24, 32)


def frame_folder(root: Path, *, orientation: int = 1, stored_masks: bool = False, names: str = "abc") -> DataOptions:
    inverse = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
    for part in ("train", "val"):
        for folder in ("images", "masks"):
            (root / part / folder).mkdir(parents=True, exist_ok=True)
        for i, name in enumerate(names):
            truth = np.roll(TRUTH, i, axis=1)
            ground = 30 if part == "train" else 31
            picture = Image.fromarray(np.stack([ground + 150 * truth] * 3, -1).astype(np.uint8))
            mask = Image.fromarray(truth * 255)
            exif = Image.Exif()
            exif[0x0112] = orientation
            if inverse is not None:
                picture = picture.transpose(inverse)
                mask = mask.transpose(inverse) if stored_masks else mask
            picture.save(root / part / "images" / f"{name}.jpg", quality=95, exif=exif)
            mask.save(root / part / "masks" / f"{name}.png")
    return DataOptions(root=root, size=(24, 32))
