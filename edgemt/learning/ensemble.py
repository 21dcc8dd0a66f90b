"""Ensemble of trained networks: mean of their probabilities over members and flips.

Shapes: N batch, K image channels, C classes, *space 2 axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgemt.contract import Output
from edgemt.learning.pseudo_labels import probabilities_of

ROOM = "ensemble"  # of a card's network
FLIPS: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3))


class Ensemble(nn.Module):
    """image [N, K, *space] -> Output with logits = log of the mean probability of all members.

    Of overlapping classes, which all members have or none, the logits of the mean probability of each class.

    flips: number of FLIPS that each member predicts (1: the image, 2: also mirrored, 4: also upside down); predictions
    are flipped back before averaging. Raises ValueError for another number.
    """

    def __init__(self, members: Sequence[nn.Module], *, flips: int = 1) -> None:
        super().__init__()
        if flips not in (1, 2, 4):
            raise ValueError(f"teacher.flips: {flips}: choose 1, 2 or 4")
        self.members = nn.ModuleList(members)
        self.flips = flips
        self.overlapping = bool(getattr(self.members[0], "overlapping", False)) if members else False

    def forward(self, x: Tensor) -> Output:
        total: Tensor | None = None
        for axes in FLIPS[: self.flips]:
            for member in self.members:
                p = _flipped_probabilities(member, x, axes)
                total = p if total is None else total + p
        assert total is not None
        mean = total / (self.flips * len(self.members))
        return Output(logits=mean.logit(1e-7) if self.overlapping else mean.clamp_min(1e-7).log())

    def each(self, x: Tensor) -> Tensor:
        """[K, N, C, *space]: the probabilities of each member, averaged over its flips; of one member, each flip's."""
        views = [[_flipped_probabilities(m, x, axes) for axes in FLIPS[: self.flips]] for m in self.members]
        return torch.stack(views[0] if len(views) == 1 else [torch.stack(own).mean(0) for own in views])


def _flipped_probabilities(member: nn.Module, x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The probabilities of the flipped image, flipped back."""
    if not axes:
        return probabilities_of(member, x)
    return torch.flip(probabilities_of(member, torch.flip(x, axes)), axes)


def between_variance(probs: Tensor, *, overlapping: bool = False) -> Tensor:
    """[K, N, C, *space] probabilities of K teachers -> [N, *space]: their variance, summed over classes, 0 to 1.

    v = sum_c mean_k (p_kc - mean_k p_kc)^2; `edgemt.data.soft_labels` has the sources. `overlapping` classes, each a
    yes or no of its own: v of these two, which is twice that of p_kc, of the class that has most.
    """
    variance = probs.var(0, correction=0)
    return 2 * variance.amax(1) if overlapping else variance.sum(1)
