"""Pseudo-targets: what a network, or what follows it, says of images without labels. No gradient passes.

Shapes: N batch, C classes, T passes, *space 2 or 3 axes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from edgemt.contract import Output
from edgemt.learning.losses import (
    onehot,
    probabilities,
)
from edgemt.learning.perturbations import GaussianNoise


@torch.no_grad()
def predict_probabilities(network: nn.Module, image: Tensor) -> Tensor:
    """Class probabilities [N, C, *space]."""
    return probabilities(network(image).logits)


@torch.no_grad()
def mc_probabilities(
    network: nn.Module, image: Tensor, noise: GaussianNoise, generator: torch.Generator | None, *, num_passes: int
) -> Tensor:
    """[T, N, C, *space]: `times` noisy looks in one forward; in train mode each row has its own dropout."""
    many = noise(image.repeat(num_passes, *[1] * (image.ndim - 1)), generator)
    return predict_probabilities(network, many).unflatten(0, (num_passes, len(image)))


@torch.no_grad()
def mc_outputs(
    network: nn.Module, image: Tensor, noise: GaussianNoise, generator: torch.Generator | None, *, num_passes: int
) -> Output:
    """As `mc_probabilities`, but all that the network says, each part [T, N, ...]; logits are logits."""
    said = network(noise(image.repeat(num_passes, *[1] * (image.ndim - 1)), generator))
    shape = (num_passes, len(image))
    features, sdf = (None if x is None else x.unflatten(0, shape) for x in (said.features, said.sdf))
    scales, decoders = (tuple(x.unflatten(0, shape) for x in many) for many in (said.scales, said.decoders))
    return Output(said.logits.unflatten(0, shape), features, sdf, scales, decoders)


def argmax_one_hot(p: Tensor) -> Tensor:
    """The most likely class as probabilities [N, C, *space] of 0 and 1."""
    return onehot(p.detach().argmax(1), p.shape[1])


def sharpen(p: Tensor, *, temperature: float = 0.5) -> Tensor:
    """p^(1/T), renormalised over classes, without gradient."""
    return (p.detach().clamp_min(1e-8).log() / temperature).softmax(1)


def entropy_weighted_mean(looks: Tensor) -> Tensor:
    """[T, N, C, *space] -> [N, C, *space]: the mean of what several say, each voxel weighted by e^-entropy."""
    doubt = torch.special.entr(looks).sum(2, keepdim=True)
    return ((-doubt).softmax(0) * looks).sum(0).detach()


def signed_distance(label: Tensor, *, classes: int) -> Tensor:
    """[N, C - 1, *space] in [-1, 1], 0 on the border, negative inside, each side divided by its own maximum.

    As DTC and SASSNet use it, one map a foreground class; a class that is absent or everywhere is 1 or -1
    throughout.
    """
    if label.is_cuda:
        return signed_distance_on_device(label, classes=classes)
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


@torch.no_grad()
def signed_distance_on_device(label: Tensor, *, classes: int) -> Tensor:
    """As `signed_distance`, where the label lies: a GPU is not kept waiting for a CPU."""
    inside = onehot(label, classes)[:, 1:] > 0
    axes = tuple(range(2, inside.ndim))
    near, far = (squared_distance(hit).sqrt_().sub_(0.5) for hit in (~inside, inside))
    near, far = near / near.amax(axes, keepdim=True), far / far.amax(axes, keepdim=True)
    return torch.where(inside, -near, far)


def squared_distance(hit: Tensor, *, voxels: int = 2**25) -> Tensor:
    """float32 [N, C, *space]: squared distance to the nearest place where `hit` is true, exact, in voxels.

    One axis after another, each the lower envelope of parabolas by brute force, as many lines at a time as keep
    `voxels` numbers in memory. Where nothing is hit, one large number stands everywhere.
    """
    far = torch.where(hit, 0.0, 2.0**24)  # more than any squared distance, and whole numbers up to it are exact
    for axis in range(2, hit.ndim):
        lines = far.movedim(axis, -1)
        place = torch.arange(lines.shape[-1], device=hit.device, dtype=far.dtype)
        steps = (place[:, None] - place).square()
        flat = lines.reshape(-1, 1, lines.shape[-1]).split(max(1, voxels // steps.numel()))
        least = torch.cat([(some + steps).amin(-1) for some in flat])
        far = least.clamp_max(2.0**24).view(lines.shape).movedim(-1, axis)
    return far


def largest_component(label: Tensor, *, classes: int) -> Tensor:
    """int64 [N, *space]: of each foreground class only its largest connected piece stays (a corner connects)."""
    from scipy.ndimage import generate_binary_structure
    from scipy.ndimage import label as pieces

    touching = generate_binary_structure(label.ndim - 1, label.ndim - 1)
    array = label.cpu().numpy()
    out = np.zeros_like(array)
    for n in range(len(array)):
        for c in range(1, classes):
            found, count = pieces(array[n] == c, structure=touching)
            if count:
                sizes = np.bincount(found.ravel())
                sizes[0] = 0
                out[n][found == sizes.argmax()] = c
    return torch.from_numpy(out).to(label.device)


@torch.no_grad()
def label_errors(label: Tensor, p: Tensor) -> Tensor:
    """bool [N, *space]: labels that confident learning calls wrong, given a network's `p` [N, C, *space].

    A voxel counts for a class when its probability reaches the mean of that class over the voxels labelled so, and
    for the likeliest of several; one that counts for another class than its label is an error: the off-diagonal of
    the confident joint. Northcutt et al., JAIR 2021.
    """
    axes, given = (0, *range(2, p.ndim)), onehot(label, p.shape[1]).to(p.dtype)
    count = given.sum(axes, keepdim=True)
    bar = (given * p).sum(axes, keepdim=True) / count.clamp_min(1.0)
    reached = (p >= bar) & (count > 0)  # a class that nothing is labelled has no bar to reach
    likeliest = p.masked_fill(~reached, -1.0).argmax(1)
    return reached.any(1) & (likeliest != label)


def feature_mean_and_confidence(seen: Output) -> tuple[Tensor, Tensor, Tensor]:
    """Several looks -> mean features [N, F, *space], e^-variance of each channel [N, F], its mean square [N, F]."""
    assert seen.features is not None, "the method names the head"
    every = seen.features.to(torch.promote_types(seen.features.dtype, torch.float32))
    mean = every.mean(0)
    size = mean.square().flatten(2).mean(2).clamp_min(1e-6)
    return mean, torch.exp(-every.var(0, correction=0).flatten(2).mean(2) / size), size
