"""Pseudo-video: a second frame made from a still by a small known motion and a change of exposure, blur and noise.

Shapes: N batch, K channels, C classes, D = 2 or 3 axes, *space their sizes. A grid [N, *space, D] holds, for each voxel
of the second frame, its position in the first one, in half sides from the centre (-1 to 1): the exact flow.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemt.learning.perturbations.intensity import GaussianNoise, IntensityJitter
from edgemt.learning.perturbations.spatial import Affine, sampling_grid

_KNOTS = 5  # of the elastic displacement, along each axis
_LINEAR = {2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class PseudoMotion:
    """What changes between two frames of a pseudo-video; every change is drawn uniformly for each image.

    Images are normalised, so `noise` is in units of their standard deviation.
    """

    degrees: float = 10.0  # rotation, to either side
    zoom: float = 0.1  # 0.1 is from 0.9 to 1.1
    shift: float = 0.1  # share of each half side, to either side
    elastic: float = 0.02  # standard deviation of a smooth displacement, share of each half side
    exposure: float = 0.15  # change of brightness and of contrast; 0.15 is from 0.85 to 1.15
    blur: float = 1.0  # largest share of the mean of 3 x 3 (x 3) neighbours in each voxel, 0 to 1
    noise: float = 0.07  # standard deviation of sensor noise

    def __post_init__(self) -> None:
        for item in fields(self):
            if getattr(self, item.name) < 0:
                raise ValueError(f"motion.{item.name}: {getattr(self, item.name)} is below 0; 0 switches it off")
        if self.blur > 1:
            raise ValueError(f"motion.blur: {self.blur} is above 1, where a voxel is the mean of its neighbours")

    def sample(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """Grids [N, *space, D] for images [N, K, *space], float32."""
        affine = Affine(self.degrees, self.zoom, self.shift).sample(image, generator)
        grid = sampling_grid(affine, image)
        return grid + self._bend(image, generator) if self.elastic else grid

    def _bend(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """A smooth displacement [N, *space, D]: random knots, interpolated linearly."""
        dims = image.ndim - 2
        shape = (len(image), dims, *[_KNOTS] * dims)
        knots = torch.randn(shape, generator=generator, device=image.device) * self.elastic
        return F.interpolate(knots, size=image.shape[2:], mode=_LINEAR[dims], align_corners=True).movedim(1, -1)

    def change(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """Exposure, blur and noise of the second frame: [N, K, *space] -> the same shape."""
        if self.exposure:
            image = IntensityJitter(contrast=self.exposure, brightness=self.exposure, chance=1.0)(image, generator)
        if self.blur:
            share = self.blur * torch.rand(len(image), generator=generator, device=image.device)
            pool = F.avg_pool3d if image.ndim == 5 else F.avg_pool2d  # a quarter of the time of a Gaussian blur
            means = pool(image, 3, stride=1, padding=1, count_include_pad=False)
            image = torch.lerp(image, means, share.to(image.dtype).view(-1, *[1] * (image.ndim - 1)))
        return GaussianNoise(self.noise, clip=3 * self.noise)(image, generator)


def warp_by(grid: Tensor, x: Tensor) -> Tensor:
    """`x` [N, C, *space] sampled at the positions of `grid`, linearly; beyond its border the border's values."""
    return F.grid_sample(x, grid.flip(-1).to(x.dtype), padding_mode="border", align_corners=False)


def inside(grid: Tensor, space: tuple[int, ...] | torch.Size) -> Tensor:
    """Where `warp_by` interpolates between voxels of an image of size `space`: bool [N, 1, *space]."""
    last = torch.tensor([1 - 1 / side for side in space], device=grid.device)
    return (grid.abs() <= last + 1e-4).all(-1).unsqueeze(1)
