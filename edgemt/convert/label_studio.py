"""Label Studio JSON: brush masks (run lengths of bits) and polygons, in per cent of the image.

Format: https://labelstud.io/guide/export and .../tags/brushlabels. The export "JSON", not "JSON-MIN". A task with
several annotations is refused, since it is not stated which one counts; cancelled ones do not count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from edgemt.convert.contract import ExportOptions, Format, ImportOptions, LabelMap, Listing
from edgemt.convert.drawn_images import LabelledImage, Shape, Size, label_root, list_drawn
from edgemt.convert.names import inner_path
from edgemt.convert.outlines import outlines
from edgemt.convert.polygons import corners_of, rasterise
from edgemt.convert.rle import decode_label_studio, encode_label_studio
from edgemt.convert.text_files import files_like, read_json, starts_like, whole_number
from edgemt.io.atomic import write_text

_AREAS = {"brushlabels": "brushlabels", "polygonlabels": "polygonlabels"}
_IGNORED = ("choices", "textarea", "rating", "labels", "number", "taxonomy", "relation")
_BEYOND = 1.0  # per cent that a corner may lie outside
_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")  # put before the name of an uploaded file


def detects(source: Path) -> bool:
    """A JSON list of tasks."""
    return any(map(_is_tasks, files_like(source, ".json", levels=1)))


def _is_tasks(path: Path) -> bool:
    with path.open("rb") as file:
        begins = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    return begins and starts_like(path, '"annotations"', '"data"', '"file_upload"', within=1 << 16)


def read(source: Path, options: ImportOptions) -> Listing:
    """All files of a folder, or one. A task without an annotation is unlabelled. Classes are sorted by name."""
    files = [path for path in files_like(source, ".json", levels=1) if _is_tasks(path)]
    if not files:
        raise ValueError(f"{source}: holds no list of Label Studio tasks; export 'JSON'")
    images = [image for path in files for image in _images_of(path)]
    classes = sorted({shape.label for image in images for shape in image.shapes})
    root = label_root(source, options)
    return list_drawn(images, classes, source=files[0], pictures=root, options=options, labels=tuple(files))


def _images_of(path: Path) -> Iterator[LabelledImage]:
    tasks = read_json(path)
    if not isinstance(tasks, list):
        raise ValueError(f"{path}: is no list of tasks; export 'JSON' from Label Studio")
    for number, task in enumerate(tasks, 1):
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            raise ValueError(f"{path}: task {number} has no 'data'; export 'JSON' from Label Studio, not 'JSON-MIN'")
        where = f"task {task.get('id', number)}"
        name = inner_path(file_of(task), source=path, field=f"{where}: image")
        counted = [a for a in task.get("annotations") or [] if not a.get("was_cancelled")]
        if len(counted) > 1:
            raise ValueError(
                f"{path}: {where} has {len(counted)} annotations; keep the one that counts, and export again"
            )
        shapes: list[Shape] = []
        size: Size | None = None
        for index, result in enumerate(counted[0].get("result") or [] if counted else [], 1):
            if result.get("type") in _IGNORED:
                continue
            shape, size = _shape(result, path, f"{where}, shape {index}")
            shapes.append(shape)
        yield LabelledImage(name, path, tuple(shapes), size, labelled=bool(counted))


def file_of(task: dict[str, Any]) -> str:
    """The file name of a task's image: of an upload, of local storage (?d=...), or of an address."""
    texts = [v for v in task["data"].values() if isinstance(v, str) and ("/" in v or "." in v)]
    text = str(task["data"].get("image") or (texts[0] if texts else ""))
    parts = urlsplit(text)
    if "d" in parse_qs(parts.query):
        return parse_qs(parts.query)["d"][0]
    path = unquote(parts.path)
    if parts.scheme or path.startswith("/data/"):
        return _UPLOAD.sub("", PurePosixPath(path).name)
    return path


def _shape(result: dict[str, Any], path: Path, where: str) -> tuple[Shape, Size]:
    kind, value = result.get("type"), result.get("value")
    if kind not in _AREAS or not isinstance(value, dict):
        raise ValueError(f"{path}: {where} is of type {kind}, no outline; draw it with a brush or as a polygon")
    labels = value.get(_AREAS[kind])
    if not isinstance(labels, list) or len(labels) != 1:
        raise ValueError(f"{path}: {where} has {labels or 'no'} labels; give it one")
    if result.get("image_rotation"):
        raise ValueError(f"{path}: {where} is of a turned image; turn it back in Label Studio")
    keys = ("original_height", "original_width")
    size = tuple(whole_number(result.get(k), source=path, field=f"{where}: {k}") for k in keys)
    return Shape(str(labels[0]).strip(), partial(_draw, value, kind), where), size  # type: ignore[return-value]


def _draw(value: dict[str, Any], kind: str, size: Size) -> np.ndarray:
    if kind == "polygonlabels":
        corners = corners_of(value.get("points"))
        if corners.min() < -_BEYOND or corners.max() > 100 + _BEYOND:
            raise ValueError("its corners lie beyond 0 to 100; they are per cent of width and height")
        return rasterise([corners * (size[1] / 100, size[0] / 100)], size)
    if value.get("format") != "rle" or not isinstance(value.get("rle"), list):
        raise ValueError("its brush mask is not in the format rle")
    return decode_label_studio(value["rle"], size)


def write(classes: tuple[str, ...], maps: Iterator[LabelMap], path: Path, options: ExportOptions) -> None:
    """Tasks with an annotation or a prediction; the control is named `tag`, the image `image`, files are local storage.

    The labelling configuration needs <BrushLabels name="tag" toName="image"> or <PolygonLabels ...> with the classes.
    """
    tasks = []
    for number, label in enumerate(maps, 1):
        rows, columns = label.size
        common = {"from_name": "tag", "to_name": "image", "original_width": columns, "original_height": rows}
        results: list[dict[str, Any]] = []
        for k, area in label.regions(classes):
            for value, kind in values_of(area, classes[k], options):
                more = {"id": f"{number}-{len(results) + 1}", "type": kind, "image_rotation": 0}
                results.append({**common, **more, "value": value})
        task: dict[str, Any] = {"id": number, "data": {"image": f"/data/local-files/?d={label.image}"}}
        if options.predicted:
            task["predictions"] = [{"model_version": options.predicted, "result": results}]
        elif label.drawn:
            task["annotations"] = [{"result": results, "was_cancelled": False}]
        tasks.append(task)
    write_text(path, json.dumps(tasks) + "\n")


def values_of(area: np.ndarray, name: str, options: ExportOptions) -> Iterator[tuple[dict[str, Any], str]]:
    """(value, type) of the results that draw an area, bool [H, W]: one brush mask, or its polygons."""
    if not area.any():
        return
    if options.shapes != "polygon":
        yield {"format": "rle", "rle": encode_label_studio(area), "brushlabels": [name]}, "brushlabels"
        return
    per_cent = 100 / np.array(area.shape[::-1], np.float64)
    for corners in outlines(area, simplify=options.simplify):
        points = (corners * per_cent).tolist()
        yield {"points": points, "polygonlabels": [name], "closed": True}, "polygonlabels"


FORMAT = Format(
    about="Label Studio 'JSON': brush masks and polygons",
    detects=detects,
    read=read,
    write=write,
    suffix=".json",
    shapes=("rle", "polygon"),
)
