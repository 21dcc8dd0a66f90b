"""A student: pyramid, decoder, heads.

Shapes: N batch, K image channels, C classes, H W size.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgemt.contract import Disturb, DisturbScales, Output
from students.decoder import build_decoder, conv, decoder_spec, resize
from students.mask import (
    downsample,
    mask_kernel,
    shrink_kernel,
    upsampled_argmax,
    upsampled_argmax_and_softmax,
    upsampled_bits,
    upsampled_bits_and_sigmoid,
    upsampled_bytes,
    upsampling_kernels,
)
from students.pyramid import TimmPyramid

MULTIPLE = 32  # pixels: the deepest stride of the encoders
_DIVISOR = 16  # of a resolution as a fraction
EXTRA_UPSAMPLING = ("nearest", "bicubic")  # how a second and a third decoder resample; the main one is bilinear


class StudentNetwork(nn.Module):
    """image [N, K, H, W] -> Output; any H and W that the encoder takes (convolutional ones: all).

    heads: "sdf" signed distances in [-1, 1], "scales" logits of the decoder's coarser maps, "features" its finest map;
    "disturb" the keyword of that name, a function for every map of the pyramid. "decoder2" and "decoder3" each add the
    logits of one more decoder of the same kind that resamples otherwise; they run in eval mode too, so that pruning
    traces them, and `mask` leaves them out. "uncertainty" is the logit of the probability that the class of a pixel is
    wrong, from the decoder's finest map; its gradient does not reach that map, so the masks are those of a student
    without it.

    resolution: the part of the sides at which the network works, such as 0.75. The frame is made smaller first (to
    whole multiples of 32 pixels), logits and mask have the size of the frame; the weights fit every resolution.

    overlapping: classes may overlap; each of C logits decides on its own, and `mask` gives bits in place of indices.

    `maps`, an attribute to set: whose feature maps `Output.maps` holds, at their own resolution, finest first.
    """

    maps: Literal["", "encoder", "decoder"] = ""
    phases: Tensor
    uncertainty_phases: Tensor
    shrink: Tensor

    def __init__(
        self,
        encoder: str,
        *,
        channels: int,
        classes: int,
        decoder: str,
        pretrained: str = "never",
        weights_file: str = "",
        first_conv: str = "auto",
        heads: Sequence[str] = (),
        resolution: float = 1.0,
        overlapping: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.resolution, self.overlapping = resolution, overlapping
        self.pyramid = TimmPyramid(
            encoder,
            channels=channels,
            finest=decoder_spec(decoder).finest,
            pretrained=pretrained,
            weights_file=weights_file,
            first_conv=first_conv,
            options=options,
        )
        self.decoder = build_decoder(decoder, channels=self.pyramid.channels, strides=self.pyramid.strides)
        widths: tuple[int, ...] = self.decoder.widths  # type: ignore[assignment]
        self.head = nn.Conv2d(widths[-1], classes, 1)
        self.sdf = nn.Conv2d(widths[-1], classes - 1, 1) if "sdf" in heads else None
        self.scales = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in widths[:-1] if "scales" in heads)
        ways = EXTRA_UPSAMPLING[: sum(head in heads for head in ("decoder2", "decoder3"))]
        size = {"channels": self.pyramid.channels, "strides": self.pyramid.strides}
        self.further = nn.ModuleList(build_decoder(decoder, **size, up=way) for way in ways)
        self.further_heads = nn.ModuleList(nn.Conv2d(widths[-1], classes, 1) for _ in ways)
        self.keep_features = "features" in heads
        part = Fraction(resolution).limit_denominator(_DIVISOR)
        up = self.pyramid.strides[0] / part
        kernel = mask_kernel(up.numerator, classes, down=up.denominator, overlapping=overlapping)
        self.register_buffer("phases", kernel, persistent=False)
        self.uncertainty = uncertainty_head(widths[-1]) if "uncertainty" in heads else None  # last: others draw first
        if self.uncertainty is not None:
            kernel = upsampling_kernels(up.numerator, up.denominator)
            self.register_buffer("uncertainty_phases", kernel, persistent=False)
        shrink = shrink_kernel(part.numerator, part.denominator, channels) if part < 1 else torch.empty(0)
        self.register_buffer("shrink", shrink, persistent=False)

    def forward(self, x: Tensor, disturb: Disturb | None = None, disturb_scales: DisturbScales | None = None) -> Output:
        pyramid = self.pyramid(smaller(x, self.resolution))
        pyramid = pyramid if disturb is None else [disturb(m) for m in pyramid]
        maps = self.decoder(pyramid)
        coarser = maps if disturb_scales is None else [disturb_scales(level, m) for level, m in enumerate(maps[:-1])]
        finest = maps[-1]
        return Output(
            logits=resize(self.head(finest), x),
            features=resize(finest, x) if self.keep_features else None,
            sdf=None if self.sdf is None else torch.tanh(resize(self.sdf(finest), x)),
            scales=tuple(resize(head(m), x) for head, m in zip(self.scales, coarser, strict=False)),
            decoders=tuple(
                resize(head(decoder(pyramid)[-1]), x)
                for decoder, head in zip(self.further, self.further_heads, strict=True)
            ),
            maps={"encoder": tuple(pyramid), "decoder": tuple(reversed(maps))}.get(self.maps, ()),
            uncertainty=None if self.uncertainty is None else resize(self.uncertainty(self._stopped(finest)), x),
        )

    def _stopped(self, finest: Tensor) -> Tensor:
        """The map without its gradient in training; in eval mode with it, as pruning traces channels through it."""
        return finest.detach() if self.training else finest

    def mask(self, x: Tensor) -> Tensor:
        """Class indices uint8 [N, H, W]: the argmax of the logits, the quick way for a graph that ships.

        Of overlapping classes bits (`edgemt.io.class_regions`): those whose logit is above 0.
        """
        logits = self.head(self.decoder(self.pyramid(self._smaller(x)))[-1])
        upsampled = upsampled_bits if self.overlapping else upsampled_argmax
        return upsampled(logits, self.phases, x.shape[-2:])

    def mask_and_uncertainty(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`mask`, and uint8 [N, H, W]: round(255 sqrt(p)), p the probability that the class of the pixel is wrong.

        The square root keeps the small probabilities apart. Raises ValueError for a network without that head.
        """
        if self.uncertainty is None:
            raise ValueError("this student has no uncertainty head; train it with student.method.uncertainty 1")
        finest, size = self.decoder(self.pyramid(self._smaller(x)))[-1], x.shape[-2:]
        upsampled = upsampled_bits if self.overlapping else upsampled_argmax
        mask = upsampled(self.head(finest), self.phases, size)
        root = 255 * self.uncertainty(finest).sigmoid().sqrt()
        return mask, upsampled_bytes(root, self.uncertainty_phases, size)

    def mask_and_softmax(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`mask`, and uint8 [N, H, W]: round(255 sqrt(p)), p = 1 - max softmax of the pixel's logits, by no head.

        Of overlapping classes p is that of the least certain one: max_k [1 - max(q_k, 1 - q_k)], q_k its sigmoid.
        """
        logits = self.head(self.decoder(self.pyramid(self._smaller(x)))[-1])
        both = upsampled_bits_and_sigmoid if self.overlapping else upsampled_argmax_and_softmax
        return both(logits, self.phases, x.shape[-2:])

    def _smaller(self, x: Tensor) -> Tensor:
        """`smaller`, by a convolution where the sizes allow it: the runtimes' own resampling is slow."""
        size = smaller_size(x, self.resolution)
        if not len(self.shrink):
            return x
        up, down = round((self.shrink.shape[0] // self.shrink.shape[1]) ** 0.5), self.shrink.shape[-1]
        fits = all(side % down == 0 and side * up == down * new for side, new in zip(x.shape[-2:], size, strict=True))
        return downsample(x, self.shrink) if fits else smaller(x, self.resolution)


def uncertainty_head(width: int) -> nn.Sequential:
    """Convolutions 1x1 to 16 channels and to one logit, the least that can tell how far two classes are apart.

    A 3x3 first layer found wrong pixels no better (AUROC 0.929 against 0.928 on features of a trained student). It
    begins near p = 0.05, as few pixels are wrong.
    """
    last = nn.Conv2d(16, 1, 1)
    nn.init.constant_(last.bias, -3.0)  # type: ignore[arg-type]
    return nn.Sequential(conv(width, 16), last)


def smaller(x: Tensor, part: float) -> Tensor:
    """[N, K, H, W] at `part` of its sides, bilinearly, in whole multiples of 32 pixels; 1 changes nothing.

    Networks of stride 32 then give maps without a rest.
    """
    return x if part == 1 else F.interpolate(x, size=smaller_size(x, part), mode="bilinear", align_corners=False)


def smaller_size(x: Tensor, part: float) -> list[int]:
    """Height and width of `smaller`."""
    return [max(MULTIPLE, round(side * part / MULTIPLE) * MULTIPLE) for side in x.shape[-2:]]
