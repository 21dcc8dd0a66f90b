"""COCO instances: one JSON file with images, categories and annotations; polygons and run lengths.

Format: https://cocodataset.org/#format-data. The polygons of one annotation are united; a box without a segmentation
is refused. Written masks are run lengths in text form (bit-exact), or polygons along the edges of pixels.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgemt.convert.contract import ExportOptions, Format, ImportOptions, LabelMap, Listing
from edgemt.convert.drawn_images import LabelledImage, Shape, Size, label_root, list_drawn
from edgemt.convert.names import inner_path
from edgemt.convert.outlines import outlines
from edgemt.convert.parts import part_of
from edgemt.convert.polygons import corners_of, on_image, rasterise
from edgemt.convert.rle import decode_coco, encode_coco
from edgemt.convert.text_files import files_like, read_json, starts_like, whole_number
from edgemt.io.atomic import write_text

_KEYS = ('"annotations"', '"categories"', '"images"', '"licenses"', '"info"')


def detects(source: Path) -> bool:
    """A JSON object that begins with one of COCO's keys."""
    return any(starts_like(p, *_KEYS) and not _is_list(p) for p in files_like(source, ".json"))


def _is_list(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


def read(source: Path, options: ImportOptions) -> Listing:
    """One file, or all of a folder, whose parts are known by names such as instances_val.json or test/labels.json."""
    files = [p for p in files_like(source, ".json") if starts_like(p, *_KEYS)]
    if not files:
        raise ValueError(f"{source}: holds no COCO file; export 'COCO' from the label tool, as a .json file")
    names: dict[int, str] = {}
    images: list[LabelledImage] = []
    for path in files:
        part = part_of(path.relative_to(source)) if len(files) > 1 else ""
        images += _images_of(path, names, part=part)
    classes = [names[key] for key in sorted(names)]
    return list_drawn(
        images, classes, source=files[0], pictures=label_root(source, options), options=options, labels=tuple(files)
    )


def _images_of(path: Path, names: dict[int, str], *, part: str) -> list[LabelledImage]:
    record = read_json(path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(record, dict) or not isinstance(record.get(key), list):
            raise ValueError(f"{path}: has no list {key!r}; export it again as COCO instances")
    for entry in record["categories"]:
        number, name = _id(entry, path, "categories"), str(entry.get("name", "")).strip()
        if not name or names.setdefault(number, name) != name:
            raise ValueError(
                f"{path}: category {number} is {name!r}, elsewhere {names.get(number)!r}; use one numbering"
            )
    shapes: dict[int, list[Shape]] = defaultdict(list)
    known = _known_images(record["images"], path)
    for entry in record["annotations"]:
        number = _id(entry, path, "annotations")
        image, category = (
            whole_number(entry.get(key), source=path, field=f"annotation {number}: {key}")
            for key in ("image_id", "category_id")
        )
        for key, value, all_ids in (("image_id", image, known), ("category_id", category, names)):
            if value not in all_ids:
                raise ValueError(f"{path}: annotation {number} has {key} {value}, which is not listed; export it again")
        where = f"annotation {number}"
        segmentation = entry.get("segmentation")
        if not segmentation:
            raise ValueError(f"{path}: {where} is a box without a segmentation; draw its outline, or leave it out")
        shapes[image].append(Shape(names[category], partial(_draw, segmentation), where))
    found = []
    for entry in record["images"]:
        number = _id(entry, path, "images")
        file = inner_path(entry.get("file_name"), source=path, field="file_name")
        size = tuple(whole_number(entry.get(k), source=path, field=f"image {number}: {k}") for k in ("height", "width"))
        found.append(LabelledImage(file, path, tuple(shapes.get(number, ())), size, part=part))  # type: ignore[arg-type]
    return found


def _known_images(entries: list[Any], path: Path) -> set[int]:
    """Their numbers. Raises ValueError for one that two images have: it is unclear whose its shapes are."""
    known: set[int] = set()
    for entry in entries:
        number = _id(entry, path, "images")
        if number in known:
            raise ValueError(
                f"{path}: image id {number} is listed twice, and its shapes could be of either image; number the "
                "images anew (files that were joined by hand?)"
            )
        known.add(number)
    return known


def _id(entry: Any, path: Path, key: str) -> int:
    if not isinstance(entry, dict):
        raise ValueError(f"{path}: {key} holds {entry!r}, no object; export it again")
    return whole_number(entry.get("id"), source=path, field=f"{key}: id")


def _draw(segmentation: Any, size: Size) -> np.ndarray:
    if isinstance(segmentation, dict):
        stated = segmentation.get("size")
        if stated != list(size):
            raise ValueError(f"its mask has the size {stated} (rows, columns), the image {list(size)}")
        counts = segmentation.get("counts")
        if not isinstance(counts, (list, str)):
            raise ValueError("its run lengths are missing")
        return decode_coco(counts, size)
    if not isinstance(segmentation, list):
        raise ValueError("its segmentation is neither polygons nor run lengths")
    area = np.zeros(size, bool)
    for polygon in segmentation:
        area |= rasterise([on_image(corners_of(polygon), size)], size)
    return area


def write(classes: tuple[str, ...], maps: Iterator[LabelMap], path: Path, options: ExportOptions) -> None:
    """One annotation for each class of an image; with polygons one for each area."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, label in enumerate(maps, 1):
        images.append({"id": number, "file_name": label.image, "height": label.size[0], "width": label.size[1]})
        for value, area in label.regions(classes):
            for segmentation, pixels in _segmentations(area, options):
                rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
                box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": value,
                        "segmentation": segmentation,
                        "area": int(pixels.sum()),
                        "bbox": [int(v) for v in box],
                        "iscrowd": int(isinstance(segmentation, dict)),
                    }
                )
    record = {
        "info": {"description": "written by edgemt export-labels"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": name, "supercategory": ""} for k, name in enumerate(classes) if k],
    }
    write_text(path, json.dumps(record) + "\n")


def _segmentations(area: np.ndarray, options: ExportOptions) -> Iterator[tuple[Any, np.ndarray]]:
    if options.shapes != "polygon":
        yield {"size": list(area.shape), "counts": encode_coco(area)}, area
        return
    for corners in outlines(area, simplify=options.simplify):
        pixels = rasterise([corners], area.shape)
        if pixels.any():
            yield [corners.reshape(-1).tolist()], pixels


FORMAT = Format(
    about="COCO instances .json: polygons, run lengths (CVAT, Label Studio, Roboflow, Supervisely write it)",
    detects=detects,
    read=read,
    write=write,
    suffix=".json",
    shapes=("rle", "polygon"),
)
