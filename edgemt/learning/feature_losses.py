"""Losses between feature maps of a student and of a frozen teacher, and the projection that lies between them.

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
NODES = 256  # places of a map that are compared with each other, per image
LINEAR = {2: "bilinear", 3: "trilinear"}


def standardised(x: Tensor) -> Tensor:
    """x [N, D, *space] with mean 0 and variance 1 for each channel over batch and space, in float32 at least."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    axes = (0, *range(2, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True) + EPS).sqrt()


def fitnet(projected: Tensor, teacher: Tensor) -> Tensor:
    """mean((z(P s) - z(t))^2), z standardises each channel over the batch; both [N, D, *space]. From 0 to 4.

    FitNets, Romero et al., ICLR 2015, whose hint loss has no z: without it a few channels of large variance decide.
    With it the loss is 2 - 2 corr(P s, t), as in Cao et al., NeurIPS 2022 (PKD).
    """
    return (standardised(projected) - standardised(teacher)).square().mean()


def vid(mean: Tensor, variance: Tensor, teacher: Tensor) -> Tensor:
    """mean(log v / 2 + (z(t) - m(s))^2 / (2 v)): -log of a Gaussian q(t | s), its constant left out. May be negative.

    mean and teacher [N, D, *space], variance [D]. Variational information distillation, Ahn et al., CVPR 2019. The
    target is standardised (z): mutual information is the same, and the first variance fits every teacher.
    """
    target = standardised(teacher)
    v = variance.to(target.dtype).view(-1, *[1] * (target.ndim - 2))
    return 0.5 * (v.log() + (target - mean.to(target.dtype)).square() / v).mean()


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """mean over pairs of places of (cos(s_i, s_j) - cos(t_i, t_j))^2, within each image. [N, C or D, *space].

    The pairwise distillation of Liu et al., CVPR 2019 (structured knowledge distillation); maps of more than `NODES`
    places are average-pooled first, as there. It compares no channels, so that it needs no projection.
    """
    return (_cosines(student) - _cosines(teacher)).square().mean()


def _cosines(x: Tensor) -> Tensor:
    """[N, C, *space] -> [N, V, V]"""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    most = int(NODES ** (1.0 / (x.ndim - 2)) + 1e-6)
    unit = F.normalize(_pooled(x, [min(side, most) for side in x.shape[2:]]).flatten(2), dim=1, eps=EPS)
    return unit.transpose(1, 2) @ unit


def _pooled(x: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="area")  # adaptive average pooling, in two or three axes


class Projected(NamedTuple):
    """What a projection makes of one map of the student."""

    mean: Tensor  # [N, D, *space]
    variance: Tensor | None = None  # [D], of "vid" alone


class Projection(nn.Module):
    """Maps of the student [N, C, *space] -> maps with the teacher's channels; trained beside it, and not exported.

    One 1x1 convolution for each map; for "vid" three with ReLU between, as released, and a variance for each channel
    that begins at 5.
    """

    START = 5.0

    def __init__(self, kind: Feature, *, channels: Sequence[tuple[int, int]], dims: int) -> None:
        super().__init__()
        conv = nn.Conv3d if dims == 3 else nn.Conv2d

        def regression(inward: int, outward: int) -> nn.Module:
            if kind != "vid":
                return conv(inward, outward, 1)
            inner = (nn.ReLU(), conv(outward, outward, 1))
            return nn.Sequential(conv(inward, outward, 1), *inner, nn.ReLU(), conv(outward, outward, 1))

        self.regress = nn.ModuleList(regression(inward, outward) for inward, outward in channels)
        first = math.log(math.expm1(self.START - EPS))
        spread = [nn.Parameter(torch.full((outward,), first)) for _, outward in channels] if kind == "vid" else []
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
    """Scalar: mean of the chosen loss over pairs of maps. The teacher's take the size of the student's.

    `temperature` is that of "cwd", which is `losses.cwd_loss` on projected features. Raises ValueError for an
    unknown kind.
    """
    if kind not in get_args(Feature)[1:]:
        raise ValueError(f"feature.kind: {kind!r} is not known; use one of {', '.join(get_args(Feature))}")
    targets = [_resized_like(t.detach(), s) for s, t in zip(student, teacher, strict=True)]
    if kind == "similarity":
        return torch.stack([similarity(s, t) for s, t in zip(student, targets, strict=True)]).mean()
    assert projection is not None
    found = []
    for (mean, variance), target in zip(projection(student), targets, strict=True):
        if variance is not None:
            found.append(vid(mean, variance, target))
        elif kind == "cwd":
            found.append(cwd_loss(mean, target, temperature=temperature))
        else:
            found.append(fitnet(mean, target))
    return torch.stack(found).mean()


