"""Pseudo-targets: what a network, or what follows it, says of images without labels. No gradient passes.

Shapes: N batch, C classes, T passes, *space 2 or 3 axes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from edgemt.losses import onehot, probabilities
from edgemt.perturb import Noise


@torch.no_grad()
def soft(network: nn.Module, image: Tensor) -> Tensor:
    """Class probabilities [N, C, *space]."""
    return probabilities(network(image).logits)


@torch.no_grad()
def passes(network: nn.Module, image: Tensor, noise: Noise, generator: torch.Generator | None, *, times: int) -> Tensor:
    """[T, N, C, *space]: `times` noisy looks in one forward; in train mode each row has its own dropout."""
    many = noise(image.repeat(times, *[1] * (image.ndim - 1)), generator)
    return soft(network, many).unflatten(0, (times, len(image)))


def hard(p: Tensor) -> Tensor:
    """The most likely class as probabilities [N, C, *space] of 0 and 1."""
    return onehot(p.detach().argmax(1), p.shape[1])


def sharpen(p: Tensor, *, temperature: float = 0.5) -> Tensor:
    """p^(1/T), renormalised over classes, without gradient."""
    return (p.detach().clamp_min(1e-8).log() / temperature).softmax(1)


def signed_distance(label: Tensor, *, classes: int) -> Tensor:
    """[N, C - 1, *space] in [-1, 1], 0 on the border, negative inside, each side divided by its own maximum.

    As DTC and SASSNet use it, one map a foreground class; a class that is absent or everywhere is 1 or -1
    throughout.
    """
    from scipy.ndimage import distance_transform_edt

    array = label.cpu().numpy()
    out = np.ones((len(array), classes - 1, *array.shape[1:]), np.float32)
    for n in range(len(array)):
        for c in range(1, classes):
            inside = array[n] == c
            if inside.all():
                out[n, c - 1] = -1.0
            elif inside.any():
                # The half voxel puts zero between the two sides, not on one of them.
                near, far = distance_transform_edt(inside) - 0.5, distance_transform_edt(~inside) - 0.5
                out[n, c - 1] = np.where(inside, -near / near.max(), far / far.max())
    return torch.from_numpy(out).to(label.device)


def largest_component(label: Tensor, *, classes: int) -> Tensor:
    """int64 [N, *space]: of each foreground class only its largest connected piece stays (faces connect)."""
    from scipy.ndimage import label as pieces

    array = label.cpu().numpy()
    out = np.zeros_like(array)
    for n in range(len(array)):
        for c in range(1, classes):
            found, count = pieces(array[n] == c)
            if count:
                sizes = np.bincount(found.ravel())
                sizes[0] = 0
                out[n][found == sizes.argmax()] = c
    return torch.from_numpy(out).to(label.device)
