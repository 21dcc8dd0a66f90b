"""The export: label maps, also predicted ones, to a label tool.

Shapes: H W size of a mask, X Y Z voxels of a volume.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from edgemt.convert.class_masks import ClassFiles, class_files, read_bits, rules_of
from edgemt.convert.contract import BACKGROUND, MANIFEST, ExportOptions, Format, LabelMap, Volume
from edgemt.convert.outlines import outlines
from edgemt.convert.polygons import rasterise
from edgemt.convert.registry import FORMATS
from edgemt.errors import unknown_name_message
from edgemt.io.atomic import make_folder
from edgemt.io.file_types import is_image, is_stray, is_volume, natural_sort_key, stem_of
from edgemt.io.images import image_header
from edgemt.io.mask_files import Evidence, of_array, read_mask
from edgemt.io.mask_rule import Rule
from edgemt.io.masks import decide
from edgemt.io.volumes import read_label_volume

# what `edgemt predict` writes beside masks, the regions of contours for each class too
_NOT_MASKS = re.compile(r"\.(?:overlay|uncertainty|(?:outer|inner)(?:\.[^.]+)?\.mask)$")


@dataclass
class Loss:
    """Pixels that simplified polygons change, summed over all masks."""

    changed: int = 0
    labelled: int = 0

    def line(self) -> str:
        """One line for the user."""
        share = 100 * self.changed / max(self.labelled, 1)
        return f"simplified outlines change {self.changed} pixels, {share:.2f} % of the areas"


def export_labels(
    masks: Path,
    out: Path,
    *,
    format: str,
    images: Path | None = None,
    classes: tuple[str, ...] = (),
    options: ExportOptions | None = None,
    tell: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write the masks of a folder in the format of a label tool; returns the file or folder made.

    `masks`: label maps as training reads them, or NAME.mask.png of `edgemt predict`, in folders CLIP/ too; of classes
    that overlap a file for each class, NAME.CLASS.mask.png or CLASS/NAME.png, which needs `classes`. `images`:
    their images, for names with suffixes; without it each image is named NAME.png. `classes`: with the background;
    those of manifest.json beside or above the masks where they are not given. Raises ValueError in one line.
    """
    options = options or ExportOptions()
    row = _format(format, options)
    if row.write_volume is not None:
        return _export_volumes(row.write_volume, masks, out, classes=classes, suffix=row.suffix, progress=progress)
    files = _mask_files(masks)
    evidence = {path: read_mask(path).evidence for path in files.values()}
    classes = _classes(masks, classes, list(evidence.values()))
    by_class = class_files(files, classes)
    if by_class is not None:
        maps = _overlapping_maps(by_class, rules_of(by_class, classes, evidence), images)
    else:
        rule = decide(list(evidence.values()), classes=classes)
        names = _image_names(images, files)
        maps = [_label_map(name, path, names, partial(_indices, path, rule)) for name, path in files.items()]
    loss = Loss()
    rows = _counted(maps, progress)
    if options.simplify > 0:
        rows = _measured(rows, classes, options, loss)
    _write(row, classes, rows, out, options)
    kind = "" if by_class is None else "overlapping "
    tell(f"{len(maps)} masks, {kind}classes {', '.join(classes[1:])}: {out}")
    if options.simplify > 0:
        tell(loss.line())
    return out


def _format(name: str, options: ExportOptions) -> Format:
    known = {key: row for key, row in FORMATS.items() if row.write is not None or row.write_volume is not None}
    if name not in known:
        raise ValueError(unknown_name_message("format", name, known))
    shapes = known[name].shapes
    if options.shapes != "auto" and options.shapes not in shapes:
        raise ValueError(
            f"shapes: {name} has {' and '.join(shapes) or 'pixels'} alone; leave out --shapes {options.shapes}"
        )
    if options.simplify < 0:
        raise ValueError(f"simplify: must not be negative, is {options.simplify:g}")
    if options.simplify and "polygon" not in (options.shapes, *shapes[:1]):
        raise ValueError("simplify: shortens polygons; add --shapes polygon, or leave it out")
    return known[name]


def _export_volumes(
    write: Callable[[tuple[str, ...], Volume, Path], None],
    masks: Path,
    out: Path,
    *,
    classes: tuple[str, ...],
    suffix: str,
    progress: Callable[[int, int], None],
) -> Path:
    """NIfTI label volumes, one or a folder of them, as a file or a folder."""
    files = [masks] if masks.is_file() else sorted(p for p in masks.glob("*") if is_volume(p) and not is_stray(p))
    files = [path for path in files if not _NOT_MASKS.search(stem_of(path))]
    if not files:
        raise ValueError(f"{masks}: holds no NIfTI label volume; name a folder of .nii.gz, or one file")
    if masks.is_file() and not out.name.endswith(suffix):
        raise ValueError(f"out: {out} must end in {suffix}")
    labels = [read_label_volume(path) for path in files]
    evidence = [of_array(array, path).evidence for path, array in zip(files, labels, strict=True)]
    classes = _classes(masks, classes, evidence)
    if class_files({stem_of(path).removesuffix(".mask"): path for path in files}, classes) is not None:
        raise ValueError(
            f"{files[0]}: is the mask of one of several overlapping classes, and a label volume has one class a voxel; "
            "export each class from a folder of its own, with --classes background CLASS"
        )
    rule = decide(evidence, classes=classes)
    for number, (path, array) in enumerate(zip(files, labels, strict=True), 1):
        import nibabel

        affine = np.asarray(nibabel.load(path).affine)  # type: ignore[attr-defined]
        target = out if masks.is_file() else out / f"{stem_of(path).removesuffix('.mask')}{suffix}"
        write(classes, Volume(rule.indices(of_array(array, path)), affine), target)
        progress(number, len(files))
    return out


