"""Mixing of images: CutMix, mixup, and grids of patches.

Shapes: N batch, K channels, *space 2 or 3 axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class CutMixBox:
    """CutMix: one random box an image, sides as fractions of it. Yun et al., 2019; French et al., 2020."""

    low: float = 0.25  # shortest and longest side
    high: float = 0.75
    chance: float = 0.5  # probability that an image gets a box

    def sample(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """The region, bool [N, 1, *space], true inside the box."""
        uniform = torch.rand((len(image), 2 * (image.ndim - 2) + 1), generator=generator, device=image.device)
        inside = (uniform[:, -1] < self.chance).view(-1, *[1] * (image.ndim - 1))
        for axis, size in enumerate(image.shape[2:]):
            side = self.low + (self.high - self.low) * uniform[:, 2 * axis]
            start = (1.0 - side) * uniform[:, 2 * axis + 1]
            position = (torch.arange(size, device=image.device) + 0.5) / size
            inside_axis = (position >= start[:, None]) & (position < (start + side)[:, None])
            shape = [len(image), 1] + [1] * (image.ndim - 2)
            shape[2 + axis] = size
            inside = inside & inside_axis.view(shape)
        return inside


def cutmix(box: Tensor, x: Tensor) -> Tensor:
    """Fills each box [N, 1, *space] from the row before of `x`; image, target and weight take the same box."""
    return torch.where(box, x.roll(1, 0), x)


def sample_mixup_lambda(image: Tensor, generator: torch.Generator | None, *, alpha: float = 0.2) -> Tensor:
    """A lambda ~ Beta(alpha, alpha), [N, 1, ...]: the fraction of an image that `mixup` leaves. Zhang et al., 2018."""
    a, b = torch._standard_gamma(torch.full((2, len(image)), alpha, device=image.device), generator=generator)
    lam = (a + 1e-12) / (a + b + 2e-12)
    return lam.view(-1, *[1] * (image.ndim - 1)).to(image.dtype)


def mixup(lam: Tensor, x: Tensor) -> Tensor:
    """`lam` x_i + (1 - lam) x_(i-1), the row before of the batch; lam as of `sample_mixup_lambda`."""
    return torch.lerp(x.roll(1, 0), x, lam)


@dataclass(frozen=True)
class PatchGrid:
    """A grid of patches over each image, `side` patches an axis (fewer on an axis with fewer voxels)."""

    side: int = 4
    share: float = 0.5  # fraction of the patches that `sample` selects

    def __post_init__(self) -> None:
        if self.side < 2:
            raise ValueError(f"side: {self.side} cell an axis has nothing beside it; give 2 or more")

    def sides(self, image: Tensor) -> tuple[int, ...]:
        """Patches along each axis of images [N, K, *space]."""
        return tuple(min(self.side, size) for size in image.shape[2:])

    def sample(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """The region, bool [N, 1, *space], true in the selected patches; the same number of patches in every image."""
        sides = self.sides(image)
        uniform = torch.rand((len(image), math.prod(sides)), generator=generator, device=image.device)
        selected = uniform.argsort(1).argsort(1) < round(self.share * uniform.shape[1])
        return F.interpolate(selected.view(-1, 1, *sides).float(), size=image.shape[2:], mode="nearest") > 0.5

    def order(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """int64 [N, patches]: a random permutation for `shuffle`; entry i is the patch that moves to position i."""
        uniform = torch.rand((len(image), math.prod(self.sides(image))), generator=generator, device=image.device)
        return uniform.argsort(1)

    def shuffle(self, order: Tensor, x: Tensor) -> Tensor:
        """Patches of x [N, C, *space] in another order; voxels beyond the last whole patch stay in place."""
        sides = self.sides(x)
        edge = [size // side for size, side in zip(x.shape[2:], sides, strict=True)]
        gridded = (slice(None), slice(None), *(slice(n * length) for n, length in zip(sides, edge, strict=True)))
        inner = x[gridded]
        split = inner.reshape(*x.shape[:2], *(n for pair in zip(sides, edge, strict=True) for n in pair))
        dims = x.ndim - 2
        first, last = [2 + 2 * a for a in range(dims)], [3 + 2 * a for a in range(dims)]
        patches = split.permute(0, *first, 1, *last).flatten(1, dims)
        rows = torch.arange(len(x), device=x.device)[:, None]
        moved = patches[rows, order].view(len(x), *sides, x.shape[1], *edge)
        inverse = [0, dims + 1, *(axis for a in range(dims) for axis in (1 + a, dims + 2 + a))]
        out = x.clone()
        out[gridded] = moved.permute(inverse).reshape(inner.shape)
        return out
