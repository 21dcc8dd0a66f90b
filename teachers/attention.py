"""Attention between an encoder and its decoder: maps in, maps of the same sizes out.

"gate"     residual attention gates on the skips (Oktay et al., 2018): a deeper map weights the places of a skip
"se"       Inception's parallel windows and squeeze-excite (Hu et al., CVPR 2018) on every map
"dual"     attention over places and over channels of the deepest map (DANet, Fu et al., CVPR 2019)
"dynamic"  a convolution whose kernel is mixed for each image from several (Chen et al., CVPR 2020), on the deepest map

Each is residual: what it is given passes, more or less of it. The gates listen to the next deeper encoder map, where
Oktay et al. take the decoder's, so that any number of decoders can share them.

Shapes: N batch, F channels of a map, V its voxels, *space 2 or 3 axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from teachers.layers import CONV, resize

Attention = Literal["none", "dual", "gate", "se", "dynamic"]


def attend(kind: Attention, widths: Sequence[int], *, dims: int, network: str) -> SkipAttention | None:
    """The module for maps of these widths, finest first; None for "none". Raises ValueError for an unknown kind."""
    if kind not in get_args(Attention):
        raise ValueError(f"{network}: attention = {kind!r}: choose {', '.join(get_args(Attention))}")
    return None if kind == "none" else SkipAttention(kind, widths, dims=dims)


class SkipAttention(nn.Module):
    """Maps of an encoder, finest first -> maps that the decoder reads, of the same sizes."""

    def __init__(self, kind: Attention, widths: Sequence[int], *, dims: int) -> None:
        super().__init__()
        self.gated = kind == "gate"
        parts: list[nn.Module] = [nn.Identity() for _ in widths]
        if kind == "gate":
            parts[:-1] = [AttentionGate(skip, deep, dims=dims) for skip, deep in zip(widths, widths[1:], strict=False)]
        elif kind == "se":
            parts = [SqueezeExcite(width, dims=dims) for width in widths]
        else:
            parts[-1] = {"dual": DualAttention, "dynamic": DynamicConv}[kind](widths[-1], dims=dims)
        self.parts = nn.ModuleList(parts)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        if not self.gated:
            return [part(x) for part, x in zip(self.parts, maps, strict=True)]
        out = [maps[-1]]
        for part, skip in zip(reversed(self.parts[:-1]), reversed(maps[:-1]), strict=True):
            out.insert(0, part(skip, out[0]))
        return out


class AttentionGate(nn.Module):
    """(skip [N, F, *space], a deeper map) -> skip times 1 + a, with a in (0, 1) from both."""

    def __init__(self, skip: int, deep: int, *, dims: int) -> None:
        super().__init__()
        conv, inner = CONV[dims], max(skip // 2, 1)
        self.skip, self.deep = conv(skip, inner, 1), conv(deep, inner, 1)
        self.say = conv(inner, 1, 1)

    def forward(self, skip: Tensor, deep: Tensor) -> Tensor:
        both = F.relu(self.skip(skip) + resize(self.deep(deep), skip.shape[2:]))
        return skip * (1.0 + torch.sigmoid(self.say(both)))


class SqueezeExcite(nn.Module):
    """Three windows side by side (1, 3, 5 voxels, channel by channel), then a weight a channel from the whole map."""

    def __init__(self, width: int, *, dims: int, reduce: int = 4) -> None:
        super().__init__()
        conv, inner = CONV[dims], max(width // reduce, 1)
        self.near = conv(width, width, 3, padding=1, groups=width, bias=False)
        self.far = conv(width, width, 3, padding=2, dilation=2, groups=width, bias=False)
        self.weigh = nn.Sequential(nn.Linear(width, inner), nn.ReLU(inplace=True), nn.Linear(inner, width))
        for kernel in (*self.near.parameters(), *self.far.parameters()):
            nn.init.normal_(kernel, std=1e-2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.near(x) + self.far(x)
        weight = 2.0 * torch.sigmoid(self.weigh(x.flatten(2).mean(2)))
        return x * weight.view(*weight.shape, *[1] * (x.ndim - 2))


class DualAttention(nn.Module):
    """x plus what like places say plus what like channels say; both begin at weight 0 and are learnt.

    Places cost V^2 memory, which is why only the deepest map has it. Channels are compared by their deviations from
    the mean, as cosines, where DANet subtracts raw products from their maximum: a scale-free likeness.
    """

    def __init__(self, width: int, *, dims: int, reduce: int = 8) -> None:
        super().__init__()
        conv, inner = CONV[dims], max(width // reduce, 1)
        self.ask, self.answer, self.value = conv(width, inner, 1), conv(width, inner, 1), conv(width, width, 1)
        self.places, self.channels = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        ask, answer, value = (part(x).flatten(2).transpose(1, 2) for part in (self.ask, self.answer, self.value))
        places = F.scaled_dot_product_attention(ask, answer, value).transpose(1, 2)
        unit = F.normalize(flat - flat.mean(2, keepdim=True), dim=2)
        channels = (unit @ unit.transpose(1, 2)).softmax(2) @ flat
        return (flat + self.places * places + self.channels * channels).view_as(x)


class DynamicConv(nn.Module):
    """x plus a 3-voxel convolution whose kernel each image mixes from `kernels` by attention over its mean.

    As ASE-Net's dynamic convolution; the softmax is tempered, as Chen et al. have it, so that all kernels learn.
    """

    def __init__(self, width: int, *, dims: int, kernels: int = 4, reduce: int = 4, temperature: float = 30.0) -> None:
        super().__init__()
        self.temperature, self.convolve = temperature, F.conv3d if dims == 3 else F.conv2d
        inner = max(width // reduce, 1)
        self.mix = nn.Sequential(nn.Linear(width, inner), nn.ReLU(inplace=True), nn.Linear(inner, kernels))
        self.kernels = nn.Parameter(torch.empty(kernels, width, width, *[3] * dims))
        for kernel in self.kernels:
            nn.init.kaiming_normal_(kernel)
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        share = (self.mix(x.flatten(2).mean(2)) / self.temperature).softmax(1)
        kernel = torch.einsum("nk,koi...->noi...", share, self.kernels).flatten(0, 1)
        # One group an image: each is convolved with its own kernel in one call.
        mixed = self.convolve(x.flatten(0, 1).unsqueeze(0), kernel.to(x.dtype), padding=1, groups=len(x))
        return x + self.scale * F.relu(mixed.view_as(x))
