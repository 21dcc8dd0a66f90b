"""From coarse logits to the mask without ever writing full-resolution logits, and from a frame to a smaller one.

Bilinear upsampling by a whole factor s is a fixed 3x3 convolution that gives each coarse pixel its s*s fine values
(phases); a broken factor such as 16/3 is one of stride 3. The classes are compared there, and only the winners, one
channel, are spread out to full resolution. The mask is that of logits.argmax(1), up to rounding where two classes tie,
in a fraction of the time.

Shapes: N batch, K image channels, C classes, h w coarse size, H W input size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F


def upsampling_kernels(up: int, down: int = 1) -> Tensor:
    """[up * up, 1, k, k]: bilinear resampling by up / down as a convolution of stride `down`, one channel a phase.

    k is down + 2 and the input is padded by one pixel; where the result is smaller, k is down and nothing is padded.
    `up` and `down` have no common divisor.
    """
    rim = 0 if up < down else 1
    line = torch.zeros(up, down + 2 * rim, dtype=torch.float64)
    for phase in range(up):
        place = (phase + 0.5) * down / up - 0.5 + rim  # of the fine pixel, in pixels of the padded input
        first = min(int(place), line.shape[1] - 2) if line.shape[1] > 1 else 0
        line[phase, first] = 1 - (place - first)
        if line.shape[1] > 1:
            line[phase, first + 1] = place - first
    side = line.shape[1]
    return torch.einsum("ai,bj->abij", line, line).reshape(up * up, 1, side, side).float()


def mask_kernel(up: int, classes: int, *, down: int = 1, overlapping: bool = False) -> Tensor:
    """What `upsampled_argmax` convolves with: two classes' difference [up * up, 2, k, k], else each on its own."""
    kernel = upsampling_kernels(up, down)
    alone = overlapping or classes != 2
    return kernel.repeat(classes, 1, 1, 1) if alone else torch.cat((-kernel, kernel), dim=1)


def shrink_kernel(up: int, down: int, channels: int) -> Tensor:
    """[up * up * channels, channels, down, down], what `downsample` convolves with: each channel stays on its own."""
    kernel = upsampling_kernels(up, down)
    whole = kernel.new_zeros(len(kernel), channels, channels, down, down)
    for channel in range(channels):
        whole[:, channel, channel] = kernel[:, 0]
    return whole.flatten(0, 1)


