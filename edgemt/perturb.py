"""Ways to disturb a batch. What is random is drawn first, from the step's generator, and applied after.

Shapes: N batch, K channels, *space 2 or 3 axes. Images [N, K, *space] are normalised (standard deviation
about 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """Adds Gaussian noise, clipped: the teacher's view in UA-MT and its descendants. `std` 0 is no noise."""

    std: float = 0.1
    clip: float = 0.2

    def __call__(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.std == 0.0:
            return image
        noise = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
        return image + (noise * self.std).clamp(-self.clip, self.clip)


@dataclass(frozen=True)
class Box:
    """CutMix: one random box an image, sides as shares of it. Yun et al., 2019; French et al., 2020."""

    low: float = 0.25
    high: float = 0.75
    chance: float = 0.5  # how many images get a box at all

    def draw(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """bool [N, 1, *space], true inside the box."""
        draw = torch.rand((len(image), 2 * (image.ndim - 2) + 1), generator=generator, device=image.device)
        inside = (draw[:, -1] < self.chance).view(-1, *[1] * (image.ndim - 1))
        for axis, size in enumerate(image.shape[2:]):
            side = self.low + (self.high - self.low) * draw[:, 2 * axis]
            start = (1.0 - side) * draw[:, 2 * axis + 1]
            place = (torch.arange(size, device=image.device) + 0.5) / size
            hit = (place >= start[:, None]) & (place < (start + side)[:, None])
            shape = [len(image), 1] + [1] * (image.ndim - 2)
            shape[2 + axis] = size
            inside = inside & hit.view(shape)
        return inside


def cutmix(box: Tensor, x: Tensor) -> Tensor:
    """Fills each box [N, 1, *space] from the next row of `x`; image, target and weight take the same box."""
    return torch.where(box, x.roll(1, 0), x)


def mixup_share(image: Tensor, generator: torch.Generator | None, *, alpha: float = 0.2) -> Tensor:
    """Beta(alpha, alpha) of shape [N, 1, ...]: how much of the image stays in `mixup`. Zhang et al., 2018."""
    a, b = torch._standard_gamma(torch.full((2, len(image)), alpha, device=image.device), generator=generator)
    share = (a + 1e-12) / (a + b + 2e-12)
    return share.view(-1, *[1] * (image.ndim - 1)).to(image.dtype)


def mixup(share: Tensor, x: Tensor) -> Tensor:
    """share * x + (1 - share) * next row of x."""
    return torch.lerp(x.roll(1, 0), x, share)


def gamma(image: Tensor, power: Tensor) -> Tensor:
    """Raises each image, scaled to 0..1 by its own range, to `power` [N]."""
    axes = tuple(range(1, image.ndim))
    low, high = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
    span = (high - low).clamp_min(1e-6)
    return low + span * ((image - low) / span).clamp_min(1e-6) ** power.view(-1, *[1] * (image.ndim - 1))


def blur(image: Tensor, *, sigma: float) -> Tensor:
    """Gaussian blur of `sigma` voxels, one axis at a time."""
    if sigma <= 0:
        return image
    reach = max(1, round(3 * sigma))
    place = torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-place.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    for axis in range(2, image.ndim):
        line = image.movedim(axis, -1)
        flat = line.reshape(-1, 1, line.shape[-1])
        flat = F.conv1d(F.pad(flat, (reach, reach), mode="replicate"), kernel.view(1, 1, -1))
        image = flat.view(line.shape).movedim(-1, axis)
    return image


def shadow(image: Tensor, box: Tensor, *, strength: float = 0.5) -> Tensor:
    """Darkens the box [N, 1, *space] towards the darkest value of each image."""
    low = image.amin(tuple(range(1, image.ndim)), keepdim=True)
    return torch.where(box, torch.lerp(image, low, strength), image)


def adversarial(
    loss: Callable[[Tensor], Tensor],
    image: Tensor,
    generator: torch.Generator | None,
    *,
    reach: float = 10.0,
    probe: float = 1e-6,
) -> Tensor:
    """VAT: the push of length `reach` that moves `loss(image)` most, by one iteration. Miyato et al."""

    def unit(x: Tensor) -> Tensor:
        return F.normalize(x.flatten(1), dim=1).view_as(x)

    push = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
    push = (probe * unit(push)).requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(loss(image.detach() + push), push)
    return (reach * unit(slope)).detach()
