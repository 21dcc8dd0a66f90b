"""Spatial perturbations: random affine transforms and warping.

Shapes: N batch, K channels, D = 2 or 3 axes, *space their sizes. An affine [N, D, D + 1] maps positions of the view to
positions of the image, both in half sides from the centre (-1 to 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Affine:
    """Random rotation in the plane of the first two axes, zoom and shift; rigid with `zoom` 0."""

    degrees: float = 20.0
    zoom: float = 0.1  # as a fraction: 0.1 is from 0.9 to 1.1
    shift: float = 0.1  # as a fraction of each half side

    def sample(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """Affines [N, D, D + 1] for images [N, K, *space]."""
        dims, half = image.ndim - 2, torch.tensor(image.shape[2:], device=image.device, dtype=torch.float32)
        uniform = 2 * torch.rand((len(image), 2 + dims), generator=generator, device=image.device) - 1
        angle = uniform[:, 0] * math.radians(self.degrees)
        matrix = torch.eye(dims, device=image.device).repeat(len(image), 1, 1)
        matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
        matrix[:, 0, 1], matrix[:, 1, 0] = -angle.sin(), angle.sin()
        # A rotation in voxels, not in half sides, so that images that are not square are not sheared.
        matrix = matrix * (1 + self.zoom * uniform[:, 1]).view(-1, 1, 1) * half / half[:, None]
        return torch.cat([matrix, self.shift * uniform[:, 2:, None]], 2)


def invert_affine(affine: Tensor) -> Tensor:
    """The inverse transforms, [N, D, D + 1]."""
    inverse = torch.linalg.inv_ex(affine[:, :, :-1]).inverse  # unlike inv, it does not wait for the GPU
    return torch.cat([inverse, -(inverse * affine[:, None, :, -1]).sum(2, keepdim=True)], 2)


def sampling_grid(affine: Tensor, x: Tensor) -> Tensor:
    """[N, *space, D]: position in the image of each voxel of the view of x [N, C, *space].

    Sums of products in float32, as a matrix product would be rounded under autocast.
    """
    positions = affine[:, :, -1].view(-1, *[1] * (x.ndim - 2), x.ndim - 2)
    for axis, size in enumerate(x.shape[2:]):
        line = (torch.arange(size, device=x.device) + 0.5) * (2 / size) - 1
        shape = [1] * x.ndim
        shape[1 + axis] = size
        positions = positions + line.view(shape) * affine[:, :, axis].view(-1, *[1] * (x.ndim - 2), x.ndim - 2)
    return positions


def warp(affine: Tensor, x: Tensor) -> Tensor:
    """`x` [N, C, *space] sampled at the affine's positions, linearly; outside of x its border values."""
    grid = sampling_grid(affine, x).flip(-1).to(x.dtype)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def valid_region(affine: Tensor, x: Tensor) -> Tensor:
    """The region, bool [N, 1, *space], true where `warp` samples inside of `x`."""
    return (sampling_grid(affine, x).abs() <= 1).all(-1).unsqueeze(1)
