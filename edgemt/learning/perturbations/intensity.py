"""Intensity perturbations: Gaussian noise, gamma, blur, shadows, brightness and contrast.

Shapes: N batch, K channels, *space 2 or 3 axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class GaussianNoise:
    """x + clamp(std n, -clip, clip), n ~ N(0, 1): the teacher's view in UA-MT and its descendants. `std` 0 is no noise.

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


def gamma(image: Tensor, power: Tensor) -> Tensor:
    """x^power of each image scaled to 0..1 by its own range, scaled back; power [N]."""
    axes = tuple(range(1, image.ndim))
    low, high = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
    span = (high - low).clamp_min(1e-6)
    return low + span * ((image - low) / span).clamp_min(1e-6) ** power.view(-1, *[1] * (image.ndim - 1))


def blur(image: Tensor, *, sigma: float) -> Tensor:
    """Gaussian blur of `sigma` voxels, one axis after another; `sigma` 0 or less returns the image."""
    if sigma <= 0:
        return image
    radius = max(1, round(3 * sigma))
    offset = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-offset.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    for axis in range(2, image.ndim):
        lines = image.movedim(axis, -1)
        flat = lines.reshape(-1, 1, lines.shape[-1])
        flat = F.conv1d(F.pad(flat, (radius, radius), mode="replicate"), kernel.view(1, 1, -1))
        image = flat.view(lines.shape).movedim(-1, axis)
    return image


def shadow(image: Tensor, box: Tensor, *, strength: float = 0.5) -> Tensor:
    """Inside the box [N, 1, *space], moves values by `strength` (0 to 1) towards the darkest value of each image."""
    low = image.amin(tuple(range(1, image.ndim)), keepdim=True)
    return torch.where(box, torch.lerp(image, low, strength), image)


@dataclass(frozen=True)
class IntensityJitter:
    """Random brightness, contrast and gamma for each image: a second strong view.

    UniMatch's colour jitter of images in [0, 1] that fill their range, for images that are normalised already:
    x' = min + (1 + brightness u) (x - min), clipped at the maximum, then x'' = mean + (1 + contrast v) (x' - mean),
    clipped to the range of the image; u, v ~ U(-1, 1).
    """

    contrast: float = 0.5
    brightness: float = 0.5
    power: float = 0.0  # gamma from exp(-power) to exp(power)
    chance: float = 0.8  # probability that an image is changed

    def __call__(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        uniform = 2.0 * torch.rand((3, len(image)), generator=generator, device=image.device) - 1.0
        selected = torch.rand(len(image), generator=generator, device=image.device) < self.chance
        axes, column = tuple(range(1, image.ndim)), (-1, *[1] * (image.ndim - 1))
        contrast, brightness, power = uniform.to(image.dtype)
        darkest, brightest = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
        changed = gamma(image, (self.power * power).exp()) if self.power else image
        changed = darkest + (1.0 + self.brightness * brightness.view(column)) * (changed - darkest)
        changed = changed.minimum(brightest)
        mean = changed.mean(axes, keepdim=True)
        changed = mean + (1.0 + self.contrast * contrast.view(column)) * (changed - mean)
        return torch.where(selected.view(column), changed.maximum(darkest).minimum(brightest), image)


def shadow_mask(image: Tensor, *, low: float = 1 / 255, high: float = 60 / 255) -> Tensor:
    """[N, 1, *space] in 0..1: 0 in the shadows of an image, 1 elsewhere. SCO-SSL, Xu et al., TMI 2022.

    0.5 - 0.5 cos(pi clamp((g - low) / (high - low), 0, 1)), g the mean over channels scaled to 0..1 by the range of the
    image. SCO-SSL multiplies other images by it (`apply_shadow`).
    """
    axes = tuple(range(1, image.ndim))
    least, most = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
    grey = ((image - least) / (most - least).clamp_min(1e-6)).mean(1, keepdim=True)
    return 0.5 - 0.5 * torch.cos(math.pi * ((grey - low) / (high - low)).clamp(0, 1))


def apply_shadow(image: Tensor, mask: Tensor) -> Tensor:
    """Each image x as min + (x - min) * mask, mask [N, 1, *space] in 0..1."""
    least = image.amin(tuple(range(1, image.ndim)), keepdim=True)
    return least + (image - least) * mask
