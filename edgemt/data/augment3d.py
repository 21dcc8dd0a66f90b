"""Flips, quarter turns and intensity of patches: a few tensor operations for the whole batch, no loop over rows.

Every number is drawn on the CPU from `generator`, one a row, and of intensity one a channel, so that a batch is the
same on every device; only the noise itself is drawn where the image lies.

Shapes: N batch, K channels, X Y Z a patch. Images are float in [0, 1] until they are normalised.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from edgemt.data.augment_options import VolumeOptions


@dataclass(frozen=True)
class FlipRotate:
    """How each row is moved: first its X and Y axes change places, then each axis is reversed, or not."""

    swap: Tensor  # bool [N]
    reverse: Tensor  # bool [N, 2], X and Y

    def __getitem__(self, rows: slice) -> FlipRotate:
        return FlipRotate(self.swap[rows], self.reverse[rows])


def sample_flip_rotate(count: int, *, options: VolumeOptions, generator: Generator) -> FlipRotate:
    """Quarter turns need a patch as wide as it is high; other patches get half turns."""
    quarters = torch.randint(0, 4, (count,), generator=generator) * int(options.turn)
    if options.patch[0] != options.patch[1]:
        quarters = quarters // 2 * 2
    flips = (torch.rand(count, 2, generator=generator) < 0.5) & options.flip
    # A quarter turn swaps the axes and reverses X, a half turn reverses both, three quarters swap and reverse Y.
    reverse = torch.stack([(quarters == 1) | (quarters == 2), quarters >= 2], dim=1)
    return FlipRotate(quarters % 2 == 1, reverse ^ flips)


def apply_flip_rotate(image: Tensor, turns: FlipRotate) -> Tensor:
    """[N, ..., X, Y, Z] of any kind, moved without interpolation."""
    if turns.swap.any():
        image = _where(turns.swap, image.transpose(-3, -2), image)
    for column, axis in enumerate((-3, -2)):
        if turns.reverse[:, column].any():
            image = _where(turns.reverse[:, column], image.flip(axis), image)
    return image


def augment_intensity_3d(image: Tensor, *, options: VolumeOptions, generator: Generator) -> Tensor:
    """[N, K, X, Y, Z] in [0, 1] -> the same, each channel of a row with its own brightness, contrast, gamma, noise."""
    given, image = image.shape, image.flatten(0, 1).unsqueeze(1)
    count = len(image)
    draw = torch.rand(count, 4, generator=generator)
    seed = int(torch.randint(0, 2**31, (1,), generator=generator))
    shape = (count,) + (1,) * (image.ndim - 1)
    spans = (options.brightness, options.contrast, options.gamma, (0.0, options.noise))
    drawn = [(low + (high - low) * draw[:, k]).view(shape) for k, (low, high) in enumerate(spans)]
    brightness, contrast, gamma, noise = (values.to(image.device, image.dtype) for values in drawn)
    middle = image.mean(dim=tuple(range(1, image.ndim)), keepdim=True)
    image = ((image - middle) * contrast + middle).mul_(brightness)
    if options.gamma != (1, 1):
        image = image.clamp_(0, 1).pow_(gamma)
    if options.noise > 0:
        own = torch.Generator(image.device).manual_seed(seed)
        image = image.addcmul_(torch.randn(image.shape, generator=own, device=image.device, dtype=image.dtype), noise)
    return image.clamp_(0, 1).reshape(given)


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    chosen = chosen.to(other.device, non_blocking=True)
    return torch.where(chosen.view((-1,) + (1,) * (other.ndim - 1)), one, other)