def _write(row: Format, classes: tuple[str, ...], maps: Iterator[LabelMap], out: Path, options: ExportOptions) -> None:
    assert row.write is not None
    if not row.folder:
        if row.suffix and not out.name.endswith(row.suffix):
            raise ValueError(f"out: {out} must end in {row.suffix}")
        row.write(classes, maps, out, options)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out: {out} is not empty; give another folder")
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        row.write(classes, maps, make_folder(part), options)
        if out.exists():
            out.rmdir()
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _mask_files(folder: Path) -> dict[str, Path]:
    """Name -> file, in natural order; in folders CLIP the name is CLIP/FRAME. Raises ValueError where there is none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of masks")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*"), key=lambda p: natural_sort_key(p.relative_to(folder).as_posix())):
        if not is_image(path) or is_stray(path) or not path.is_file() or _NOT_MASKS.search(path.stem):
            continue
        stem = path.relative_to(folder).with_suffix("").as_posix()
        name = stem.removesuffix(".mask")
        if name in found:
            raise ValueError(f"{path}: a second mask named {name}, beside {found[name].name}; remove one")
        found[name] = path
    if not found:
        raise ValueError(f"{folder}: holds no mask image; name a folder of PNG masks")
    return found


def _classes(masks: Path, given: tuple[str, ...], evidence: list[Evidence]) -> tuple[str, ...]:
    if given:
        return given if given[0] == BACKGROUND else (BACKGROUND, *given)
    for folder in (masks, *list(masks.resolve().parents)[:2]):
        try:
            names = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["classes"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(names, list) and len(names) > 1:
            return tuple(str(name) for name in names)
    top = max((one.top for one in evidence), default=0)
    count = (
        2 if top >= 255 or any(one.kind != "grey" and one.kind != "palette" for one in evidence) else max(top, 1) + 1
    )
    return (BACKGROUND, *(f"class{k}" for k in range(1, count)))


def _image_names(folder: Path | None, files: dict[str, Path]) -> dict[str, Path | None]:
    """Image of each mask. Raises ValueError where `folder` is given and has none."""
    if folder is None:
        return dict.fromkeys(files)
    found: dict[str, Path | None] = {}
    known = {p.relative_to(folder).with_suffix("").as_posix(): p for p in folder.rglob("*") if is_image(p)}
    for name, path in files.items():
        if name not in known:
            raise ValueError(f"{path}: has no image named {name} in {folder}; add it, or leave out --images")
        found[name] = known[name].relative_to(folder)
        header = image_header(known[name])
        if header.size != image_header(path).size and header.size[::-1] != image_header(path).size:
            raise ValueError(f"{path}: is of another size than {known[name]}; export masks of these images")
    return found


def _overlapping_maps(files: ClassFiles, rules: tuple[Rule, ...], images: Path | None) -> list[LabelMap]:
    firsts = {name: paths[0] for name, paths in files.items()}
    names = _image_names(images, firsts)
    read = {name: partial(read_bits, paths, rules) for name, paths in files.items()}
    return [replace(_label_map(name, path, names, read[name]), overlapping=True) for name, path in firsts.items()]


def _label_map(name: str, path: Path, names: dict[str, Path | None], read: Callable[[], np.ndarray]) -> LabelMap:
    image = names[name]
    header = image_header(path)
    size = header.size[::-1] if header.orientation > 4 else header.size
    file = image.as_posix() if image is not None else f"{name}.png"
    return LabelMap(name, file, size, read)


def _indices(path: Path, rule: Rule) -> np.ndarray:
    return rule.indices(read_mask(path))


def _counted(maps: list[LabelMap], progress: Callable[[int, int], None]) -> Iterator[LabelMap]:
    for number, label in enumerate(maps, 1):
        yield label
        progress(number, len(maps))


def _measured(
    maps: Iterator[LabelMap], classes: tuple[str, ...], options: ExportOptions, loss: Loss
) -> Iterator[LabelMap]:
    for label in maps:
        mask = label.read()
        label = replace(label, read=partial(np.asarray, mask))
        for _, area in label.regions(classes):
            drawn = np.zeros(mask.shape, bool)
            for corners in outlines(area, simplify=options.simplify):
                drawn |= rasterise([corners], area.shape)
            loss.changed += int((drawn != area).sum())
            loss.labelled += int(area.sum())
        yield label