def _resized_like(x: Tensor, like: Tensor) -> Tensor:
    """x at the size of `like`: averaged where it is finer, interpolated where it is coarser."""
    size = tuple(like.shape[2:])
    if all(mine >= side for mine, side in zip(x.shape[2:], size, strict=True)):
        return _pooled(x, size)
    return F.interpolate(x, size=size, mode=LINEAR[len(size)], align_corners=False)


def cutmix_maps(box: Tensor, feature: Tensor) -> Tensor:
    """What `cutmix` makes of images, for a map of theirs: a cell on the border of a box gets both by share.

    box bool [N, 1, *space], feature [N, D, *smaller].
    """
    share = _resized_like(box.to(feature.dtype), feature)
    return torch.lerp(feature, feature.roll(1, 0), share)


def maps_of(out: Output | Sequence[Tensor]) -> list[Tensor]:
    """The feature maps in what a network, or a bare encoder, gives."""
    return list(out.maps if isinstance(out, Output) else out)


@torch.no_grad()
def forward_maps(network: nn.Module, example: Tensor) -> list[Tensor]:
    """The feature maps of one input [1, K, *space], in eval mode; the network is left as it was."""
    was_training = network.training
    found = maps_of(network.eval()(example))
    network.train(was_training)
    return found


def enable_maps(network: nn.Module, which: Maps) -> nn.Module:
    """The same network, which from now on puts its feature maps into `Output.maps`.

    Raises ValueError for a network that has none to give.
    """
    if not hasattr(network, "maps"):
        raise ValueError(
            f"feature.kind: {type(network).__name__} gives no feature maps; distil from a unet, an smp/ network or a "
            "student, name a student.feature_teacher, or set none"
        )
    network.maps = which  # type: ignore[assignment]
    return network


def stride_of(feature: Tensor, space: Sequence[int]) -> int:
    """The power of two by which a map is coarser than the image of size `space`, in the mean of its axes."""
    steps = [math.log2(side / cells) for side, cells in zip(space, feature.shape[2:], strict=True)]
    return 2 ** round(sum(steps) / len(steps))


def pairs(
    student: Sequence[Tensor], teacher: Sequence[Tensor], *, space: Sequence[int], strides: Sequence[int] = ()
) -> list[tuple[int, int]]:
    """Which map of the student (finest first) is compared with which of the teacher: those of equal stride.

    Of several of one stride the deepest counts. `strides` chooses among those that both have; empty takes all. Raises
    ValueError where there is no such pair.
    """
    mine, theirs = ({stride_of(m, space): i for i, m in enumerate(maps)} for maps in (student, teacher))
    wanted = sorted(strides or set(mine) & set(theirs))
    if not wanted or not set(wanted) <= set(mine) & set(theirs):
        raise ValueError(
            f"feature.strides: the student has maps of stride {sorted(mine)}, the teacher of {sorted(theirs)}; "
            f"{list(strides) or 'a stride'} must be among both"
        )
    return [(mine[stride], theirs[stride]) for stride in wanted]
