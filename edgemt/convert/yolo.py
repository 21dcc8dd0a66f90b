"""YOLO segmentation: a text file for each image, a line for each polygon: class x1 y1 x2 y2 ... as fractions.

Format: https://docs.ultralytics.com/datasets/segment. Class names come from data.yaml (or another .yaml with `names`)
or classes.txt. Images lie in a folder `images`, texts in `labels` beside it. Boxes (four numbers) are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from edgemt.convert.contract import ExportOptions, Format, ImportOptions, LabelMap, Listing
from edgemt.convert.drawn_images import LabelledImage, Shape, Size, label_root, list_drawn
from edgemt.convert.outlines import outlines
from edgemt.convert.parts import TEST, part_of
from edgemt.convert.polygons import corners_of, rasterise
from edgemt.convert.text_files import files_like, read_text
from edgemt.io.atomic import write_text

_TOLERANCE = 1e-3  # that a fraction may lie beyond 0 to 1


def detects(source: Path) -> bool:
    """A folder with class names and a folder `labels`."""
    return source.is_dir() and _names_file(source) is not None and bool(_label_files(source))


def _names_file(source: Path) -> Path | None:
    found = [p for p in files_like(source, ".yaml", levels=0) if re.search(r"(?m)^names\s*:", read_text(p))]
    found += [p for p in [source / "classes.txt"] if p.is_file()]
    return found[0] if found else None


def _label_files(source: Path) -> list[Path]:
    return [path for path in files_like(source, ".txt", levels=3) if "labels" in path.relative_to(source).parts[:-1]]


def read(source: Path, options: ImportOptions) -> Listing:
    """A data set folder. An image without a text is unlabelled; an empty text is governed by --empty."""
    names = _names_file(source) if source.is_dir() else None
    if names is None:
        raise ValueError(f"{source}: has no data.yaml with names, and no classes.txt; add one, a name for each class")
    if re.search(r"(?m)^kpt_shape\s*:", read_text(names)):
        raise ValueError(f"{names}: states key points (kpt_shape), no outlines; export 'YOLO segmentation'")
    classes = _class_names(names)
    files = _label_files(source)
    if not files:
        raise ValueError(f"{source}: has no folder 'labels' with .txt files; name the folder above it")
    images, notes = _with_parts([_image_of(path, source, classes) for path in files], names)
    root = label_root(source, options)
    labels = (names,)
    return list_drawn(images, classes, source=names, pictures=root, options=options, labels=labels, notes=notes)


def _with_parts(images: Sequence[LabelledImage], names: Path) -> tuple[list[LabelledImage], tuple[str, ...]]:
    """The images with their part, by the names of their folders, or by the folders of `val:` and `test:` in data.yaml.

    Also a line where data.yaml states a part that no folder fits.
    """
    folders = [image.name.parent for image in images]
    parts, notes = [part_of(folder / "x") for folder in folders], []
    stated = dict(re.findall(r"(?m)^(train|val|test)\s*:\s*['\"]?([^\s'\"#\[]+)", read_text(names)))
    for part in ("val", TEST):
        where = stated.get(part, "").strip("./") if stated.get(part) != stated.get("train") else ""
        fits = [bool(where) and f"/{folder}/".endswith(f"/{where}/") for folder in folders]
        if any(fits) and not all(fits):
            parts = [part if fit else own for fit, own in zip(fits, parts, strict=True)]
        elif where and part not in parts:
            notes.append(f"{names.name} states {part}: {stated[part]}, which is no folder of labels here: all train")
    return [replace(image, part=part) for image, part in zip(images, parts, strict=True)], tuple(notes)


def _class_names(path: Path) -> list[str]:
    """Of `names:` in a .yaml, as a list or numbered lines, or the lines of classes.txt."""
    text = read_text(path)
    if path.suffix == ".txt":
        return [line.strip() for line in text.splitlines() if line.strip()]
    found = re.search(
        r"(?m)^names\s*:[ \t]*(\[[^\]]*\]|\{[^}]*\}|)[ \t]*(?:#.*)?$((?:\n[ \t]*(?:-|\d+[ \t]*:).*)*)", text
    )
    rows: list[str] = []
    if found and found.group(1):
        rows = found.group(1)[1:-1].split(",")
    elif found:
        rows = found.group(2).strip("\n").splitlines()
    pairs = [re.match(r"\s*(?:-|(\d+)\s*:)?(.*)", row) for row in rows]
    names = [pair[2].partition(" #")[0].strip().strip("'\"") if pair else "" for pair in pairs]
    if not names or not all(names):
        raise ValueError(f"{path}: its list of names cannot be read; write names: [first, second]")
    numbers = [int(pair[1]) for pair in pairs if pair and pair[1]]
    if numbers and sorted(numbers) != list(range(len(names))):
        raise ValueError(f"{path}: its names are numbered {numbers}, not 0 to {len(names) - 1}; number them anew")
    return [name for _, name in sorted(zip(numbers, names, strict=True))] if numbers else names


def _image_of(path: Path, source: Path, classes: list[str]) -> LabelledImage:
    shapes = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if not words[0].isdigit() or int(words[0]) >= len(classes):
            raise ValueError(f"{path}: line {number}: class {words[0]!r}, there are {len(classes)} names; add names")
        if len(words) == 5:
            raise ValueError(f"{path}: line {number} is a box, no outline; export 'YOLO segmentation'")
        shapes.append(Shape(classes[int(words[0])], partial(_draw, words[1:]), f"line {number}"))
    parts = path.relative_to(source).parts
    at = max(k for k, part in enumerate(parts[:-1]) if part == "labels")
    name = PurePosixPath(*parts[:at], "images", *parts[at + 1 : -1], path.stem)
    return LabelledImage(name, path, tuple(shapes))


def _draw(words: list[str], size: Size) -> np.ndarray:
    corners = corners_of(words)
    if corners.min() < -_TOLERANCE or corners.max() > 1 + _TOLERANCE:
        raise ValueError("its corners lie beyond 0 to 1; they are fractions of width and height")
    return rasterise([corners * (size[1], size[0])], size)


def write(classes: tuple[str, ...], maps: Iterator[LabelMap], path: Path, options: ExportOptions) -> None:
    """labels/NAME.txt of each mask and data.yaml; ten digits, so that corners come back to the same pixels."""
    names = json.dumps(list(classes[1:]), ensure_ascii=False)
    write_text(path / "data.yaml", f"path: .\ntrain: images\nval: images\nnames: {names}\n")
    for label in maps:
        lines = []
        for value, area in label.regions(classes):
            for corners in outlines(area, simplify=options.simplify):
                fractions = (corners / area.shape[::-1]).reshape(-1)
                lines.append(" ".join([str(value - 1), *(f"{v:.10g}" for v in fractions)]))
        write_text(path / "labels" / f"{label.name}.txt", "".join(f"{line}\n" for line in lines))


FORMAT = Format(
    about="YOLO segmentation: labels/*.txt and data.yaml; polygons",
    detects=detects,
    read=read,
    write=write,
    folder=True,
    shapes=("polygon",),
)
