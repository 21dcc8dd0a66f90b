"""Corruptions in training: random rows of a batch get a random kind at a random severity of 1 to 3.

Shapes: N rows, K channels, H W size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from edgemt.data.corruptions import corrupt_unit

SEVERITIES = (1, 2, 3)  # of training; 4 and 5 are left to evaluation


def corrupt_rows(
    image: Tensor, *, names: Sequence[str], chance: float, generator: Generator, slices: bool = False
) -> Tensor:
    """[N, K, H, W] in [0, 1] -> the same; a row is corrupted with probability `chance`, by one of `names`.

    With `slices` the channels are neighbouring slices: all get the same pattern, each its own noise. The draws come
    from `generator`, so that a batch is the same on every device; the work is done on the CPU by OpenCV.
    """
    count = len(image)
    use = torch.rand(count, generator=generator) < chance
    kinds = torch.randint(len(names), (count,), generator=generator).tolist()
    severities = torch.randint(len(SEVERITIES), (count,), generator=generator).tolist()
    seeds = torch.randint(2**31, (count,), generator=generator).tolist()
    out = image.clone() if use.any() else image
    for row in use.nonzero()[:, 0].tolist():
        x = image[row].clamp(0, 1).permute(1, 2, 0).cpu().numpy()
        changed = corrupt_unit(x, names[kinds[row]], SEVERITIES[severities[row]], case=seeds[row], slices=slices)
        out[row] = torch.from_numpy(changed).permute(2, 0, 1).to(image)
    return out
