"""What the networks of this folder are made of, in two or three axes.

Shapes: N batch, K channels, *space 2 or 3 axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["batch", "group", "instance"]

CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
UNSTRIDE: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
POOL: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
DROPOUT: dict[int, type[nn.Module]] = {2: nn.Dropout2d, 3: nn.Dropout3d}
BATCH_NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE_NORM: dict[int, type[nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
LINEAR = {2: "bilinear", 3: "trilinear"}


def normalisation(norm: Norm, channels: int, *, dims: int) -> nn.Module:
    """Batch, group (at most 16 groups) or instance norm, each with a learnt scale and shift."""
    if norm == "group":
        return nn.GroupNorm(math.gcd(16, channels), channels)
    if norm == "instance":
        return INSTANCE_NORM[dims](channels, affine=True)
    return BATCH_NORM[dims](channels)


def check(network: str, *, dims: int, norm: str) -> None:
    """Raises ValueError, naming the network and the field, for what `normalisation` and `CONV` do not know."""
    if dims not in CONV:
        raise ValueError(f"{network}: dims = {dims!r}: choose 2 or 3")
    if norm not in get_args(Norm):
        raise ValueError(f"{network}: norm = {norm!r}: choose batch, group or instance")


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Linear resampling to `size`, in two or three axes."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode=LINEAR[len(size)], align_corners=False)


def pad_to_multiple(x: Tensor, *, multiple: int) -> Tensor:
    """`x` with its last voxels repeated over the far edges, up to a multiple of `multiple` along each axis."""
    missing = [-side % multiple for side in x.shape[2:]]
    if not any(missing):
        return x
    return F.pad(x, [size for beyond in reversed(missing) for size in (0, beyond)], mode="replicate")


def crop_to(x: Tensor, space: Sequence[int]) -> Tensor:
    """The near corner of `x`, of size `space`: undoes `pad_to_multiple`."""
    for axis, side in enumerate(space, start=2):
        x = x.narrow(axis, 0, side) if x.shape[axis] != side else x
    return x
