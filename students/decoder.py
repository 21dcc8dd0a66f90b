"""Light decoders: a pyramid of maps, finest first -> maps of the decoder, coarsest first.

Only convolution, batch norm, ReLU, addition, concatenation, mean and bilinear resizing to a given size:
what every INT8 runtime fuses or runs natively. The channels of the encoder are read at
construction alone, so that a pruned network runs and exports as it is.

Shapes: N batch, C channels, h w the size of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgemt.errors import unknown_name_message


def resize(x: Tensor, like: Tensor, up: str = "bilinear") -> Tensor:
    """To the size of `like`, in the mode `up`: the sizes are constants in an exported graph."""
    return F.interpolate(x, size=like.shape[-2:], mode=up, align_corners=None if up == "nearest" else False)


def conv(inward: int, outward: int, size: int = 1, *, groups: int = 1, act: bool = True) -> nn.Sequential:
    """Convolution without bias, batch norm and, with `act`, ReLU. Odd sizes leave H and W as they are."""
    layers: list[nn.Module] = [
        nn.Conv2d(inward, outward, size, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outward),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if act else nn.Sequential(*layers)


def separable(inward: int, outward: int) -> nn.Sequential:
    """Depthwise 3x3, pointwise 1x1."""
    return nn.Sequential(conv(inward, inward, 3, groups=inward), conv(inward, outward))


def dense(inward: int, outward: int) -> nn.Sequential:
    """Convolution 3x3 over all channels, batch norm, ReLU."""
    return conv(inward, outward, 3)


class TopDown(nn.Module):
    """Adds each level's 1x1 projection to the resized deeper map, then mixes; widths follow the stride."""

    def __init__(
        self,
        channels: Sequence[int],
        widths: Sequence[int],
        *,
        mix: Callable[[int, int], nn.Module],
        up: str = "bilinear",
    ) -> None:
        super().__init__()
        self.resample = up
        inward, outward = list(reversed(channels)), list(reversed(widths))
        self.lateral = nn.ModuleList(conv(c, w, act=False) for c, w in zip(inward, outward, strict=True))
        # A level's mixer hands on the width of the next finer level: the addition needs no further 1x1.
        self.mix = nn.ModuleList(mix(w, n) for w, n in zip(outward, [*outward[1:], outward[-1]], strict=True))
        self.widths = tuple([*outward[1:], outward[-1]])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        out: list[Tensor] = []
        for lateral, mix, skip in zip(self.lateral, self.mix, reversed(maps), strict=True):
            x = lateral(skip)
            if out:
                x = x + resize(out[-1], x, self.resample)
            out.append(mix(F.relu(x)))
        return out


class Concat(nn.Module):
    """A U-Net decoder: the skip beside the resized deeper map, then a depthwise-separable convolution."""

    def __init__(self, channels: Sequence[int], widths: Sequence[int], *, up: str = "bilinear") -> None:
        super().__init__()
        self.resample = up
        inward, outward = list(reversed(channels)), list(reversed(widths))
        self.deep = conv(inward[0], outward[0])
        before = [outward[0], *outward[1:-1]]
        self.mix = nn.ModuleList(separable(b + c, w) for b, c, w in zip(before, inward[1:], outward[1:], strict=True))
        self.widths = tuple(outward)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        deep, *skips = reversed(maps)
        out = [self.deep(deep)]
        for mix, skip in zip(self.mix, skips, strict=True):
            out.append(mix(torch.cat((skip, resize(out[-1], skip, self.resample)), dim=1)))
        return out


class Gated(nn.Module):
    """LR-ASPP of MobileNetV3 (arXiv 1905.02244): the deepest map, gated by its mean, over the finest skip."""

    def __init__(self, channels: Sequence[int], widths: Sequence[int], *, up: str = "bilinear") -> None:
        super().__init__()
        self.resample = up
        width = max(widths)
        self.deep = conv(channels[-1], width)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels[-1], width, 1), nn.Sigmoid())
        self.narrow = conv(width, width, act=False)
        self.lateral = conv(channels[0], width, act=False)
        self.widths = (width, width)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        deep, skip = self.deep(maps[-1]) * self.gate(maps[-1]), self.lateral(maps[0])
        return [deep, F.relu(skip + resize(self.narrow(deep), skip, self.resample))]


class DecoderSpec(NamedTuple):
    """A row of the table."""

    about: str
    finest: int  # stride of the finest map that it reads
    build: Callable[..., nn.Module]  # channels, widths: finest first; `up`


DECODERS: dict[str, DecoderSpec] = {
    "slim": DecoderSpec("top-down addition, depthwise-separable 3x3", 4, partial(TopDown, mix=separable)),
    "dense": DecoderSpec("top-down addition, dense 3x3 on narrow maps", 4, partial(TopDown, mix=dense)),
    "dense2": DecoderSpec("the same with the skip of stride 2", 2, partial(TopDown, mix=dense)),
    "concat": DecoderSpec("U-Net: concatenated skips, depthwise-separable 3x3", 4, Concat),
    "lraspp": DecoderSpec("gated deepest map over one skip of stride 8: quick and coarse", 8, Gated),
}
# Width of a decoder's map by its stride; the kernels of INT8 runtimes work in blocks of 16.
WIDTHS = {2: 16, 4: 32, 8: 48, 16: 64, 32: 96}


def decoder_spec(name: str) -> DecoderSpec:
    """The row for `name`. Raises ValueError with the nearest name when there is none."""
    if name not in DECODERS:
        raise ValueError(unknown_name_message("decoder", name, DECODERS))
    return DECODERS[name]


def build_decoder(name: str, *, channels: Sequence[int], strides: Sequence[int], up: str = "bilinear") -> nn.Module:
    """A decoder for maps of these channels and strides, finest first; `.widths` are those of its own maps.

    `up` is the mode of `F.interpolate` between its levels.
    """
    widths = [WIDTHS[min(WIDTHS, key=lambda known: abs(known - stride))] for stride in strides]  # noqa: B023
    return decoder_spec(name).build(channels, widths, up=up)
