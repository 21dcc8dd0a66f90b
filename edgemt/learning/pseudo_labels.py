"""Pseudo-labels: predictions without gradient, and targets computed from them.

Shapes: N batch, C classes, T passes, F features, *space 2 or 3 axes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from edgemt.contract import LabelRules, Output
from edgemt.learning.label_rules import label_rules
from edgemt.learning.losses import hard_classes, onehot, probabilities
from edgemt.learning.perturbations.intensity import GaussianNoise


@torch.no_grad()
def predict_probabilities(network: nn.Module, image: Tensor) -> Tensor:
    """Class probabilities [N, C, *space] of a network, without gradient."""
    return probabilities(network(image).logits)


def probabilities_of(network: nn.Module, image: Tensor) -> Tensor:
    """Class probabilities [N, C, *space] of a network by its own classes: in an evaluation, where no step has rules."""
    with label_rules(LabelRules(overlapping=bool(getattr(network, "overlapping", False)))):
        return probabilities(network(image).logits)


@torch.no_grad()
def mc_probabilities(
    network: nn.Module, image: Tensor, noise: GaussianNoise, generator: torch.Generator | None, *, num_passes: int
) -> Tensor:
    """Probabilities [T, N, C, *space] of T = `num_passes` noisy copies of each image, in one forward pass.

    In train mode each row has its own dropout (Monte-Carlo dropout).
    """
    copies = noise(image.repeat(num_passes, *[1] * (image.ndim - 1)), generator)
    return predict_probabilities(network, copies).unflatten(0, (num_passes, len(image)))


@torch.no_grad()
def mc_outputs(
    network: nn.Module, image: Tensor, noise: GaussianNoise, generator: torch.Generator | None, *, num_passes: int
) -> Output:
    """As `mc_probabilities`, for all outputs of the network, each [T, N, ...]; logits stay logits."""
    out = network(noise(image.repeat(num_passes, *[1] * (image.ndim - 1)), generator))
    shape = (num_passes, len(image))
    features, sdf = (None if x is None else x.unflatten(0, shape) for x in (out.features, out.sdf))
    scales, decoders = (tuple(x.unflatten(0, shape) for x in many) for many in (out.scales, out.decoders))
    return Output(out.logits.unflatten(0, shape), features, sdf, scales, decoders)


def argmax_one_hot(p: Tensor) -> Tensor:
    """One-hot map [N, C, *space] of the most likely class, or of each overlapping class, without gradient."""
    return hard_classes(p.detach())


def sharpen(p: Tensor, *, temperature: float = 0.5) -> Tensor:
    """p^(1/T) / sum over classes of p^(1/T), without gradient."""
    return (p.detach().clamp_min(1e-8).log() / temperature).softmax(1)


def entropy_weighted_mean(probs: Tensor) -> Tensor:
    """[T, N, C, *space] -> [N, C, *space]: sum_t w_t p_t, w the softmax over t of -H(p_t), voxel by voxel."""
    uncertainty = torch.special.entr(probs).sum(2, keepdim=True)
    return ((-uncertainty).softmax(0) * probs).sum(0).detach()


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
    """As `signed_distance`, computed on the label's own device, so that a GPU does not wait for the CPU."""
    inside = onehot(label, classes)[:, 1:] > 0
    axes = tuple(range(2, inside.ndim))
    near, far = (squared_distance(mask).sqrt_().sub_(0.5) for mask in (~inside, inside))
    near, far = near / near.amax(axes, keepdim=True), far / far.amax(axes, keepdim=True)
    return torch.where(inside, -near, far)


def squared_distance(mask: Tensor, *, voxels: int = 2**25) -> Tensor:
    """float32 [N, C, *space]: exact squared distance, in voxels, to the nearest place where `mask` is true.

    One axis after another, each the lower envelope of parabolas by brute force, with at most `voxels` numbers in memory
    at a time. If the mask is false everywhere, the distance is 2^24.
    """
    far = torch.where(mask, 0.0, 2.0**24)  # more than any squared distance, and whole numbers up to it are exact
    for axis in range(2, mask.ndim):
        lines = far.movedim(axis, -1)
        position = torch.arange(lines.shape[-1], device=mask.device, dtype=far.dtype)
        steps = (position[:, None] - position).square()
        flat = lines.reshape(-1, 1, lines.shape[-1]).split(max(1, voxels // steps.numel()))
        least = torch.cat([(chunk + steps).amin(-1) for chunk in flat])
        far = least.clamp_max(2.0**24).view(lines.shape).movedim(-1, axis)
    return far


def largest_component(label: Tensor, *, classes: int) -> Tensor:
    """int64 [N, *space]: label with only the largest connected component of each foreground class.

    Voxels that share a face, an edge or a corner are connected.
    """
    from scipy.ndimage import generate_binary_structure
    from scipy.ndimage import label as connected_components

    touching = generate_binary_structure(label.ndim - 1, label.ndim - 1)
    array = label.cpu().numpy()
    out = np.zeros_like(array)
    for n in range(len(array)):
        for c in range(1, classes):
            components, count = connected_components(array[n] == c, structure=touching)
            if count:
                sizes = np.bincount(components.ravel())
                sizes[0] = 0
                out[n][components == sizes.argmax()] = c
    return torch.from_numpy(out).to(label.device)


@torch.no_grad()
def label_errors(label: Tensor, p: Tensor) -> Tensor:
    """Label errors by confident learning, bool [N, *space], given a network's `p` [N, C, *space].

    The threshold of class c is the mean of p_c over the voxels labelled c. A voxel is assigned to the class of highest
    probability among those whose threshold it reaches; it is an error if that is another class than its label: the
    off-diagonal of the confident joint. Northcutt et al., JAIR 2021.
    """
    axes, target = (0, *range(2, p.ndim)), onehot(label, p.shape[1]).to(p.dtype)
    count = target.sum(axes, keepdim=True)
    threshold = (target * p).sum(axes, keepdim=True) / count.clamp_min(1.0)
    reached = (p >= threshold) & (count > 0)  # a class without labelled voxels has no threshold
    likeliest = p.masked_fill(~reached, -1.0).argmax(1)
    return reached.any(1) & (likeliest != label)


def feature_mean_and_confidence(out: Output) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, confidence and scale of the features of T passes (`mc_outputs`).

    Returns the mean features [N, F, *space], the mean square m of each channel [N, F], and between them
    e^(-variance / m) of each channel [N, F], the variance over passes.
    """
    assert out.features is not None, "the method names the head"
    features = out.features.to(torch.promote_types(out.features.dtype, torch.float32))
    mean = features.mean(0)
    mean_square = mean.square().flatten(2).mean(2).clamp_min(1e-6)
    confidence = torch.exp(-features.var(0, correction=0).flatten(2).mean(2) / mean_square)
    return mean, confidence, mean_square
