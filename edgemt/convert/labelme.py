"""LabelMe: a JSON file beside each image, with shapes of kind polygon or mask.

Format: github.com/wkentaro/labelme, `labelme/label_file.py`. Rectangles, circles, lines and points are refused. The
image inside the JSON (imageData) is not read: the file beside it is.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgemt.convert.contract import ExportOptions, Format, ImportOptions, LabelMap, Listing
from edgemt.convert.drawn_images import LabelledImage, Shape, Size, label_root, list_drawn
from edgemt.convert.names import inner_path
from edgemt.convert.outlines import outlines
from edgemt.convert.polygons import corners_of, on_image, rasterise
from edgemt.convert.text_files import files_like, read_json, starts_like, whole_number
from edgemt.io.atomic import write_text
from edgemt.io.decode_limits import check_pixels
from edgemt.io.file_types import IMAGE_SUFFIXES

_VERSION = "5.5.0"  # of the files written


def detects(source: Path) -> bool:
    """A JSON file with LabelMe's `shapes` near its begin."""
    return any(map(_is_labelme, files_like(source, ".json", levels=1)))


def _is_labelme(path: Path) -> bool:
    return starts_like(path, '"shapes"', within=1 << 16)


def read(source: Path, options: ImportOptions) -> Listing:
    """All files of a folder, or one file. Classes are sorted by name unless --classes orders them."""
    files = [p for p in files_like(source, ".json", levels=1) if _is_labelme(p)]
    if not files:
        raise ValueError(f"{source}: holds no LabelMe file; name the folder of its .json files")
    root = label_root(source, options)
    images = [_image_of(path, source if source.is_dir() else source.parent) for path in files]
    classes = sorted({shape.label for image in images for shape in image.shapes})
    notes = _renamed_note(files, images)
    return list_drawn(images, classes, source=source, pictures=root, options=options, labels=(), notes=notes)


def _renamed_note(files: Sequence[Path], images: Sequence[LabelledImage]) -> tuple[str, ...]:
    """A line on files beside an image of their own name that name another one, as renaming leaves them."""
    pairs = [(path, image.name) for path, image in zip(files, images, strict=True) if path.stem != image.name.stem]
    found = [(path, name) for path, name in pairs if any(path.with_suffix(s).is_file() for s in IMAGE_SUFFIXES)]
    if not found:
        return ()
    path, name = found[0]
    return (
        f"{len(found)} label files name another image than that beside them, first {path.name}: {name.name} counts",
    )


def _image_of(path: Path, root: Path) -> LabelledImage:
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("shapes"), list):
        raise ValueError(f"{path}: has no list 'shapes'; save it with LabelMe 3 or later")
    name = inner_path(record.get("imagePath"), source=path, field="imagePath")
    size = tuple(whole_number(record.get(k), source=path, field=k) for k in ("imageHeight", "imageWidth"))
    shapes = []
    for number, entry in enumerate(record["shapes"], 1):
        if not isinstance(entry, dict) or not str(entry.get("label") or "").strip():
            raise ValueError(f"{path}: shape {number} has no label; name it in LabelMe")
        kind = entry.get("shape_type", "polygon")
        if kind not in ("polygon", "mask"):
            raise ValueError(f"{path}: shape {number} is a {kind}, no outline; draw it as a polygon or a mask")
        where = f"shape {number} ({entry['label']})"
        shapes.append(Shape(str(entry["label"]).strip(), partial(_draw, entry, kind), where))
    folder = path.parent.relative_to(root)
    return LabelledImage(folder / name if str(folder) != "." else name, path, tuple(shapes), size)  # type: ignore[arg-type]


def _draw(entry: dict[str, Any], kind: str, size: Size) -> np.ndarray:
    if kind == "polygon":
        return rasterise([on_image(corners_of(entry.get("points")), size)], size)
    corners = corners_of(entry.get("points"), least=2)
    left, top = np.rint(corners.min(0)).astype(int)
    try:
        with Image.open(io.BytesIO(base64.b64decode(str(entry.get("mask")), validate=True)), formats=("PNG",)) as image:
            check_pixels("mask", image.width, image.height)
            inside = np.asarray(image.convert("L")) > 0 if image.mode != "1" else np.asarray(image)
    except (binascii.Error, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise ValueError("its mask is no whole PNG") from None
    rows, columns = inside.shape
    if left < 0 or top < 0 or top + rows > size[0] or left + columns > size[1]:
        raise ValueError(f"its mask reaches beyond the image of {size[1]} x {size[0]} pixels")
    area = np.zeros(size, bool)
    area[top : top + rows, left : left + columns] = inside
    return area


def write(classes: tuple[str, ...], maps: Iterator[LabelMap], path: Path, options: ExportOptions) -> None:
    """A JSON file for each mask, in a folder; the images lie beside them, or in a folder above it."""
    for label in maps:
        shapes: list[dict[str, Any]] = []
        for value, area in label.regions(classes):
            shapes += _shapes(area, classes[value], options)
        record: dict[str, Any] = {
            "version": _VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": label.image,
            "imageData": None,
            "imageHeight": label.size[0],
            "imageWidth": label.size[1],
        }
        write_text(path / f"{label.name}.json", json.dumps(record, indent=1) + "\n")


def _shapes(area: np.ndarray, name: str, options: ExportOptions) -> Iterator[dict[str, Any]]:
    rest: dict[str, Any] = {"label": name, "group_id": None, "description": "", "flags": {}}
    if options.shapes == "polygon":
        for corners in outlines(area, simplify=options.simplify):
            yield {**rest, "points": corners.tolist(), "shape_type": "polygon", "mask": None}
        return
    rows, columns = np.flatnonzero(area.any(1)), np.flatnonzero(area.any(0))
    top, left, bottom, right = (int(v) for v in (rows[0], columns[0], rows[-1], columns[-1]))
    data = io.BytesIO()
    Image.fromarray(area[top : bottom + 1, left : right + 1].astype(np.uint8) * 255).save(data, "PNG")
    mask = base64.b64encode(data.getvalue()).decode("ascii")
    yield {**rest, "points": [[left, top], [right, bottom]], "shape_type": "mask", "mask": mask}


FORMAT = Format(
    about="LabelMe: a .json beside each image; polygons and masks",
    detects=detects,
    read=read,
    write=write,
    folder=True,
    shapes=("rle", "polygon"),
)
