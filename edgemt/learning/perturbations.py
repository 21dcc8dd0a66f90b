"""Ways to disturb a batch. What is random is drawn first, from the step's generator, and applied after.

Shapes: N batch, K channels, *space 2 or 3 axes. Images [N, K, *space] are normalised (standard deviation
about 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FeatureTransform = Callable[[Tensor, torch.Generator | None], Tensor]  # feature map -> perturbed feature map


@dataclass(frozen=True)
class GaussianNoise:
    """Adds Gaussian noise, clipped: the teacher's view in UA-MT and its descendants. `std` 0 is no noise.

    `std` and `clip` are in units of the images, whose standard deviation is 1 here. `planar` multiplies both for images
    of two axes: `SSL4MIS` is what its scripts add to volumes of deviation 1 and to slices in [0, 1] of deviation 0.18.
    """

    std: float = 0.1
    clip: float = 0.2
    planar: float = 1.0

    def __call__(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.std == 0.0:
            return image
        scale = self.planar if image.ndim == 4 else 1.0
        noise = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
        return image + (noise * (self.std * scale)).clamp(-self.clip * scale, self.clip * scale)


SSL4MIS = GaussianNoise(std=0.1, clip=0.2, planar=5.5)


@dataclass(frozen=True)
class CutMixBox:
    """CutMix: one random box an image, sides as shares of it. Yun et al., 2019; French et al., 2020."""

    low: float = 0.25
    high: float = 0.75
    chance: float = 0.5  # how many images get a box at all

    def sample(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
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


def sample_mixup_lambda(image: Tensor, generator: torch.Generator | None, *, alpha: float = 0.2) -> Tensor:
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


@dataclass(frozen=True)
class FeatureNoise:
    """Every value of a feature map times 1 + U(-span, span), one draw a place for all rows. Ouali et al., CVPR 2020."""

    span: float = 0.3

    def __call__(self, feature: Tensor, generator: torch.Generator | None) -> Tensor:
        draw = torch.rand(feature.shape[1:], generator=generator, device=feature.device)
        return feature * (1.0 + self.span * (2.0 * draw - 1.0)).to(feature.dtype)


@dataclass(frozen=True)
class FeatureDropout:
    """Drops whole channels of a feature map, or single places, and enlarges the rest; on in eval mode too."""

    rate: float = 0.5
    channels: bool = True

    def __call__(self, feature: Tensor, generator: torch.Generator | None) -> Tensor:
        shape = feature.shape[:2] + (1,) * (feature.ndim - 2) if self.channels else feature.shape
        kept = torch.rand(shape, generator=generator, device=feature.device) >= self.rate
        return feature * kept.to(feature.dtype) / (1.0 - self.rate)


@dataclass(frozen=True)
class AttentionDrop:
    """Silences where a map is most active: above U(low, high) of the largest channel mean. Ouali et al., CVPR 2020."""

    low: float = 0.7
    high: float = 0.9

    def __call__(self, feature: Tensor, generator: torch.Generator | None) -> Tensor:
        draw = torch.rand(len(feature), generator=generator, device=feature.device)
        active = feature.mean(1, keepdim=True)
        bar = active.amax(tuple(range(1, active.ndim)), keepdim=True)
        bar = bar * (self.low + (self.high - self.low) * draw).view(bar.shape).to(feature.dtype)
        return feature * (active < bar).to(feature.dtype)


def vat_perturbation(
    loss: Callable[[Tensor], Tensor],
    image: Tensor,
    generator: torch.Generator | None,
    *,
    epsilon: float = 10.0,
    xi: float = 1e-6,
) -> Tensor:
    """VAT: the push of length `reach` that moves `loss(image)` most, by one iteration. Miyato et al."""

    def unit(x: Tensor) -> Tensor:
        return F.normalize(x.flatten(1), dim=1).view_as(x)

    push = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
    push = (xi * unit(push)).requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(loss(image.detach() + push), push)
    return (epsilon * unit(slope)).detach()


@dataclass(frozen=True)
class IntensityJitter:
    """Brightness, contrast and gamma drawn for each image: a strong view beside the one that a batch brings.

    UniMatch's colour jitter of images in [0, 1] that fill their range, for images that are normalised already: a factor
    from 1 - brightness to 1 + brightness counts from the darkest value, one of contrast from the mean, and what goes
    beyond the brightest value is cut off. Other images are left as they are.
    """

    contrast: float = 0.5
    brightness: float = 0.5
    power: float = 0.0  # gamma from exp(-power) to exp(power)
    chance: float = 0.8  # how many images are changed

    def __call__(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        draw = 2.0 * torch.rand((3, len(image)), generator=generator, device=image.device) - 1.0
        chosen = torch.rand(len(image), generator=generator, device=image.device) < self.chance
        axes, column = tuple(range(1, image.ndim)), (-1, *[1] * (image.ndim - 1))
        stretch, lift, power = draw.to(image.dtype)
        darkest, brightest = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
        changed = gamma(image, (self.power * power).exp()) if self.power else image
        changed = darkest + (1.0 + self.brightness * lift.view(column)) * (changed - darkest)
        changed = changed.minimum(brightest)
        mean = changed.mean(axes, keepdim=True)
        changed = mean + (1.0 + self.contrast * stretch.view(column)) * (changed - mean)
        return torch.where(chosen.view(column), changed.maximum(darkest).minimum(brightest), image)


@dataclass(frozen=True)
class RowwiseChannelDropout:
    """Feature dropout for `disturb`: in rows `start` to `stop` each channel is 0 with chance `rate`, others grow.

    What is dropped is drawn from the step's generator, map by map.
    """

    rate: float
    start: int
    stop: int
    generator: torch.Generator | None = None

    def __call__(self, x: Tensor) -> Tensor:
        rows = x[self.start : self.stop]
        draw = torch.rand(rows.shape[:2], generator=self.generator, device=x.device)
        keep = (draw >= self.rate).to(x.dtype).view(*rows.shape[:2], *[1] * (x.ndim - 2)) / (1.0 - self.rate)
        return torch.cat([x[: self.start], rows * keep, x[self.stop :]])


# --- turned, shuffled, swapped and shaded views ---


@dataclass(frozen=True)
class Affine:
    """A turn in the plane of the first two axes, a zoom and a shift; without the zoom it is rigid."""

    degrees: float = 20.0
    zoom: float = 0.1  # as a share: 0.1 is from 0.9 to 1.1
    shift: float = 0.1  # as a share of each half side

    def sample(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """[N, D, D + 1]: where each place of the view lies in the image, in half sides from the middle."""
        dims, half = image.ndim - 2, torch.tensor(image.shape[2:], device=image.device, dtype=torch.float32)
        draw = 2 * torch.rand((len(image), 2 + dims), generator=generator, device=image.device) - 1
        angle = draw[:, 0] * math.radians(self.degrees)
        turn = torch.eye(dims, device=image.device).repeat(len(image), 1, 1)
        turn[:, 0, 0] = turn[:, 1, 1] = angle.cos()
        turn[:, 0, 1], turn[:, 1, 0] = -angle.sin(), angle.sin()
        turn = turn * (1 + self.zoom * draw[:, 1]).view(-1, 1, 1) * half / half[:, None]  # in voxels: no shear
        return torch.cat([turn, self.shift * draw[:, 2:, None]], 2)


def invert_affine(affine: Tensor) -> Tensor:
    """[N, D, D + 1]: the way back."""
    back = torch.linalg.inv_ex(affine[:, :, :-1]).inverse  # unlike inv, it does not wait for the GPU
    return torch.cat([back, -(back * affine[:, None, :, -1]).sum(2, keepdim=True)], 2)


def sampling_grid(affine: Tensor, x: Tensor) -> Tensor:
    """[N, *space, D]: where to look; by products and sums, as a matrix product would be rounded under autocast."""
    places = affine[:, :, -1].view(-1, *[1] * (x.ndim - 2), x.ndim - 2)
    for axis, size in enumerate(x.shape[2:]):
        line = (torch.arange(size, device=x.device) + 0.5) * (2 / size) - 1
        shape = [1] * x.ndim
        shape[1 + axis] = size
        places = places + line.view(shape) * affine[:, :, axis].view(-1, *[1] * (x.ndim - 2), x.ndim - 2)
    return places


def warp(affine: Tensor, x: Tensor) -> Tensor:
    """x [N, C, *space] seen through `affine`, linearly; beyond its rim, `x` goes on as it ends."""
    grid = sampling_grid(affine, x).flip(-1).to(x.dtype)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def valid_region(affine: Tensor, x: Tensor) -> Tensor:
    """bool [N, 1, *space]: true where `warp` looks inside of `x`, not beyond its rim."""
    return (sampling_grid(affine, x).abs() <= 1).all(-1).unsqueeze(1)


@dataclass(frozen=True)
class PatchGrid:
    """A grid laid over each image, `side` cells an axis (fewer on a short one)."""

    side: int = 4
    share: float = 0.5  # how many of the cells `draw` picks

    def __post_init__(self) -> None:
        if self.side < 2:
            raise ValueError(f"side: {self.side} cell an axis has nothing beside it; give 2 or more")

    def sides(self, image: Tensor) -> tuple[int, ...]:
        return tuple(min(self.side, size) for size in image.shape[2:])

    def sample(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """bool [N, 1, *space], true in the cells that are picked; as many in every image."""
        sides = self.sides(image)
        draw = torch.rand((len(image), math.prod(sides)), generator=generator, device=image.device)
        picked = draw.argsort(1).argsort(1) < round(self.share * draw.shape[1])
        return F.interpolate(picked.view(-1, 1, *sides).float(), size=image.shape[2:], mode="nearest") > 0.5

    def order(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """int64 [N, cells]: for `shuffle`, which cell comes to each place."""
        draw = torch.rand((len(image), math.prod(self.sides(image))), generator=generator, device=image.device)
        return draw.argsort(1)

    def shuffle(self, order: Tensor, x: Tensor) -> Tensor:
        """Cells of x [N, C, *space] in another order; what the grid leaves over at the far rims stays in place."""
        sides = self.sides(x)
        edge = [size // side for size, side in zip(x.shape[2:], sides, strict=True)]
        gridded = (slice(None), slice(None), *(slice(n * length) for n, length in zip(sides, edge, strict=True)))
        inner = x[gridded]
        split = inner.reshape(*x.shape[:2], *(n for pair in zip(sides, edge, strict=True) for n in pair))
        dims = x.ndim - 2
        first, last = [2 + 2 * a for a in range(dims)], [3 + 2 * a for a in range(dims)]
        cells = split.permute(0, *first, 1, *last).flatten(1, dims)
        rows = torch.arange(len(x), device=x.device)[:, None]
        moved = cells[rows, order].view(len(x), *sides, x.shape[1], *edge)
        back = [0, dims + 1, *(axis for a in range(dims) for axis in (1 + a, dims + 2 + a))]
        out = x.clone()
        out[gridded] = moved.permute(back).reshape(inner.shape)
        return out


def shadow_mask(image: Tensor, *, low: float = 1 / 255, high: float = 60 / 255) -> Tensor:
    """[N, 1, *space] in 0..1: the shadows of an image, 0 where it is black. Half a cosine between two levels.

    Levels are shares of the range of the image itself. SCO-SSL (Xu et al.) multiplies other images by it.
    """
    axes = tuple(range(1, image.ndim))
    least, most = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
    grey = ((image - least) / (most - least).clamp_min(1e-6)).mean(1, keepdim=True)
    return 0.5 - 0.5 * torch.cos(math.pi * ((grey - low) / (high - low)).clamp(0, 1))


def apply_shadow(image: Tensor, mask: Tensor) -> Tensor:
    """Multiplies each image, counted from its darkest value, by a mask [N, 1, *space] in 0..1."""
    least = image.amin(tuple(range(1, image.ndim)), keepdim=True)
    return least + (image - least) * mask
