"""The channels of a case: images/T1/CASE.png, images/CASE_T1.png, nnU-Net's CASE_0000, or one file with a fourth axis.

All forms give a case the same name, by which masks, lists and patients are found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgemt.data.layouts.case_files import normalise_name
from edgemt.io.channels import split_stem
from edgemt.io.file_types import is_image, is_stray, is_volume, stem_of
from edgemt.io.fourth_axis import check_fourth_axis
from edgemt.io.volumes import geometry_of

# a file for each channel, in the order of the names; None for one that is missing; the same for all of a 4-D file
Files = tuple[Path | None, ...]


@dataclass(frozen=True)
class Channels:
    """The channels of a case by name; none for a case of one file. `may_lack`: a case may lack some of them."""

    names: tuple[str, ...] = ()
    may_lack: bool = False

    def complete(self, case: str, files: Sequence[Path | None], *, where: Path) -> Files:
        """The files of a case. Raises ValueError for a channel without a file, unless `may_lack`."""
        missing = [name for name, file in zip(self.names, files, strict=True) if file is None]
        first = next((file for file in files if file is not None), where)
        if missing and (not self.may_lack or len(missing) == len(files)):
            raise ValueError(
                f"{first}: {case!r} has no file of channel {missing[0]!r} (of {', '.join(self.names)}); add it, or "
                "allow it: --data.missing-channels mean in training, --missing-channels in predict"
            )
        return tuple(files)


def first_of(files: Files) -> Path:
    """The first file that is there."""
    return next(file for file in files if file is not None)


def channel_folders(images: Path, names: Sequence[str]) -> list[Path | None]:
    """The folders images/NAME of the channels, in any case; empty where there is none of them."""
    inside = {p.name.casefold(): p for p in images.iterdir() if p.is_dir() and not is_stray(p)}
    found = [inside.get(name.casefold()) for name in names]
    return found if any(found) else []


def list_channels(images: Path, wanted: Callable[[Path], bool], channels: Channels) -> dict[str, Files]:
    """Case -> its files, sorted by case.

    Raises ValueError, naming the file, for one that belongs to no channel, for two of one channel, and for a case that
    lacks one.
    """
    folders = channel_folders(images, channels.names)
    if folders:
        missing = [name for name, folder in zip(channels.names, folders, strict=True) if folder is None]
        if missing:
            raise ValueError(f"{images}: has no folder of channel {missing[0]!r} beside {_first_name(folders)}; add it")
        parts = [_inside(folder, wanted) if folder is not None else {} for folder in folders]
        cases = {case: [part.get(case) for part in parts] for case in dict.fromkeys(c for part in parts for c in part)}
    else:
        cases = _by_name(images, wanted, channels.names)
    return {case: channels.complete(case, files, where=images) for case, files in sorted(cases.items())}


def _first_name(folders: Sequence[Path | None]) -> str:
    return next(folder.name for folder in folders if folder is not None)


def _stem(path: Path) -> str:
    return normalise_name(stem_of(path) if is_image(path) or is_volume(path) or not path.is_dir() else path.name)


def _inside(folder: Path, wanted: Callable[[Path], bool]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if is_stray(path) or not wanted(path):
            continue
        stem = _stem(path)
        if stem in found:
            raise ValueError(f"{path}: a second file named {stem!r}, beside {found[stem].name}; rename one")
        found[stem] = path
    return found


def _by_name(images: Path, wanted: Callable[[Path], bool], names: tuple[str, ...]) -> dict[str, list[Path | None]]:
    cases: dict[str, list[Path | None]] = {}
    for path in sorted(images.iterdir()):
        if is_stray(path) or not wanted(path):
            continue
        if holds_all(path, names):
            case = _stem(path)
            if case in cases:
                raise ValueError(
                    f"{path}: a second file of case {case!r}, beside {first_of(tuple(cases[case]))}; move one"
                )
            cases[case] = [path] * len(names)
            continue
        case, number = split_channel(path, names)
        files = cases.setdefault(case, [None] * len(names))
        before = files[number]
        if before is not None:
            raise ValueError(f"{path}: a second file of channel {names[number]!r}, beside {before.name}; rename one")
        files[number] = path
    return cases


def holds_all(path: Path, names: Sequence[str]) -> bool:
    """Whether a volume has all channels along its fourth axis.

    Raises ValueError for another number of images there, for one that may be a time series, and for a file that is
    called as one of the channels.
    """
    if not is_volume(path):
        return False
    named = names_channel(path, names)
    try:
        geometry = geometry_of(path)
    except ValueError:
        if named:  # an error of its own is raised where the file is read
            return False
        raise
    if geometry.channels == 1:
        return False
    if named:
        raise ValueError(
            f"{path}: is one channel by its name and has {geometry.channels} images along a fourth axis; name it as "
            "its case if they are all channels, or split it"
        )
    check_fourth_axis(path, geometry, names)
    return True


def names_channel(path: Path, names: Sequence[str]) -> bool:
    """Whether the name of a file ends with that of a channel; a number tells nothing of a file with a fourth axis."""
    stem = _stem(path).casefold()
    return any(stem.endswith(f"{mark}{name.casefold()}") for name in names for mark in "_-. ")


def split_channel(path: Path, names: Sequence[str]) -> tuple[str, int]:
    """(case, number of the channel) by the name of a file. Raises ValueError for one that names no channel."""
    found = split_stem(_stem(path), names)
    if found is None:
        ends = ", ".join(f"_{name}" for name in names)
        raise ValueError(
            f"{path}: names no channel; its name must end with one of {ends} or _0000 to _{len(names) - 1:04d}, or the "
            f"channels lie in folders called so"
        )
    if found[1] >= len(names):
        raise ValueError(f"{path}: is channel {found[1]}, data.channel_names has {len(names)} ({', '.join(names)})")
    return found
