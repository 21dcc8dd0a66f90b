"""Channels of a batch that are missing, or dropped by chance: 0 after normalisation.

Shapes: N rows, L of them labelled, K planes, G channels (one of colours has three planes), *space 2 or 3 axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from edgemt.contract import Case


def missing_planes(cases: Sequence[Case], planes: Sequence[int]) -> Tensor | None:
    """Bool [n, K]: the planes of channels that a case lacks; None where no case lacks any."""
    if not any("" in case.channels for case in cases):
        return None
    rows = [[path == "" for path in case.channels] for case in cases]
    return torch.repeat_interleave(torch.tensor(rows), torch.tensor(planes), dim=1)


def draw_dropped(rows: int, planes: Sequence[int], *, chance: float, generator: Generator) -> Tensor:
    """Bool [rows, K]: with probability `chance` a row loses one of its channels, each as often as the others.

    Modality drop-out as in Neverova et al., ModDrop (TPAMI 2016), one channel at a time and never the last one.
    """
    use = torch.rand(rows, generator=generator) < chance
    which = torch.randint(len(planes), (rows,), generator=generator)
    dropped = (torch.arange(len(planes)) == which[:, None]) & use[:, None]
    return torch.repeat_interleave(dropped, torch.tensor(planes), dim=1)


def keep_one(dropped: Tensor, missing: Tensor | None) -> Tensor:
    """`dropped` and `missing` together, bool [N, K]; rows that would lose everything keep what is not missing."""
    if missing is None:
        return dropped
    both = dropped | missing
    return torch.where(both.all(1, keepdim=True), missing, both)


def without(image: Tensor, planes: Tensor) -> Tensor:
    """Normalised images [N, K, *space] with 0 in the planes of the mask bool [N, K]."""
    return image.masked_fill(planes.to(image.device).view(*planes.shape, *[1] * (image.ndim - 2)), 0.0)


def without_channels(
    weak: Tensor,
    strong: Tensor | None,
    missing: Tensor | None,
    *,
    labelled: int,
    planes: Sequence[int],
    chance: float,
    generator: Generator,
) -> tuple[Tensor, Tensor | None]:
    """Views [N, K, *space] and [N - L, K, *space] with 0 in channels that are missing, and in those dropped by chance.

    Missing channels, bool [N, K], are 0 in all rows; dropped ones in labelled rows, and in strong views or else the
    weak. Raises ValueError for a chance with a single channel.
    """
    if not chance:
        if missing is None:
            return weak, strong
        return without(weak, missing), None if strong is None else without(strong, missing[labelled:])
    if len(planes) < 2:
        raise ValueError("augment.drop_channel: the data have one channel; name several in data.channel_names")
    off = keep_one(draw_dropped(len(weak), planes, chance=chance, generator=generator), missing)
    if strong is None:
        return without(weak, off), None
    seen = torch.zeros_like(off) if missing is None else missing
    weak_off = torch.cat([off[:labelled], seen[labelled:]])
    return without(weak, weak_off), without(strong, off[labelled:])
