"""Several registered files of one case as the channels of a frame: MRI sequences, or a colour picture with its depth.

A channel is named; one called `rgb` has three planes, every other one has one. The frame holds the planes of all
channels in the order of their names. With neighbouring slices of a volume each plane is followed by those of its
neighbours: t1 of slice z - 1, z, z + 1, then t2 of the same.

Shapes: H W size in pixels, X Y Z voxels, K planes of all channels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgemt.io.bit_depth import Depth, of_card
from edgemt.io.decode_errors import Refused
from edgemt.io.images import as_grey

COLOUR = "rgb"  # a channel of this name, in any case, has three planes
ORDER = "channels"  # `channel_order` on the card of a model that reads them
_NUMBERED = re.compile(r"^(.+)_(\d{4})$")  # nnU-Net's CASE_0000


def planes_of(names: Sequence[str]) -> tuple[int, ...]:
    """Planes of each channel."""
    return tuple(3 if name.casefold() == COLOUR else 1 for name in names)


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError for fewer than two names, for equal ones, and for one that no file can have."""
    if len(names) == 1:
        raise ValueError(f"data.channel_names: {names[0]} alone is one channel; name two or more, or leave it out")
    if len({name.casefold() for name in names}) != len(names):
        raise ValueError(f"data.channel_names: {' '.join(names)} names a channel twice; give each its own name")
    for name in names:
        if not name.strip() or set(name) & set('/\\*?[]"\0') or name.startswith("."):
            raise ValueError(f"data.channel_names: {name!r} can be no part of a file name; use letters and digits")


def quoted(names: Sequence[str]) -> str:
    """The names as one writes them on a command line."""
    return " ".join(f"'{name}'" if " " in name else name for name in names)


def split_stem(stem: str, names: Sequence[str]) -> tuple[str, int] | None:
    """(case, number of the channel) of the stem of a file; None where it ends with no channel.

    `CASE_T2`, `CASE-T2`, `CASE.T2` or `CASE T2` by the name of the channel in any case, else nnU-Net's `CASE_0001`,
    whose number may be beyond the last name.
    """
    for number in sorted(range(len(names)), key=lambda k: -len(names[k])):
        name = names[number]
        if stem.casefold().endswith(name.casefold()) and stem[: -len(name)][-1:] in ("_", "-", ".", " "):
            case = stem[: -len(name) - 1]
            if case:
                return case, number
    found = _NUMBERED.match(stem)
    return (found[1], int(found[2])) if found else None


def card_names(card: Any) -> tuple[str, ...]:
    """The names of the channels that the model of a `ModelCard` reads, in their order; empty for a single picture."""
    if card.channel_order != ORDER:
        return ()
    names = card.data.get("channel_names")
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"card.json: data.channel_names {names!r} are no names; export the model again")
    return tuple(names)


def card_slices(card: Any) -> int:
    """Neighbouring slices of each channel in a frame of the model of a `ModelCard` of several channels, 1 for none.

    A 3-D network has none, whatever its student reads.
    """
    slices = card.data.get("slices", 1)
    return slices if card_names(card) and card.patch is None and slices in (3, 5) else 1


def neighbours_of(card: Any) -> int:
    """Neighbouring slices of a volume in a frame of the model, of one channel or of each of several; 1 for none."""
    return int(card.channels) if card.channel_order == "slices" else card_slices(card)


def card_fill(card: Any) -> np.ndarray:
    """uint8 [K]: what stands for a channel that a case lacks, one value a plane of one slice."""
    slices = card_slices(card)
    return fill_values(card.normalise.mean[::slices], card.channels // slices)


def card_depths(data: Mapping[str, Any], *, source: str | Path) -> tuple[Depth, ...]:
    """How each channel becomes 8 bits, by the card's `data`. Raises ValueError for an invalid rule."""
    names, rules = data.get("channel_names") or (), data.get("channel_depth") or ()
    if len(rules) != len(names):
        return tuple(of_card(dict(data), source=source) for _ in names)
    return tuple(of_card({**data, "depth": rule}, source=source) for rule in rules)


def check_card(card: Any) -> bool:
    """Whether the number of input channels fits the names of the channels on a card."""
    names = card_names(card)
    planes, slices = planes_of(names), card_slices(card)
    return len(names) > 1 and card.channels == sum(planes) * slices and (slices == 1 or max(planes) == 1)


def no_channels(card: Any, *, where: str | Path, what: str) -> None:
    """Raises ValueError for a model of several channels, where `what` can give it only one picture."""
    if names := card_names(card):
        raise ValueError(f"{where}: reads {len(names)} channels of a case ({', '.join(names)}), and {what}")


def picture_planes(array: np.ndarray, planes: int, *, path: str | Path) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] -> [H, W, planes]: colour for three planes, grey for one."""
    if planes == 3:
        return array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2)
    if array.ndim == 3 and array.shape[2] != 3:
        raise Refused(f"{path}: has {array.shape[2]} planes, a channel has 1 or is called {COLOUR}")
    return (array if array.ndim == 2 else as_grey(array))[..., None]


def fill_values(mean: Sequence[float], planes: int) -> np.ndarray:
    """uint8 [K]: what stands for a channel that a case lacks, the mean of the training images: 0 once normalised."""
    return np.rint(255 * np.broadcast_to(np.asarray(mean, np.float64), (planes,))).clip(0, 255).astype(np.uint8)


def join(parts: Sequence[np.ndarray | None], planes: Sequence[int], *, fill: np.ndarray | None = None) -> np.ndarray:
    """Planes [H, W, P] of each channel, or [X, Y, P, Z], -> uint8 with all K of them along the third axis.

    A channel that is None is filled with `fill`, uint8 [K], or 0.
    """
    first = next(part for part in parts if part is not None)
    values = np.zeros(sum(planes), np.uint8) if fill is None else fill
    out = np.empty((*first.shape[:2], sum(planes), *first.shape[3:]), np.uint8)
    start = 0
    for part, count in zip(parts, planes, strict=True):
        own = values[start : start + count].reshape(count, *(1,) * (first.ndim - 3))
        out[:, :, start : start + count] = own if part is None else part
        start += count
    return out


def shown(frame: np.ndarray, names: Sequence[str], *, slices: int = 1) -> np.ndarray:
    """What a viewer shows of [H, W, K]: the colours of `rgb`, else the first channel, its middle slice, [H, W]."""
    counts = planes_of(names)
    if 3 in counts:
        start = sum(counts[: counts.index(3)])
        return np.ascontiguousarray(frame[..., start : start + 3])
    return np.ascontiguousarray(frame[..., slices // 2])
