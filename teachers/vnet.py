"""V-Net as the semi-supervised literature on the left atrium uses it: additive skips, one width doubled a level.

Milletari et al. 2016 (arXiv 1606.04797) in the form of UA-MT (Yu et al., MICCAI 2019) and all that followed:
blocks of 1, 2, 3, 3, 3 convolutions down and 3, 3, 2, 1 up, strided 2x2x2 convolutions between them, transposed
ones on the way up, Dropout3d behind the deepest block and before the last 1x1x1. Only the convolution biases
that the normalisation cancels are left out.

Shapes: N batch, K image channels, C classes, F filters, *space 2 or 3 axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from edgemt.contract import Disturb, DisturbScales, Output
from teachers.attention import Attention, attend
from teachers.layers import (
    CONV,
    DROPOUT,
    LINEAR,
    UNSTRIDE,
    Norm,
    check,
    crop_to,
    normalisation,
    pad_to_multiple,
    resize,
)

DOWN = (1, 2, 3, 3, 3)  # convolutions of each block, the deepest last
UP = (3, 3, 2, 1)
EXTRA_UPSAMPLING = ("linear", "nearest")  # how MC-Net's second and MC-Net+'s third decoder resample

Unit = Callable[[nn.Module, int], Iterator[nn.Module]]  # convolution, its channels out -> it, norm, ReLU


def _unit(norm: Norm, dims: int) -> Unit:
    def unit(convolution: nn.Module, outward: int) -> Iterator[nn.Module]:
        yield convolution
        yield normalisation(norm, outward, dims=dims)
        yield nn.ReLU(inplace=True)

    return unit


class VNetDecoder(nn.Module):
    """Maps of the encoder, deepest last -> its own, coarsest first [N, F, *space]; `up` is how it resamples."""

    def __init__(self, widths: Sequence[int], *, up: str, norm: Norm, dims: int) -> None:
        super().__init__()
        unit, biased = _unit(norm, dims), norm == "group"
        conv, mode = CONV[dims], LINEAR[dims] if up == "linear" else up

        def enlarge(deep: int, width: int) -> nn.Sequential:
            if up == "transposed":
                return nn.Sequential(*unit(UNSTRIDE[dims](deep, width, 2, stride=2, bias=biased), width))
            resample = nn.Upsample(scale_factor=2, mode=mode, align_corners=None if mode == "nearest" else False)
            return nn.Sequential(resample, *unit(conv(deep, width, 3, padding=1, bias=biased), width))

        def block(width: int, count: int) -> nn.Sequential:
            convs = (unit(conv(width, width, 3, padding=1, bias=biased), width) for _ in range(count))
            return nn.Sequential(*(layer for layers in convs for layer in layers))

        pairs = list(zip(reversed(widths), reversed(widths[:-1]), strict=False))
        self.enlarge = nn.ModuleList(enlarge(deep, width) for deep, width in pairs)
        self.blocks = nn.ModuleList(block(width, count) for (_, width), count in zip(pairs, UP, strict=True))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        levels, x = [], maps[-1]
        for enlarge, block, skip in zip(self.enlarge, self.blocks, reversed(maps[:-1]), strict=True):
            x = block(enlarge(x) + skip)
            levels.append(x)
        return levels


class VNet(nn.Module):
    """image [N, K, *space] -> Output; a side that is no multiple of 16 is continued inside and cut back.

    heads: "sdf" signed distances in [-1, 1], as DTC has them; "features" the last decoder map; "scales" logits of the
    coarser decoder levels; "decoder2" and "decoder3" each add the logits of one more full-size decoder that resamples
    otherwise (linear, as MC-Net; nearest too, as MC-Net+). Scales and further decoders run in train mode only.
    "disturb" is the keyword of that name, a function for every encoder map. `attention`: see teachers/attention.py.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        heads: Sequence[str] = (),
        filters: int = 16,
        norm: Norm = "batch",
        attention: Attention = "none",
        dropout: float = 0.5,
        dims: int = 3,
    ) -> None:
        super().__init__()
        check("vnet", dims=dims, norm=norm)
        if filters < 1:
            raise ValueError(f"vnet: filters = {filters}: give at least 1, 16 in the papers")
        conv, unit, biased = CONV[dims], _unit(norm, dims), norm == "group"
        widths = [filters * 2**level for level in range(len(DOWN))]
        self.multiple = 2 ** (len(widths) - 1)

        def level(index: int, width: int) -> nn.Sequential:
            """Halves the resolution, but for the first level, and convolves."""
            layers: list[nn.Module] = []
            if index:
                layers += unit(conv(widths[index - 1], width, 2, stride=2, bias=biased), width)
            for number in range(DOWN[index]):
                inward = width if index or number else channels
                layers += unit(conv(inward, width, 3, padding=1, bias=biased), width)
            return nn.Sequential(*layers)

        self.down = nn.ModuleList(level(index, width) for index, width in enumerate(widths))
        self.attend = attend(attention, widths, dims=dims, network="vnet")
        self.dropout = DROPOUT[dims](dropout)
        self.up = VNetDecoder(widths, up="transposed", norm=norm, dims=dims)
        self.head = conv(filters, classes, 1)
        self.sdf = conv(filters, classes - 1, 1) if "sdf" in heads else None
        self.scales = nn.ModuleList(conv(width, classes, 1) for width in widths[-2:0:-1] if "scales" in heads)
        ways = EXTRA_UPSAMPLING[: sum(head in heads for head in ("decoder2", "decoder3"))]
        self.further = nn.ModuleList(VNetDecoder(widths, up=up, norm=norm, dims=dims) for up in ways)
        self.further_heads = nn.ModuleList(conv(filters, classes, 1) for _ in ways)
        self.keep_features = "features" in heads

    def forward(self, x: Tensor, disturb: Disturb | None = None, disturb_scales: DisturbScales | None = None) -> Output:
        space = x.shape[2:]
        x = pad_to_multiple(x, multiple=self.multiple)
        maps: list[Tensor] = []
        for block in self.down:
            x = block(x)
            maps.append(x)
        maps = maps if self.attend is None else self.attend(maps)
        maps[-1] = self.dropout(maps[-1])
        maps = maps if disturb is None else [disturb(m) for m in maps]
        levels = self.up(maps)
        last = levels[-1]
        x = self.dropout(last)
        coarser = levels if disturb_scales is None else [disturb_scales(i, m) for i, m in enumerate(levels[:-1])]
        scales = zip(self.scales, coarser, strict=False) if self.training else ()
        others = zip(self.further, self.further_heads, strict=True) if self.training else ()
        return Output(
            logits=crop_to(self.head(x), space),
            features=crop_to(last, space) if self.keep_features else None,
            sdf=None if self.sdf is None else crop_to(torch.tanh(self.sdf(x)), space),
            scales=tuple(crop_to(resize(head(m), last.shape[2:]), space) for head, m in scales),
            decoders=tuple(crop_to(head(self.dropout(decoder(maps)[-1])), space) for decoder, head in others),
        )
