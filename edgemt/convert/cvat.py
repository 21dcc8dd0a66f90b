"""CVAT XML 1.1, "CVAT for images" and "CVAT for video": polygons and masks of run lengths. Boxes are refused.

Format: https://docs.cvat.ai/docs/manual/advanced/xml_format/. Shapes are drawn in the order of z_order, then of the
file. A task of a video names its frames by their number in the video (frame_000012). A frame of a video has a mask
where a shape is drawn on it; a track has its shape on every frame, between keyframes too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from edgemt.convert.contract import ExportOptions, Format, ImportOptions, LabelMap, Listing
from edgemt.convert.drawn_images import LabelledImage, Shape, Size, label_root, list_drawn
from edgemt.convert.names import inner_path
from edgemt.convert.outlines import outlines
from edgemt.convert.parts import part_of
from edgemt.convert.polygons import corners_of, on_image, rasterise
from edgemt.convert.rle import fill_runs, runs_of
from edgemt.convert.text_files import files_like, read_xml, starts_like, whole_number
from edgemt.io.atomic import write_bytes

_AREAS = ("polygon", "mask")
_REFUSED = ("box", "polyline", "points", "ellipse", "cuboid", "skeleton")


def detects(source: Path) -> bool:
    """An XML file with the element `annotations`."""
    return any(starts_like(path, "<annotations>") for path in files_like(source, ".xml", levels=1))


def read(source: Path, options: ImportOptions) -> Listing:
    """One file, or all of a folder; classes in the order of the labels of the task."""
    files = [path for path in files_like(source, ".xml", levels=1) if starts_like(path, "<annotations>")]
    if not files:
        raise ValueError(f"{source}: holds no CVAT file; export 'CVAT for images 1.1' or 'CVAT for video 1.1'")
    classes: dict[str, None] = {}
    images: list[LabelledImage] = []
    for path in files:
        root = read_xml(path)
        if root.tag != "annotations" or root.findtext("version", "1.1").strip() != "1.1":
            raise ValueError(f"{path}: is no CVAT XML of version 1.1; export 'CVAT for images 1.1'")
        found = [*_images(root, path), *_tracks(root, path)]
        stated = [str(node.text or "").strip() for node in root.iterfind("meta//labels/label/name")]
        classes.update(dict.fromkeys(stated))
        classes.update(dict.fromkeys(shape.label for image in found for shape in image.shapes))
        images += found
    pictures = label_root(source, options)
    return list_drawn(images, list(classes), source=files[0], pictures=pictures, options=options, labels=tuple(files))


def _video(root: Element) -> str:
    """Name of the video of a task; empty for images."""
    return (root.findtext("meta/task/source") or root.findtext("meta/source") or "").strip()


def _images(root: Element, path: Path) -> Iterator[LabelledImage]:
    for node in root.iterfind("image"):
        name = inner_path(node.get("name"), source=path, field="image name")
        size = tuple(whole_number(node.get(k), source=path, field=f"{name}: {k}") for k in ("height", "width"))
        areas = enumerate(_areas(node, path), 1)
        shapes = [(_z_order(area), _shape(area, path, f"{name}, shape {k}")) for k, area in areas]
        ordered = tuple(shape for _, shape in sorted(shapes, key=lambda pair: pair[0]))
        part = part_of(PurePosixPath(node.get("subset") or ""))
        yield LabelledImage(name, path, ordered, size, part=part, video=_video(root))  # type: ignore[arg-type]


def _tracks(root: Element, path: Path) -> Iterator[LabelledImage]:
    """The frames of "CVAT for video": a track has its shape of every frame, keyframes and those between."""
    tracks = root.findall("track")
    if not tracks:
        return
    size_node = root.find("meta/task/original_size")
    size_node = root.find("meta/original_size") if size_node is None else size_node
    size = None
    if size_node is not None:
        texts = [(k, (size_node.findtext(k) or "").strip()) for k in ("height", "width")]
        size = tuple(whole_number(text, source=path, field=k) for k, text in texts)
    shapes: dict[int, list[tuple[int, Shape]]] = defaultdict(list)
    for track in tracks:
        for node in _areas(track, path):
            if node.get("outside") == "1":
                continue
            node.set("label", track.get("label") or "")
            number = whole_number(node.get("frame"), source=path, field=f"track {track.get('id')}: frame")
            where = f"track {track.get('id')}, frame {number}"
            shapes[number].append((_z_order(node), _shape(node, path, where)))
    for number in sorted(shapes):
        ordered = tuple(shape for _, shape in sorted(shapes[number], key=lambda pair: pair[0]))
        name = PurePosixPath(f"frame_{number:06d}")
        yield LabelledImage(name, path, ordered, size, frame=number, video=_video(root))  # type: ignore[arg-type]


def _areas(parent: Element, path: Path) -> Iterator[Element]:
    for node in parent:
        if node.tag in _REFUSED:
            where = parent.get("name") or f"track {parent.get('id')}"
            raise ValueError(f"{path}: {where} holds a {node.tag}, no outline; draw polygons or masks, or delete it")
        if node.tag in _AREAS:
            yield node


def _z_order(node: Element) -> int:
    text = node.get("z_order") or "0"
    return int(text) if text.lstrip("-").isdigit() else 0


def _shape(node: Element, path: Path, where: str) -> Shape:
    label = (node.get("label") or "").strip()
    if not label:
        raise ValueError(f"{path}: {where} has no label; export it again")
    return Shape(label, partial(_draw_polygon if node.tag == "polygon" else _draw_mask, dict(node.attrib)), where)


def _draw_polygon(attributes: dict[str, str], size: Size) -> np.ndarray:
    pairs = [pair.split(",") for pair in attributes.get("points", "").split(";")]
    return rasterise([on_image(corners_of(pairs), size)], size)


def _draw_mask(attributes: dict[str, str], size: Size) -> np.ndarray:
    """Run lengths row by row inside the box left, top, width, height; zeros first."""
    try:
        left, top, width, height = (int(attributes[k]) for k in ("left", "top", "width", "height"))
        runs = [int(run) for run in attributes["rle"].split(",")]
    except (KeyError, ValueError):
        raise ValueError("its mask lacks rle, left, top, width or height") from None
    if min(left, top) < 0 or min(width, height) < 1 or top + height > size[0] or left + width > size[1]:
        raise ValueError(f"its mask reaches beyond the image of {size[1]} x {size[0]} pixels")
    area = np.zeros(size, bool)
    area[top : top + height, left : left + width] = fill_runs(runs, width * height).reshape(height, width)
    return area


def write(classes: tuple[str, ...], maps: Iterator[LabelMap], path: Path, options: ExportOptions) -> None:
    """Write "CVAT for images 1.1", which a task of the same images takes under Upload annotations."""
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    labels = SubElement(SubElement(SubElement(root, "meta"), "task"), "labels")
    for name in classes[1:]:
        SubElement(SubElement(labels, "label"), "name").text = name
    for number, label in enumerate(maps):
        rows, columns = label.size
        node = SubElement(root, "image", id=str(number), name=label.image, width=str(columns), height=str(rows))
        for value, area in label.regions(classes):
            _add_shapes(node, area, classes[value], options)
    ElementTree.indent(root)
    write_bytes(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _add_shapes(node: Element, area: np.ndarray, name: str, options: ExportOptions) -> None:
    source = "auto" if options.predicted else "manual"
    common = {"label": name, "source": source, "occluded": "0", "z_order": "0"}
    if options.shapes == "polygon":
        for corners in outlines(area, simplify=options.simplify):
            SubElement(node, "polygon", {**common, "points": ";".join(f"{x:g},{y:g}" for x, y in corners)})
        return
    rows, columns = np.flatnonzero(area.any(1)), np.flatnonzero(area.any(0))
    top, left, bottom, right = (int(v) for v in (rows[0], columns[0], rows[-1], columns[-1]))
    runs = runs_of(area[top : bottom + 1, left : right + 1].reshape(-1))
    box = {"left": left, "top": top, "width": right - left + 1, "height": bottom - top + 1}
    SubElement(node, "mask", {**common, "rle": ", ".join(map(str, runs)), **{k: str(v) for k, v in box.items()}})


FORMAT = Format(
    about="CVAT XML 1.1 of images or of a video: polygons and masks",
    detects=detects,
    read=read,
    write=write,
    suffix=".xml",
    shapes=("rle", "polygon"),
)
