"""Losses between feature maps of a student and of a frozen teacher, and the projection of the student's maps.

Shapes: N batch, C channels of the student, D channels of the teacher, *space 2 or 3 axes, V places of a map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemt.contract import Output
from edgemt.learning.losses import cwd_loss

Feature = Literal["none", "fitnet", "vid", "cwd", "similarity"]
Maps = Literal["encoder", "decoder"]
EPS = 1e-5
NODES = 256  # places of a map in the pairwise similarity, per image
LINEAR = {2: "bilinear", 3: "trilinear"}


def standardised(x: Tensor) -> Tensor:
    """`x` [N, D, *space] with mean 0 and variance 1 for each channel over batch and space, in float32 at least."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    axes = (0, *range(2, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True) + EPS).sqrt()


def fitnet(projected: Tensor, teacher: Tensor) -> Tensor:
    """mean((z(P s) - z(t))^2), z standardises each channel over the batch; both [N, D, *space]. From 0 to 4.

    FitNets, Romero et al., ICLR 2015, whose hint loss has no z: without it a few channels of large variance dominate.
    With it the loss is 2 - 2 corr(P s, t), as in Cao et al., NeurIPS 2022 (PKD).
    """
    return (standardised(projected) - standardised(teacher)).square().mean()


def vid(mean: Tensor, variance: Tensor, teacher: Tensor) -> Tensor:
    """mean(log v / 2 + (z(t) - m(s))^2 / (2 v)): -log of a Gaussian q(t | s), without its constant; may be negative.

    mean and teacher [N, D, *space], variance [D]. Variational information distillation, Ahn et al., CVPR 2019. The
    target is standardised (z): mutual information is the same, and the initial variance fits every teacher.
    """
    target = standardised(teacher)
    v = variance.to(target.dtype).view(-1, *[1] * (target.ndim - 2))
    return 0.5 * (v.log() + (target - mean.to(target.dtype)).square() / v).mean()


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over pairs of places of (cos(s_i, s_j) - cos(t_i, t_j))^2, within each image. [N, C or D, *space].

    The pairwise distillation of Liu et al., CVPR 2019 (structured knowledge distillation); maps of more than `NODES`
    places are average-pooled first, as there. It needs no projection, as it does not compare channels.
    """
    return (_cosines(student) - _cosines(teacher)).square().mean()


def _cosines(x: Tensor) -> Tensor:
    """Cosines between all pairs of places: [N, C, *space] -> [N, V, V]."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    most = int(NODES ** (1.0 / (x.ndim - 2)) + 1e-6)
    unit = F.normalize(_pooled(x, [min(side, most) for side in x.shape[2:]]).flatten(2), dim=1, eps=EPS)
    return unit.transpose(1, 2) @ unit


