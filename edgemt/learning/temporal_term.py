"""Temporal stability: a network must give the same mask on two frames of a pseudo-video, at no cost when it runs.

Shapes: N batch, C classes, *space 2 or 3 axes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgemt.learning.losses import foreground, probabilities
from edgemt.learning.perturbations.motion import PseudoMotion, inside, warp_by

_SMALLEST = 0.01  # share of the valid region that a class counts as, at least: noise on an empty frame weighs little


def jaccard_distance(p: Tensor, q: Tensor, valid: Tensor) -> Tensor:
    """Scalar: mean over images and foreground classes of 2 d / (s + d), d = sum v |p - q|, s = sum v (p + q).

    p and q are probabilities [N, C, *space], v the valid region, bool [N, 1, *space]. For masks of 0 and 1 it is
    1 - IoU, the flicker of `edgemt.metrics.flicker`; it is 0 only for p = q, also for soft p, and symmetric. The
    Jaccard metric loss of Wang, Ning and Blaschko, NeurIPS 2023 (arXiv 2302.05666). s + d is at least 1 % of the valid
    voxels.
    """
    axes = tuple(range(2, p.ndim))
    weight = valid.to(p.dtype)
    p, q = foreground(p), foreground(q)
    difference = ((p - q).abs() * weight).sum(axes)
    total = ((p + q) * weight).sum(axes) + difference
    return (2 * difference / total.maximum(_SMALLEST * weight.sum(axes)).clamp_min(1e-6)).mean()


def temporal_loss(
    network: nn.Module, image: Tensor, logits: Tensor, *, motion: PseudoMotion, generator: torch.Generator | None
) -> Tensor:
    """Scalar: `jaccard_distance` of W p(x) and p(c(W x)), where the warp W samples inside of x.

    `logits` [N, C, *space] are those of `image` x [N, K, *space], which a method has anyway; one more forward pass is
    made, of the second frame: x warped by a random W, with other exposure, blur and noise (c). The flow between the two
    frames is W itself, so nothing has to be estimated.

    No side is detached: the distance is symmetric, and its gradient moves both predictions to each other. Detached,
    the second frame would only learn what the first one gets wrong. A constant prediction would be a minimum too; the
    labelled rows and the teacher's soft labels exclude it, so the term is only used beside them.

    Temporal consistency for efficient video segmentation: Liu et al., ECCV 2020 (arXiv 2002.11433), there between real
    frames with estimated flow.
    """
    grid = motion.sample(image, generator)
    second = motion.change(warp_by(grid, image), generator)
    moved = warp_by(grid, probabilities(logits))
    return jaccard_distance(moved, probabilities(network(second).logits), inside(grid, image.shape[2:]))
