"""From coarse logits to the mask without ever writing full-resolution logits.

Bilinear upsampling by a whole factor s is a fixed 3x3 convolution that gives each coarse pixel its s*s fine
values (phases); the classes are compared there, and only the winners, one channel, are spread out to full
resolution. The mask is that of logits.argmax(1), up to rounding where two classes tie, in a fraction of the
time.

Shapes: N batch, C classes, h w coarse size, H W input size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def phases(factor: int) -> Tensor:
    """[factor * factor, 1, 3, 3]: the weights that bilinear upsampling gives a pixel and its neighbours."""
    line = torch.zeros(factor, 3, dtype=torch.float64)
    for phase in range(factor):
        offset = (phase + 0.5) / factor - 0.5  # of the fine pixel from the coarse one, in coarse pixels
        line[phase] = torch.tensor([max(-offset, 0.0), 1 - abs(offset), max(offset, 0.0)])
    return torch.einsum("ai,bj->abij", line, line).reshape(factor * factor, 1, 3, 3).float()


def winners(scores: Sequence[Tensor]) -> Tensor:
    """Index of the largest of C tensors of one shape, as float: elementwise steps, which runtimes fuse."""
    best, index = scores[0], torch.zeros_like(scores[0])
    for number, score in enumerate(scores[1:], start=1):
        index = torch.where(score > best, float(number), index)
        best = torch.maximum(best, score)
    return index


def upsampled_argmax(logits: Tensor, kernel: Tensor, size: Sequence[int]) -> Tensor:
    """[N, C, h, w] -> class indices uint8 [N, H, W]; `kernel` is phases(factor) once for each class."""
    classes = logits.shape[1]
    factor = int((kernel.shape[0] // classes) ** 0.5)
    if [side * factor for side in logits.shape[-2:]] != list(size):
        full = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
        return winners(full.unbind(1)).to(torch.uint8)
    fine = F.conv2d(F.pad(logits, (1, 1, 1, 1), mode="replicate"), kernel.to(logits.dtype), groups=classes)
    # The cast comes last: NVIDIA's parser takes uint8 at a graph's edge alone.
    return F.pixel_shuffle(winners(fine.chunk(classes, dim=1)), factor)[:, 0].to(torch.uint8)
