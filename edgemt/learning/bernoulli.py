"""Overlapping classes in the losses: each class is a yes or no of its own, p_c = sigmoid(logit_c).

A map of the softmax losses has one value a voxel; here it has one a class and voxel, so that a weight may accept one
class of a voxel and reject another. Means run over classes too: the scale is that of a problem of two classes.

    cross-entropy  -[q log p + (1 - q) log(1 - p)]
    KL(q || p)     q log(q / p) + (1 - q) log((1 - q) / (1 - p))
    entropy        -[p log p + (1 - p) log(1 - p)],  at most ln 2

Multi-label segmentation of nested regions: Wang et al., 2017 (arXiv 1709.00382); sigmoid outputs with cross-entropy and
soft Dice a region: Isensee et al., nnU-Net for brain tumours, 2020 (arXiv 2011.00848).

Shapes: N batch, C classes without the background, *space 2 or 3 axes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_LARGEST_LOG = -1e-30  # of p: log(1 - p) stays finite


def class_bits(label: Tensor, classes: int) -> Tensor:
    """int64 [N, *space] bit masks -> float [N, C, *space] of 0 and 1 (`edgemt.io.class_regions`)."""
    shift = torch.arange(classes, device=label.device).view(1, -1, *[1] * (label.ndim - 1))
    return ((label.unsqueeze(1) >> shift) & 1).float()


def binary_cross_entropy(logits: Tensor, q: Tensor) -> Tensor:
    """Map [N, C, *space] of logits and targets of that shape, 0 to 1."""
    return F.binary_cross_entropy_with_logits(logits, q.to(logits.dtype), reduction="none")


def binary_kl(log_p: Tensor, q: Tensor) -> Tensor:
    """Map [N, C, *space], 0 or more; log_p are logarithms of probabilities, the target q probabilities."""
    log_not_p = torch.log(-torch.expm1(log_p.clamp_max(_LARGEST_LOG)))
    not_q = 1.0 - q
    own = torch.xlogy(q, q) + torch.xlogy(not_q, not_q)
    return own - q * log_p - not_q * log_not_p


def binary_entropy(p: Tensor) -> Tensor:
    """Map [N, C, *space], 0 to ln 2."""
    return torch.special.entr(p) + torch.special.entr(1.0 - p)


def both_sides(p: Tensor) -> Tensor:
    """[N, C, *space] -> [N, 2 C, *space]: the probability that each class is absent, then that it is present."""
    return torch.cat([1.0 - p, p], 1)
