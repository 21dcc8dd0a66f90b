"""Masks of overlapping classes as files: one for each class of an image.

`edgemt predict` writes NAME.CLASS.mask.png of a model whose classes may overlap; training reads CLASS/NAME.png.

Shapes: H W size of a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgemt.io.file_types import stem_of
from edgemt.io.mask_files import Evidence, read_mask
from edgemt.io.mask_rule import Rule, overlapping_bits
from edgemt.io.masks import decide

ClassFiles = dict[str, tuple[Path, ...]]  # name of an image -> its mask of each class, in the order of the classes


def class_files(files: Mapping[str, Path], classes: Sequence[str]) -> ClassFiles | None:
    """The files by image, or None where they are not one for each class. `files`: name -> file; `classes`: names.

    Raises ValueError, naming a file, where a class has no mask of the image.
    """
    wanted = {_plain(name): k for k, name in enumerate(classes[1:])}
    if len(wanted) < 2:
        return None
    found: dict[str, dict[int, Path]] = {}
    for name, path in files.items():
        image, title = _parts(name, path)
        if image is None or title not in wanted:
            return None
        found.setdefault(image, {})[wanted[title]] = path
    for image, masks in found.items():
        lacks = [name for k, name in enumerate(classes[1:]) if k not in masks]
        if lacks:
            raise ValueError(f"{min(masks.values())}: is a mask of one class of {image}; add that of {lacks[0]}")
    return {image: tuple(masks[k] for k in sorted(masks)) for image, masks in found.items()}


def rules_of(files: ClassFiles, classes: Sequence[str], evidence: Mapping[Path, Evidence]) -> tuple[Rule, ...]:
    """How the masks of each class are read, from `evidence` of all its files: two classes, as training reads them."""
    each = zip(*files.values(), strict=True)
    return tuple(
        decide([evidence[path] for path in paths], classes=(classes[0], name))
        for name, paths in zip(classes[1:], each, strict=True)
    )


def read_bits(paths: Sequence[Path], rules: Sequence[Rule]) -> np.ndarray:
    """uint8 [H, W], bits of the classes (`edgemt.io.class_regions`). Raises ValueError for masks of several sizes."""
    return overlapping_bits(rules, [read_mask(path) for path in paths])


def _parts(name: str, path: Path) -> tuple[str | None, str]:
    """Image and class of a mask; None for the image where the name has no class."""
    if stem_of(path).endswith(".mask"):
        image, dot, title = name.rpartition(".")
        return (image if dot else None), _plain(title)
    title, slash, image = name.partition("/")
    return (image if slash else None), _plain(title)


def _plain(name: str) -> str:
    return name.lower().replace(" ", "_")
