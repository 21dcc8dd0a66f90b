"""Masks of overlapping classes, a folder for each class: masks/CLASS/NAME.png, all black where the class is absent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgemt.io.file_types import is_stray

ByStem = Callable[[Path], dict[str, Path]]


def list_class_masks(masks: Path, classes: Sequence[str], by_stem: ByStem) -> dict[str, tuple[Path, ...]]:
    """Stem -> its mask files, one for each class in the order of `classes`; `by_stem` lists a folder.

    A folder is called as its class, in any case, with or without underscores for spaces. Raises ValueError, naming the
    folder, for a class without one, and for a mask that some class lacks.
    """
    inside = {_plain(path.name): path for path in masks.iterdir() if path.is_dir() and not is_stray(path)}
    missing = [name for name in classes if _plain(name) not in inside]
    if missing:
        folder = missing[0].replace(" ", "_")
        raise ValueError(
            f"{masks}: has no folder {folder!r} with the masks of that class; add it, or state the values of one mask "
            f"for all classes: --data.label-map {folder}=1,3 ..."
        )
    parts = [by_stem(inside[_plain(name)]) for name in classes]
    found: dict[str, tuple[Path, ...]] = {}
    for stem in sorted({stem for part in parts for stem in part}):
        files = [part.get(stem) for part in parts]
        there = [path for path in files if path is not None]
        if len(there) < len(files):
            folder = str(inside[_plain(classes[files.index(None)])])
            raise ValueError(
                f"{folder}: has no mask {stem!r}, which {there[0].parent.name!r} has; add it, all black for a class "
                "that is absent"
            )
        found[stem] = tuple(there)
    return found


def _plain(name: str) -> str:
    return name.casefold().replace(" ", "_")
