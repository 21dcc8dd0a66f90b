"""The inputs of `edgemt predict`: single files, folders, or several files a case for a model of several channels.

A case of several channels is given as t1.png+t2.png, in the order of the channels, as one NIfTI file that has them
along its fourth axis, or as a folder that names them as training does (`edgemt.data.layouts.channel_files`).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgemt.contract import Case
from edgemt.data.decode import read_channels
from edgemt.data.layouts.channel_files import Channels, first_of, holds_all, list_channels
from edgemt.data.same_grid import check_channels
from edgemt.io.array_values import check_not_constant
from edgemt.io.channels import card_depths, card_fill, card_names, split_stem
from edgemt.io.file_types import conversion_hint, is_h5, is_image, is_slice_folder, is_stray, is_volume
from edgemt.io.fourth_axis import STACKED, is_stacked
from edgemt.io.images import image_header, read_image
from edgemt.model_card import ModelCard

_OURS = (".mask.png", ".overlay.png", ".mask.nii.gz", ".uncertainty.png", ".uncertainty.nii.gz")
_VIDEO = (".mp4", ".avi", ".mov", ".mkv", ".m4v", ".webm", ".mpg", ".mpeg")
_NONE = "-"  # in t1.png+-: the case has no file of that channel


@dataclass(frozen=True)
class Input:
    """One image or volume. `channels`: its files where the model reads several, None for one that is missing."""

    path: Path
    channels: tuple[Path | None, ...] = field(default=())


def find_inputs(given: Sequence[Path], card: ModelCard, *, may_lack: bool = False) -> dict[str, Input]:
    """Name of the output -> input, in order.

    `may_lack`: a case may lack channels, also where training refused that. Raises ValueError in one line for files of
    another kind, for channels in another order than that of training, and for two inputs of one name.
    """
    names = card_names(card)
    if not names:
        return {name: Input(path) for name, path in _jobs(list(given), sliced=card.channel_order == "slices").items()}
    channels = Channels(names, may_lack or card.data.get("missing_channels") == "mean")
    jobs: dict[str, Input] = {}
    for path in given:
        for name, files in _folder(path, channels) if path.is_dir() else [_listed(path, channels)]:
            if name in jobs:
                raise ValueError(f"{path}: would write the same mask as {jobs[name].path}; predict it separately")
            jobs[name] = Input(first_of(files), files)
    if not jobs:
        raise ValueError("inputs: none given; name the files of a case with + between them, or a folder")
    if stacked := sum(is_stacked(item.channels) for item in jobs.values()):
        print(f"edgemt: {stacked} of {len(jobs)} {STACKED}: {', '.join(names)}", file=sys.stderr, flush=True)
    return jobs


def _folder(folder: Path, channels: Channels) -> list[tuple[str, tuple[Path | None, ...]]]:
    found = list_channels(folder, lambda path: _readable(path) and not path.name.endswith(_OURS), channels)
    if not found:
        raise ValueError(f"{folder}: holds no image or volume; name a folder of images, or files with + between them")
    return list(found.items())


def _listed(given: Path, channels: Channels) -> tuple[str, tuple[Path | None, ...]]:
    """The case of FILE+FILE. Raises ValueError where its files are not those of the channels, in their order."""
    names = channels.names
    order = "+".join(names)
    if given.is_file() and holds_all(given, names):
        return _stem(given), (given,) * len(names)
    parts = str(given).split("+")
    if len(parts) != len(names):
        raise ValueError(
            f"{given}: {len(parts)} file(s), this model reads {len(names)} channels of a case; give them as {order}, "
            f"a folder with CASE_{names[0]} and so on, or a 4-D NIfTI file with all of them"
        )
    files = [None if part == _NONE else Path(part) for part in parts]
    stems = []
    for number, path in enumerate(files):
        if path is None:
            continue
        if not path.exists():
            raise ValueError(f"{path}: no such file or folder")
        if not _readable(path) and not is_slice_folder(path):
            raise ValueError(conversion_hint(path) or f"{path}: neither an image nor a volume; convert it to PNG")
        found = split_stem(_stem(path), names)
        if found is not None and found[1] != number:
            named = names[found[1]] if found[1] < len(names) else f"number {found[1]}"
            raise ValueError(f"{path}: is channel {named} by its name, given as {names[number]}; the order is {order}")
        stems.append(found[0] if found is not None else _stem(path))
    name = stems[0] if stems else str(given)
    return name, channels.complete(name, files, where=given)


def read_input(item: Input, card: ModelCard) -> np.ndarray:
    """uint8 [H, W], [H, W, 3] or [H, W, K] of an image, [X, Y, K, Z] of the channels of a volume, by the card's rules.

    Not for a volume that is one file. Raises ValueError, naming the file, for what cannot be read.
    """
    if not item.channels:
        return check_not_constant(read_image(item.path), item.path)
    paths = tuple("" if path is None else str(path) for path in item.channels)
    axes = "" if is_image(item.path) else str(card.data.get("axes") or "")
    case = Case(item.path.stem, item.path.stem, str(item.path), axes=axes, channels=paths)
    names, compare = card_names(card), card.data.get("affines") != "ignore"
    headers = {path: image_header(path) for path in case.files if is_image(path)}
    check_channels([case], headers, names=names, compare=compare)
    depths = card_depths(card.data, source="card.json")
    return read_channels(case, names, depths, compare=compare, fill=card_fill(card))


def _jobs(inputs: list[Path], *, sliced: bool) -> dict[str, Path]:
    """Name of the output -> input, a folder's in order; what this program wrote before is not read again."""
    jobs: dict[str, Path] = {}
    inputs_found: dict[Path, str] = {}  # with the folder of the clip, "film/", for layout clips
    for given in inputs:
        if given.is_dir() and (clips := _clips(given)):
            for clip in clips:
                inputs_found |= dict.fromkeys(_inside(clip, sliced=sliced), "" if sliced else f"{clip.name}/")
            continue
        if given.is_dir():
            found = _inside(given, sliced=sliced)
        elif not given.exists():
            raise ValueError(f"{given}: no such file or folder")
        elif given.suffix.lower() in _VIDEO:
            raise ValueError(
                f"{given}: videos are not read here; `edgemt import {given.name} --out FRAMES` writes its frames, "
                "`edgemt stream` shows it live"
            )
        elif _readable(given):
            found = [given]
        else:
            other = conversion_hint(given)
            raise ValueError(
                other or f"{given}: neither an image nor a volume; convert it to PNG, JPEG, TIFF or .nii.gz"
            )
        inputs_found |= dict.fromkeys(found, "")
    if not inputs_found:
        raise ValueError("inputs: none given; name images, volumes or folders")
    stems = Counter(folder + _stem(path) for path, folder in inputs_found.items())
    for path, folder in inputs_found.items():
        stem = folder + _stem(path)
        name = stem if stems[stem] == 1 else folder + path.name  # a.png and a.jpg
        if name in jobs:
            raise ValueError(f"{path}: would write the same mask as {jobs[name]}; rename one or predict it separately")
        jobs[name] = path
    return jobs


