"""Readers of two-dimensional sets: masks of one object, of values, colours, folders, polygons and run lengths.

Shapes: H W size of an image in pixels.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from edgemt.convert.contract import Loaded
from edgemt.convert.datasets.row import DataSet, Found
from edgemt.convert.polygons import corners_of, rasterise
from edgemt.convert.text_files import read_text, read_xml
from edgemt.io.images import image_header, opened_image, read_label

Load = Callable[[Found, DataSet], Loaded]
MaskReader = Callable[[Found, DataSet], np.ndarray]  # uint8 [H, W], 1 for the first class


def pictures(read: MaskReader) -> Load:
    """Images that are copied as they are, with a mask of the same size."""

    def load(found: Found, row: DataSet) -> Loaded:
        return Loaded(found.images[0], read(found, row) if found.labels else None)

    return load


def bright(threshold: int = 128) -> MaskReader:
    """One class: pixels of which a channel has at least `threshold`. JPEG masks have noise around 0 and 255."""

    def read(found: Found, row: DataSet) -> np.ndarray:
        return _brightness(found.labels[0]) >= threshold

    return lambda found, row: read(found, row).astype(np.uint8)


def _brightness(path: Path) -> np.ndarray:
    """uint8 [H, W]: the largest channel; of masks with 1 bit 0 and 255."""
    with opened_image(path, what="mask") as (image, _):
        if image.mode in ("L", "1"):
            return np.asarray(image.convert("L"))
        return np.asarray(image.convert("RGB")).max(-1)


def objects(found: Found, row: DataSet) -> np.ndarray:
    """One class: every value above 0, as in masks that number each object."""
    return (read_label(found.labels[0]) != 0).astype(np.uint8)


def values(classes: Mapping[int, int]) -> MaskReader:
    """Value of a pixel -> class; other values are refused."""

    def read(found: Found, row: DataSet) -> np.ndarray:
        return mapped(read_label(found.labels[0]), classes, found.labels[0], row)

    return read


def mapped(label: np.ndarray, classes: Mapping[int, int], path: Path, row: DataSet) -> np.ndarray:
    """uint8 classes of stored values. Raises ValueError, naming the file, for a value that is not in `classes`."""
    out = np.zeros(label.shape, np.uint8)
    for value in np.unique(label).tolist():
        if value not in classes:
            raise row.undefined(path, f"the value {value}")
        if classes[value]:
            out[label == value] = classes[value]
    return out


def colours(classes: Mapping[tuple[int, int, int], int]) -> MaskReader:
    """RGB colour of a pixel -> class; other colours are refused. An alpha channel is ignored."""
    codes = {r << 16 | g << 8 | b: index for (r, g, b), index in classes.items()}

    def read(found: Found, row: DataSet) -> np.ndarray:
        path = found.labels[0]
        with opened_image(path, what="mask") as (image, _):
            found_codes = np.asarray(image.convert("RGB")).astype(np.int32) @ (65536, 256, 1)
        for code in np.unique(found_codes).tolist():
            if code not in codes:
                raise row.undefined(path, f"the colour {code >> 16} {code >> 8 & 255} {code & 255}")
        return mapped(found_codes, codes, path, row)

    return read


def by_folder(class_of: Callable[[str, np.ndarray], np.ndarray | None]) -> MaskReader:
    """Several masks an image, each in a folder whose name tells what it shows.

    `class_of`: name of the folder and its mask -> uint8 classes to draw where they are above 0; None: unknown folder.
    """

    def read(found: Found, row: DataSet) -> np.ndarray:
        out: np.ndarray | None = None
        for path in found.labels:
            drawn = class_of(path.parent.name, read_label(path))
            if drawn is None:
                raise row.undefined(path, f"labels in the folder {path.parent.name!r}")
            if out is None:
                out = np.zeros(drawn.shape, np.uint8)
            elif out.shape != drawn.shape:
                raise ValueError(f"{path}: is {drawn.shape}, the masks beside it are {out.shape}; copy the set again")
            out[drawn > 0] = drawn[drawn > 0]
        assert out is not None
        return out

    return read


def aperio_regions(found: Found, row: DataSet) -> np.ndarray:
    """One class: the polygons of an Aperio ImageScope XML, .../Regions/Region/Vertices/Vertex with X and Y."""
    path, (height, width) = found.labels[0], image_header(found.images[0]).size
    mask = np.zeros((height, width), np.uint8)
    for number, region in enumerate(read_xml(path).iter("Region")):
        corners = [(vertex.get("X"), vertex.get("Y")) for vertex in region.iter("Vertex")]
        if len(corners) < 3:  # a click without an area
            continue
        try:
            mask |= rasterise([corners_of(corners)], (height, width))
        except ValueError as error:
            raise ValueError(f"{path}: region {number}: {error}; copy {row.title} again from {row.home}") from None
    return mask


def united_or_runs(found: Found, row: DataSet) -> np.ndarray:
    """One class: the union of one mask an object, or of the run lengths that a CSV has of this image.

    The CSV has the columns ImageId and EncodedPixels: pairs of start and length down the columns, counted from 1.
    """
    if found.labels[0].suffix.lower() != ".csv":
        masks = [_brightness(path) for path in found.labels]
        if any(mask.shape != masks[0].shape for mask in masks):
            raise ValueError(f"{found.labels[0].parent}: holds masks of several sizes; copy {row.title} again")
        return np.logical_or.reduce([mask > 0 for mask in masks]).astype(np.uint8)
    path, (height, width) = found.labels[0], image_header(found.images[0]).size
    flat = np.zeros(width * height, np.uint8)
    for text in _runs(path, path.stat().st_mtime_ns).get(found.name, ()):
        try:
            starts, lengths = np.array(text.split(), np.int64).reshape(-1, 2).T
        except ValueError:
            raise row.undefined(path, f"the run lengths {text[:40]!r} of {found.name}") from None
        if len(starts) and (starts.min() < 1 or lengths.min() < 0 or (starts + lengths - 1).max() > len(flat)):
            raise ValueError(f"{path}: run lengths of {found.name} end beyond its {len(flat)} pixels; copy it again")
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            flat[start - 1 : start - 1 + length] = 1
    return flat.reshape(width, height).T.copy()


@lru_cache(maxsize=2)
def _runs(path: Path, mtime_ns: int) -> dict[str, list[str]]:
    rows = csv.DictReader(io.StringIO(read_text(path)))
    if not {"ImageId", "EncodedPixels"} <= set(rows.fieldnames or ()):
        raise ValueError(f"{path}: has no columns ImageId and EncodedPixels; copy it again")
    found: dict[str, list[str]] = {}
    for line in rows:
        found.setdefault(line["ImageId"], []).append(line["EncodedPixels"] or "")
    return found