def _pooled(x: Tensor, size: Sequence[int]) -> Tensor:
    """`x` [N, C, *space] averaged to `size`."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="area")  # adaptive average pooling, in two or three axes


class Projected(NamedTuple):
    """One projected map of the student."""

    mean: Tensor  # [N, D, *space]
    variance: Tensor | None = None  # [D], of "vid" alone


class Projection(nn.Module):
    """Maps of the student [N, C, *space] -> maps with the teacher's channels; trained with it, and not exported.

    One 1x1 convolution for each map; for "vid" three with ReLU between, as released, and a variance for each channel
    that begins at 5.
    """

    START = 5.0

    def __init__(self, kind: Feature, *, channels: Sequence[tuple[int, int]], dims: int) -> None:
        super().__init__()
        conv = nn.Conv3d if dims == 3 else nn.Conv2d

        def regression(in_channels: int, out_channels: int) -> nn.Module:
            if kind != "vid":
                return conv(in_channels, out_channels, 1)
            inner = (nn.ReLU(), conv(out_channels, out_channels, 1))
            return nn.Sequential(
                conv(in_channels, out_channels, 1), *inner, nn.ReLU(), conv(out_channels, out_channels, 1)
            )

        self.regress = nn.ModuleList(regression(student, teacher) for student, teacher in channels)
        first = math.log(math.expm1(self.START - EPS))
        spread = [nn.Parameter(torch.full((teacher,), first)) for _, teacher in channels] if kind == "vid" else []
        self.spread = nn.ParameterList(spread)

    def forward(self, maps: Sequence[Tensor]) -> list[Projected]:
        means = [regress(m) for regress, m in zip(self.regress, maps, strict=True)]
        if not len(self.spread):
            return [Projected(mean) for mean in means]
        return [Projected(mean, F.softplus(s.float()) + EPS) for mean, s in zip(means, self.spread, strict=True)]


def feature_loss(
    kind: Feature,
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    projection: nn.Module | None,
    temperature: float = 4.0,
) -> Tensor:
    """Scalar: mean of the loss `kind` over pairs of maps. The teacher's maps are resized to the student's.

    `temperature` is that of "cwd", which is `losses.cwd_loss` on projected features. Raises ValueError for an
    unknown kind.
    """
    if kind not in get_args(Feature)[1:]:
        raise ValueError(f"feature.kind: {kind!r} is not known; use one of {', '.join(get_args(Feature))}")
    targets = [_resized_like(t.detach(), s) for s, t in zip(student, teacher, strict=True)]
    if kind == "similarity":
        return torch.stack([similarity(s, t) for s, t in zip(student, targets, strict=True)]).mean()
    assert projection is not None
    losses = []
    for (mean, variance), target in zip(projection(student), targets, strict=True):
        if variance is not None:
            losses.append(vid(mean, variance, target))
        elif kind == "cwd":
            losses.append(cwd_loss(mean, target, temperature=temperature))
        else:
            losses.append(fitnet(mean, target))
    return torch.stack(losses).mean()


def _resized_like(x: Tensor, like: Tensor) -> Tensor:
    """`x` at the size of `like`: averaged if it is finer, interpolated if it is coarser."""
    size = tuple(like.shape[2:])
    if all(own >= side for own, side in zip(x.shape[2:], size, strict=True)):
        return _pooled(x, size)
    return F.interpolate(x, size=size, mode=LINEAR[len(size)], align_corners=False)


def cutmix_maps(box: Tensor, feature: Tensor) -> Tensor:
    """`cutmix` of the images, for their feature maps: a cell on the border of a box gets the weighted mean of both.

    box bool [N, 1, *space], feature [N, D, *smaller].
    """
    weight = _resized_like(box.to(feature.dtype), feature)
    return torch.lerp(feature, feature.roll(1, 0), weight)


def maps_of(out: Output | Sequence[Tensor]) -> list[Tensor]:
    """The feature maps in the output of a network or of an encoder."""
    return list(out.maps if isinstance(out, Output) else out)


@torch.no_grad()
def forward_maps(network: nn.Module, example: Tensor) -> list[Tensor]:
    """The feature maps of one input [1, K, *space], in eval mode; the mode of the network is restored."""
    was_training = network.training
    maps = maps_of(network.eval()(example))
    network.train(was_training)
    return maps


def enable_maps(network: nn.Module, which: Maps) -> nn.Module:
    """Makes the network put its feature maps into `Output.maps`, and returns it.

    Raises ValueError for a network without feature maps.
    """
    if not hasattr(network, "maps"):
        raise ValueError(
            f"feature.kind: {type(network).__name__} gives no feature maps; distil from a unet, an smp/ network or a "
            "student, name a student.feature_teacher, or set none"
        )
    network.maps = which  # type: ignore[assignment]
    return network


def stride_of(feature: Tensor, space: Sequence[int]) -> int:
    """Stride of a map relative to an image of size `space`: the closest power of two, mean over axes."""
    steps = [math.log2(side / cells) for side, cells in zip(space, feature.shape[2:], strict=True)]
    return 2 ** round(sum(steps) / len(steps))


def pairs(
    student: Sequence[Tensor], teacher: Sequence[Tensor], *, space: Sequence[int], strides: Sequence[int] = ()
) -> list[tuple[int, int]]:
    """(index in student, index in teacher) of the maps of equal stride that are compared, finest first.

    Of several maps of one stride the deepest is used. `strides` selects among those that both have; empty takes all.
    Raises ValueError if there is no such pair.
    """
    own, given = ({stride_of(m, space): i for i, m in enumerate(maps)} for maps in (student, teacher))
    selected = sorted(strides or set(own) & set(given))
    if not selected or not set(selected) <= set(own) & set(given):
        raise ValueError(
            f"feature.strides: the student has maps of stride {sorted(own)}, the teacher of {sorted(given)}; "
            f"{list(strides) or 'a stride'} must be among both"
        )
    return [(own[stride], given[stride]) for stride in selected]
