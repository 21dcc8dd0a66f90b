"""The U-Net of the semi-supervised benchmarks: 16-32-64-128-256, dropout growing with depth.

Ronneberger et al. 2015 (arXiv 1505.04597), in the form that the SSL4MIS results were obtained with: two
convolutions a level, batch norm (or another), LeakyReLU, dropout 0.05 to 0.5 in the encoder, bilinear upsampling behind
a 1x1 convolution, a 3x3 head. Only the convolution biases that batch norm cancels are left out.

Shapes: N batch, K image channels, C classes, *space 2 or 3 axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgemt.contract import Disturb, DisturbScales, Output
from teachers.attention import Attention, attend
from teachers.layers import CONV, POOL, UNSTRIDE, Norm, check, normalisation, resize


def double_conv(inward: int, outward: int, *, dropout: float, norm: Norm, dims: int) -> nn.Sequential:
    """Two convolutions of width 3, each with a norm and leaky ReLU, and dropout between them; `dims` 2 or 3."""
    conv, biased = CONV[dims], norm == "group"  # batch and instance norm cancel a bias
    return nn.Sequential(
        conv(inward, outward, 3, padding=1, bias=biased),
        normalisation(norm, outward, dims=dims),
        nn.LeakyReLU(inplace=True),
        nn.Dropout(dropout),
        conv(outward, outward, 3, padding=1, bias=biased),
        normalisation(norm, outward, dims=dims),
        nn.LeakyReLU(inplace=True),
    )


UPS = ("bilinear", "transposed", "nearest")


class Up(nn.Module):
    """Doubles the resolution, puts the skip beside it, convolves twice; `up` is one of UPS."""

    def __init__(self, deep: int, skip: int, *, up: str, norm: Norm, dims: int) -> None:
        super().__init__()
        self.nearest = up == "nearest"
        self.reduce = UNSTRIDE[dims](deep, skip, 2, stride=2) if up == "transposed" else CONV[dims](deep, skip, 1)
        self.convs = double_conv(2 * skip, skip, dropout=0.0, norm=norm, dims=dims)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        # The 1x1 convolution commutes with the resampling, and is four times cheaper before it.
        x, size = self.reduce(x), skip.shape[2:]  # a transposed convolution is one short where a side is odd
        x = F.interpolate(x, size=tuple(size), mode="nearest") if self.nearest else resize(x, size)
        return self.convs(torch.cat((skip, x), dim=1))


class UNet(nn.Module):
    """image [N, K, *space] -> Output; any size whose sides are at least 2 ** (levels - 1).

    heads: "sdf" signed distances in [-1, 1], "scales" logits of the coarser decoder levels (deep supervision),
    "features" the last decoder map; "disturb" the keyword of that name, a function for every encoder map.
    "decoder2" and "decoder3" each add the logits of one more full-size decoder that resamples otherwise, as MC-Net and
    MC-Net+ have them; such decoders run in train mode only. `attention`: see teachers/attention.py.

    `maps`, an attribute to set: whose feature maps `Output.maps` holds, at their own resolution, finest first.
    """

    maps: Literal["", "encoder", "decoder"] = ""

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        heads: Sequence[str] = (),
        widths: Sequence[int] = (16, 32, 64, 128, 256),
        dropout: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.5),
        up: str = "bilinear",
        norm: Norm = "batch",
        attention: Attention = "none",
        dims: int = 2,
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"unet: widths = {tuple(widths)}: give at least two levels")
        if len(dropout) != len(widths):
            raise ValueError(f"unet: dropout has {len(dropout)} numbers for {len(widths)} widths: give one a level")
        if up not in UPS[:2]:
            raise ValueError(f"unet: up = {up!r}: choose bilinear or transposed")
        check("unet", dims=dims, norm=norm)
        conv = CONV[dims]
        self.deepest = 2 ** (len(widths) - 1)
        self.pool = POOL[dims](2)
        self.down = nn.ModuleList(
            double_conv(inward, outward, dropout=rate, norm=norm, dims=dims)
            for inward, outward, rate in zip((channels, *widths), widths, dropout, strict=False)
        )
        self.attend = attend(attention, widths, dims=dims, network="unet")
        pairs = list(reversed(list(zip(widths, widths[1:], strict=False))))

        def decoder(up: str) -> nn.ModuleList:
            return nn.ModuleList(Up(deep, skip, up=up, norm=norm, dims=dims) for skip, deep in pairs)

        self.up = decoder(up)
        self.head = conv(widths[0], classes, 3, padding=1)
        self.sdf = conv(widths[0], classes - 1, 1) if "sdf" in heads else None
        self.scales = nn.ModuleList(conv(width, classes, 1) for width in reversed(widths[1:-1]) if "scales" in heads)
        others = [way for way in UPS if way != up][: sum(head in heads for head in ("decoder2", "decoder3"))]
        self.further = nn.ModuleList(decoder(way) for way in others)
        self.further_heads = nn.ModuleList(conv(widths[0], classes, 3, padding=1) for _ in others)
        self.keep_features = "features" in heads

    def forward(self, x: Tensor, disturb: Disturb | None = None, disturb_scales: DisturbScales | None = None) -> Output:
        space = x.shape[2:]
        if min(space) < self.deepest:
            raise ValueError(f"unet: input {tuple(space)} is too small: every side must be at least {self.deepest}")
        skips: list[Tensor] = []
        for index, block in enumerate(self.down):
            x = block(self.pool(x) if index else x)
            skips.append(x)
        skips = skips if self.attend is None else self.attend(skips)
        if disturb is not None:
            skips = [disturb(skip) for skip in skips]
        maps = decode(self.up, skips)
        x = maps[-1]
        coarser = maps if disturb_scales is None else [disturb_scales(level, m) for level, m in enumerate(maps[:-1])]
        further = zip(self.further, self.further_heads, strict=True) if self.training else ()
        return Output(
            logits=self.head(x),
            features=x if self.keep_features else None,
            sdf=None if self.sdf is None else torch.tanh(self.sdf(x)),
            scales=tuple(resize(head(m), space) for head, m in zip(self.scales, coarser, strict=False)),
            decoders=tuple(head(decode(blocks, skips)[-1]) for blocks, head in further),  # type: ignore[arg-type]
            maps={"encoder": tuple(skips), "decoder": tuple(reversed(maps))}.get(self.maps, ()),
        )


def decode(blocks: nn.ModuleList, skips: Sequence[Tensor]) -> list[Tensor]:
    """The maps of a decoder, coarsest first, from those of the encoder, deepest last."""
    maps, x = [], skips[-1]
    for block, skip in zip(blocks, reversed(skips[:-1]), strict=True):
        x = block(x, skip)
        maps.append(x)
    return maps
