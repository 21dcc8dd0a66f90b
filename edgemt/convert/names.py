"""Names in label files: paths that leave the folder of the import are refused; output files are named by them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from edgemt.convert.contract import BACKGROUND, MAX_CLASSES
from edgemt.data.layouts.case_files import normalise_name

_LONGEST = 200  # bytes of a name, so that suffixes fit the 255 of a file system
_BACKGROUNDS = (BACKGROUND, "_background_", "__background__")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\/]')


def inner_path(name: object, *, source: Path, field: str) -> PurePosixPath:
    """A file name of a label file as a relative path. Raises ValueError for one that leads out of its folder."""
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{source}: {field} is {name!r}, no file name; export the labels again")
    path = PurePosixPath(normalise_name(name.strip().replace("\\", "/")))
    outside = path.is_absolute() or ".." in path.parts or re.match(r"^[A-Za-z]:", str(path)) or "\0" in name
    if outside or not path.parts:
        raise ValueError(
            f"{source}: {field} {name!r} leads out of the folder; name images relative to it, or give --images DIR"
        )
    return path


def output_names(paths: Sequence[PurePosixPath]) -> list[str]:
    """One name for each relative path: the stem where all stems differ, else the whole path joined by '_'.

    Raises ValueError where two are still equal but for upper and lower case.
    """
    stems = [safe_name(path.stem) for path in paths]
    if len({stem.casefold() for stem in stems}) < len(stems):
        stems = [safe_name("_".join((*path.parent.parts, path.stem))) for path in paths]
    seen: dict[str, PurePosixPath] = {}
    for stem, path in zip(stems, paths, strict=True):
        if stem.casefold() in seen:
            raise ValueError(f"{path}: has the same name as {seen[stem.casefold()]}; rename one of the two images")
        seen[stem.casefold()] = path
    return stems


def safe_name(name: str) -> str:
    """A name that every file system takes: no separators, control characters, leading dots or trailing blanks."""
    plain = _UNSAFE.sub("_", normalise_name(name)).strip(" .") or "unnamed"
    while len(plain.encode("utf-8")) > _LONGEST:
        plain = plain[:-1]
    return plain


def class_names(found: Iterable[str], *, wanted: Sequence[str], source: Path) -> tuple[str, ...]:
    """Background and the classes of a label file; `wanted` chooses and orders them.

    Raises ValueError for a wanted class that does not occur, for two equal names, and for more than fit a mask.
    """
    known = list(dict.fromkeys(name for name in found if not is_background(name)))
    names = [name for name in wanted if not is_background(name)] if wanted else known
    for name in names:
        if name not in known:
            raise ValueError(
                f"{source}: has no class {name!r}; --classes takes {', '.join(known) or 'none: none is there'}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"--classes: {' '.join(wanted)} names a class twice; name each once")
    if not names:
        raise ValueError(f"{source}: names no class; draw a shape in the label tool and export again")
    if len(names) > MAX_CLASSES - 1:
        raise ValueError(f"{source}: has {len(names)} classes, a mask holds {MAX_CLASSES - 1}; choose with --classes")
    return (BACKGROUND, *names)


def is_background(name: str) -> bool:
    """Whether a label tool means the background by this name."""
    return name.strip().casefold() in _BACKGROUNDS
