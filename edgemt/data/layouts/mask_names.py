"""Which mask belongs to which image, by their names: equal, or equal without what tools put at the end."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

_IMAGE = re.compile(r"[ _.-]?(?:image|img|frame|photo|orig|original|raw|_0000)$", re.IGNORECASE)
_MASK = re.compile(
    r"[ _.-]?(?:segmentation|seg|mask|label|labelmap|annotation|groundtruth|ground[ _-]truth|gt|manual1?|roi|truth)s?$",
    re.IGNORECASE,
)
_CHANNEL = re.compile(r"^(.+)_(\d{4})$")


class MatchedMask(NamedTuple):
    """The case name of an image and the stem of its mask, None if it has no mask."""

    name: str  # of the case
    mask: str | None  # stem of its mask


def match_masks(images: Mapping[str, Path], masks: Mapping[str, Any], *, folder: Path) -> dict[str, MatchedMask]:
    """For each stem of an image its case name and the stem of its mask.

    They are matched by equal names, else by the names without `_image`, `_0000`, `_mask`, `_label` and their kind, in
    any case, where exactly one image and one mask agree.

    Raises ValueError, naming the folder, for several channels of one case and for masks that lie among the images.
    """
    _refuse_channels(images, masks, folder)
    out: dict[str, MatchedMask] = {}
    for stem in images:
        plain = stem.removesuffix("_0000")  # nnU-Net numbers the channel of an image, not of a label
        if stem in masks:
            out[stem] = MatchedMask(stem, stem)
        elif plain in masks:
            out[stem] = MatchedMask(plain, plain)
    taken = {found.mask for found in out.values()}
    by_image, by_mask = _keyed((s for s in images if s not in out), _IMAGE), _keyed(set(masks) - taken, _MASK)
    for key, stems in by_image.items():
        others = by_mask.get(key, [])
        if len(stems) == len(others) == 1:
            out[stems[0]] = MatchedMask(stems[0].removesuffix("_0000"), others[0])
    _refuse_masks(images, out, folder)
    return {stem: out.get(stem, MatchedMask(stem, None)) for stem in images}


def _keyed(stems: Iterable[str], ends: re.Pattern[str]) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for stem in sorted(stems):
        keys.setdefault(plain_name(stem, ends), []).append(stem)
    return keys


def plain_name(stem: str, ends: re.Pattern[str] = _MASK) -> str:
    """Lower case, without one ending of the kind."""
    short = ends.sub("", stem)
    return (short or stem).casefold()


def _refuse_channels(images: Mapping[str, Path], masks: Mapping[str, Any], folder: Path) -> None:
    """NAME_0000 and NAME_0001 with one label NAME are channels; NAME_0001 with a mask of its own is a frame."""
    for stem, path in images.items():
        found = _CHANNEL.match(stem)
        if found is None or found[2] == "0000" or stem in masks:
            continue
        first = f"{found[1]}_0000"
        if first in images and first not in masks and found[1] in masks:
            count = sum(other.startswith(f"{found[1]}_") and bool(_CHANNEL.match(other)) for other in images)
            raise ValueError(
                f"{path}: a further channel of {images[first].name} ({count} channels); name them with "
                "--data.channel-names, or move the others"
            )


def _refuse_masks(images: Mapping[str, Path], matched: Mapping[str, MatchedMask], folder: Path) -> None:
    for stem, path in images.items():
        short = _MASK.sub("", stem)
        if stem not in matched and short != stem and short in images and stem.removesuffix("_0000") != short:
            raise ValueError(f"{path}: is named like a mask of {images[short].name}; move it out of {folder}")