def _stem(path: Path) -> str:
    return path.name[: -len(".nii.gz")] if path.name.lower().endswith(".nii.gz") else path.stem


def _clips(folder: Path) -> list[Path]:
    """The folders of a folder that has no image of its own: clips, as `edgemt import` writes them."""
    listed = [path for path in sorted(folder.iterdir()) if not is_stray(path)]
    if any(_readable(path) for path in listed):
        return []
    return [path for path in listed if path.is_dir() and any(map(_readable, path.iterdir()))]


def _inside(folder: Path, *, sliced: bool) -> list[Path]:
    """The inputs of a folder; where only volumes are read, images alone are the slices of one."""
    listed = sorted(p for p in folder.iterdir() if _readable(p) and not is_stray(p))
    found = [p for p in listed if not p.name.endswith(_OURS)]
    if not found:
        other = next((text for text in map(conversion_hint, sorted(folder.iterdir())) if text is not None), None)
        raise ValueError(other or f"{folder}: holds no image or volume; name a folder of images or a single file")
    if not sliced or not all(map(is_image, found)):
        return found
    if len(listed) > len(found):
        raise ValueError(f"{folder}: masks lie among the slices of this volume; move them and write to another folder")
    return [folder]


def _readable(path: Path) -> bool:
    return path.is_file() and (is_image(path) or is_volume(path) or is_h5(path))
