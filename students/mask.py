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


def mask_kernel(factor: int, classes: int) -> Tensor:
    """What `upsampled_argmax` convolves with: two classes' difference [f * f, 2, 3, 3], else each on its own."""
    kernel = phases(factor)
    return torch.cat((-kernel, kernel), dim=1) if classes == 2 else kernel.repeat(classes, 1, 1, 1)


def winners(scores: Sequence[Tensor]) -> Tensor:
    """Index of the largest of C tensors of one shape, as float: elementwise steps, which runtimes fuse."""
    best, index = scores[0], torch.zeros_like(scores[0])
    for number, score in enumerate(scores[1:], start=1):
        index = torch.where(score > best, float(number), index)
        best = torch.maximum(best, score)
    return index


def upsampled_argmax(logits: Tensor, kernel: Tensor, size: Sequence[int]) -> Tensor:
    """[N, C, h, w] -> class indices uint8 [N, H, W]; `kernel` is mask_kernel(factor, C)."""
    groups = logits.shape[1] // kernel.shape[1]  # 1: the difference of two classes
    factor = int((kernel.shape[0] // groups) ** 0.5)
    if [side * factor for side in logits.shape[-2:]] != list(size):
        if logits.shape[1] == 2:  # upsampling is linear: that of the difference alone tells which class is larger
            logits = logits[:, 1:] - logits[:, :1]
        full = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
        if full.shape[1] == 1:
            return (full > 0)[:, 0].to(torch.uint8)
        return winners(full.unbind(1)).to(torch.uint8)
    fine = F.conv2d(F.pad(logits, (1, 1, 1, 1), mode="replicate"), kernel.to(logits.dtype), groups=groups)
    # The cast to uint8 comes last: NVIDIA's parser takes it at a graph's edge alone.
    if groups == 1:
        return spread((fine > 0).to(logits.dtype), factor).to(torch.uint8)
    return F.pixel_shuffle(winners(fine.chunk(groups, dim=1)), factor)[:, 0].to(torch.uint8)


def spread(fine: Tensor, factor: int) -> Tensor:
    """[N, f * f, h, w] -> [N, f * h, f * w], as pixel_shuffle does, but channels last, as INT8 layers leave them."""
    count, _, height, width = fine.shape
    rows = fine.permute(0, 2, 3, 1).reshape(count, height, width, factor, factor)
    return rows.transpose(2, 3).reshape(count, factor * height, factor * width)