def downsample(x: Tensor, kernel: Tensor) -> Tensor:
    """[N, K, H, W] -> [N, K, H * up / down, W * up / down]: F.interpolate's bilinear values from one convolution.

    kernel: shrink_kernel(up, down, K). H and W are multiples of `down`. Runtimes resample slowly: 0.6 ms for 256 x 256
    RGB on OpenVINO, where a network takes 2 ms. The phases are spread channels last, as INT8 layers leave them.
    """
    channels = kernel.shape[1]
    up = round((kernel.shape[0] // channels) ** 0.5)
    fine = F.conv2d(x, kernel.to(x.dtype), stride=kernel.shape[-1])
    count, _, height, width = fine.shape
    rows = fine.permute(0, 2, 3, 1).reshape(count, height, width, up, up * channels).transpose(2, 3)
    return rows.reshape(count, height * up, width * up, channels).permute(0, 3, 1, 2)


def argmax_per_phase(scores: Sequence[Tensor]) -> Tensor:
    """Index of the largest of C tensors of one shape, as float: elementwise steps, which runtimes fuse."""
    best, index = scores[0], torch.zeros_like(scores[0])
    for number, score in enumerate(scores[1:], start=1):
        index = torch.where(score > best, float(number), index)
        best = torch.maximum(best, score)
    return index


def upsampled_argmax(logits: Tensor, kernel: Tensor, size: Sequence[int]) -> Tensor:
    """[N, C, h, w] -> class indices uint8 [N, H, W]; `kernel` is mask_kernel(up, C, down=down)."""
    scores, factor = _upsampled_scores(logits, kernel, size)
    return _class_indices(scores, factor)


def upsampled_bits(logits: Tensor, kernel: Tensor, size: Sequence[int]) -> Tensor:
    """[N, C, h, w] of overlapping classes -> uint8 [N, H, W]: bit k where logit k is above 0.

    `kernel` is mask_kernel(up, C, down=down, overlapping=True).
    """
    return _bits(*_upsampled_scores(logits, kernel, size, overlapping=True))


def upsampled_bits_and_sigmoid(logits: Tensor, kernel: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """`upsampled_bits`, and uint8 [N, H, W]: round(255 sqrt(p)), p = max_k [1 - max(q_k, 1 - q_k)], q_k = sigmoid.

    1 - max(q, 1 - q) = sigmoid(-|logit|), so the largest is that of the logit nearest to 0.
    """
    scores, factor = _upsampled_scores(logits, kernel, size, overlapping=True)
    nearest = reduce(torch.minimum, [score.abs() for score in scores])
    return _bits(scores, factor), _rounded_root(_full_size((-nearest).sigmoid(), factor))


def _bits(scores: Sequence[Tensor], factor: int) -> Tensor:
    bits = [(score > 0).to(score.dtype) * 2**k for k, score in enumerate(scores)]
    return _full_size(reduce(torch.add, bits), factor).to(torch.uint8)


def upsampled_argmax_and_softmax(logits: Tensor, kernel: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """`upsampled_argmax`, and uint8 [N, H, W]: round(255 sqrt(p)), p = 1 - max_c softmax_c of the upsampled logits."""
    scores, factor = _upsampled_scores(logits, kernel, size)
    if len(scores) == 1:  # of two classes the smaller probability is sigmoid(-|difference|)
        difference = _full_size(scores[0], factor)  # spread out once, for both outputs
        mask, unsure = (difference > 0).to(difference.dtype).to(torch.uint8), (-difference.abs()).sigmoid()
        return mask, _rounded_root(unsure)
    best = reduce(torch.maximum, scores)
    total = torch.stack([(score - best).exp() for score in scores]).sum(0)
    return _class_indices(scores, factor), _rounded_root(_full_size((total - 1) / total, factor))


def _rounded_root(p: Tensor) -> Tensor:
    return (255 * p.sqrt() + 0.5).to(torch.uint8)  # the cast cuts off


def _upsampled_scores(
    logits: Tensor, kernel: Tensor, size: Sequence[int], *, overlapping: bool = False
) -> tuple[list[Tensor], int]:
    """One tensor a class, or the difference of two alone, and how many fine pixels a side of its pixels has.

    [N, f * f, h, w] where a convolution brings them to `size`, else [N, H, W] and f = 1.
    """
    groups = logits.shape[1] // kernel.shape[1]  # 1: the difference of two classes
    factor, down = round((kernel.shape[0] // groups) ** 0.5), kernel.shape[-1] - 2
    if not _fits(logits, size, up=factor, down=down):
        # upsampling is linear: that of the difference alone tells which of two classes is larger
        if logits.shape[1] == 2 and not overlapping:
            logits = logits[:, 1:] - logits[:, :1]
        full = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
        return list(full.unbind(1)), 1
    padded = F.pad(logits, (1, 1, 1, 1), mode="replicate")
    fine = F.conv2d(padded, kernel.to(logits.dtype), stride=down, groups=groups)
    return [fine] if groups == 1 else list(fine.chunk(groups, dim=1)), factor


def _class_indices(scores: Sequence[Tensor], factor: int) -> Tensor:
    """The scores of `_upsampled_scores` -> uint8 [N, H, W]."""
    # The cast to uint8 comes last: NVIDIA's parser takes it at a graph's edge alone.
    if len(scores) == 1:
        return _full_size((scores[0] > 0).to(scores[0].dtype), factor).to(torch.uint8)
    best = argmax_per_phase(scores)
    return (best if best.ndim == 3 else F.pixel_shuffle(best, factor)[:, 0]).to(torch.uint8)


def _full_size(fine: Tensor, factor: int) -> Tensor:
    """[N, f * f, h, w], or the [N, H, W] of `_upsampled_scores`, -> [N, H, W]."""
    return fine if fine.ndim == 3 else pixel_shuffle_mask(fine, factor)


def upsampled_bytes(x: Tensor, kernel: Tensor, size: Sequence[int]) -> Tensor:
    """[N, 1, h, w] from 0 to 255 -> rounded uint8 [N, H, W], bilinear; `kernel` is upsampling_kernels(up, down)."""
    factor, down = round(kernel.shape[0] ** 0.5), kernel.shape[-1] - 2
    if not _fits(x, size, up=factor, down=down):
        full = F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
        return (full[:, 0] + 0.5).to(torch.uint8)
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    half = kernel.new_full((len(kernel),), 0.5, dtype=x.dtype)  # so that the cast rounds
    fine = F.conv2d(padded, kernel.to(x.dtype), half, stride=down)
    return pixel_shuffle_mask(fine, factor).to(torch.uint8)


def _fits(x: Tensor, size: Sequence[int], *, up: int, down: int) -> bool:
    """Whether a convolution of stride `down` with up * up phases brings the map to `size`."""
    return all(side % down == 0 and side * up == down * full for side, full in zip(x.shape[-2:], size, strict=True))


def pixel_shuffle_mask(fine: Tensor, factor: int) -> Tensor:
    """[N, f * f, h, w] -> [N, f * h, f * w], as pixel_shuffle does, but channels last, as INT8 layers leave them."""
    count, _, height, width = fine.shape
    rows = fine.permute(0, 2, 3, 1).reshape(count, height, width, factor, factor)
    return rows.transpose(2, 3).reshape(count, factor * height, factor * width)
