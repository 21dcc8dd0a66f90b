"""The chosen images as a task of a label tool: copies of them, the file to upload, and masks drawn before by a model.

    OUT/cvat            images/, annotations.xml (CVAT for images 1.1), labels.json (for the Raw tab of the labels)
    OUT/label-studio    images/, tasks.json (masks are predictions), labelling_config.xml

Shapes: H W size of an image in pixels.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import quoteattr

import numpy as np

from edgemt.convert.contract import ExportOptions, LabelMap, Shapes
from edgemt.convert.registry import FORMATS
from edgemt.convert.writing import write_png
from edgemt.data_report.against import Teacher
from edgemt.data_report.listing import Item
from edgemt.inference.one_image import mask_of_image
from edgemt.io.atomic import make_folder, write_text
from edgemt.io.images import image_header, read_image
from edgemt.selection.select import Selection

TaskFormat = Literal["cvat", "label-studio"]
FILES: dict[TaskFormat, tuple[str, str]] = {
    "cvat": ("annotations.xml", "labels.json"),
    "label-studio": ("tasks.json", "labelling_config.xml"),
}
_SHOWN = (".png", ".jpg", ".jpeg", ".bmp", ".webp")  # what browsers show


def check_task(found: Sequence[Item], out: Path, format: TaskFormat) -> Path:
    """The folder of the task. Raises ValueError where one is there already, and for volumes."""
    folder = out / format
    if folder.exists():
        raise ValueError(
            f"{folder}: is there already, perhaps with corrected labels; move it away, or give another --out"
        )
    volume = next((item for item in found if not item.is_frame), None)
    if volume is not None:
        raise ValueError(
            f"{volume.image}: is a volume, {format} draws on images; leave --format out, and label in 3D Slicer"
        )
    return folder


def write_task(
    found: Selection,
    out: Path,
    *,
    format: TaskFormat,
    classes: Sequence[str],
    teacher: Teacher | None = None,
    shapes: Shapes = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the folder of a task; returns the path of the file to upload.

    `classes`: with the background; those of `teacher` count, where one draws the masks. Images that browsers do not
    show, with more than 8 bits or an EXIF orientation are written as PNG. Raises ValueError as `check_task` does, and
    for a folder of images that cannot be read.
    """
    folder = check_task(found.chosen, out, format)
    classes = tuple(teacher.card.classes if teacher is not None else classes)
    part = out / f".{format}.{os.getpid()}.part"
    try:
        maps = []
        for number, item in enumerate(found.chosen, 1):
            maps.append(_label_map(item, make_folder(part / "images"), found, teacher))
            if progress is not None:
                progress(number, len(found.chosen))
        write = FORMATS[format].write
        assert write is not None
        options = ExportOptions(shapes, predicted=teacher.name if teacher is not None else "")
        write(classes, iter(maps), part / FILES[format][0], options)
        write_text(part / FILES[format][1], _configuration(format, classes[1:], shapes))
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder / FILES[format][0]


def _label_map(item: Item, images: Path, found: Selection, teacher: Teacher | None) -> LabelMap:
    source = Path(item.image)
    header = image_header(source)
    as_it_is = source.suffix.lower() in _SHOWN and not header.deep and header.orientation == 1
    name = f"{item.name}{source.suffix.lower() if as_it_is else '.png'}"
    make_folder((images / name).parent)
    if as_it_is:
        shutil.copyfile(source, images / name)
    else:
        write_png(images / name, found.depth(read_image(source)))
    size = header.size[::-1] if header.orientation > 4 else header.size
    if teacher is None:
        return LabelMap(item.name, name, size, partial(np.zeros, size, np.uint8), drawn=False)
    mask = mask_of_image(source, teacher.card, lambda frames: teacher.predict(frames)[0])
    return LabelMap(item.name, name, size, lambda: mask)


def _configuration(format: TaskFormat, names: Sequence[str], shapes: Shapes) -> str:
    if format == "cvat":
        return json.dumps([{"name": name, "attributes": []} for name in names], indent=1) + "\n"
    tag = "PolygonLabels" if shapes == "polygon" else "BrushLabels"
    labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in names)
    image = '  <Image name="image" value="$image" zoom="true"/>\n'
    return f'<View>\n{image}  <{tag} name="tag" toName="image">\n{labels}  </{tag}>\n</View>\n'
