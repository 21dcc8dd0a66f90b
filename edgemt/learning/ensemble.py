"""Ensemble of trained networks: mean of their probabilities over members and flips.

Shapes: N batch, K image channels, C classes, *space 2 axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgemt.contract import Output
from edgemt.learning.losses import probabilities

ROOM = "ensemble"  # of a card's network
FLIPS: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))


class Ensemble(nn.Module):
    """image [N, K, *space] -> Output with logits = log of the mean probability of all members.

    flips: number of FLIPS that each member predicts (1: the image, 2: also mirrored, 4: also upside down); predictions
    are flipped back before averaging. Raises ValueError for another number.
    """

    def __init__(self, members: Sequence[nn.Module], *, flips: int = 1) -> None:
        super().__init__()
        if flips not in (1, 2, 4):
            raise ValueError(f"teacher.flips: {flips}: choose 1, 2 or 4")
        self.members = nn.ModuleList(members)
        self.flips = flips

    def forward(self, x: Tensor) -> Output:
        total: Tensor | None = None
        for axes in FLIPS[: self.flips]:
            view = torch.flip(x, axes) if axes else x
            for member in self.members:
                p = probabilities(member(view).logits)
                p = torch.flip(p, axes) if axes else p
                total = p if total is None else total + p
        assert total is not None
        mean = total / (self.flips * len(self.members))
        return Output(logits=mean.clamp_min(1e-7).log())
