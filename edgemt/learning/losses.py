"""Losses of segmentation, consistency, contrast and distillation, without state.

A loss returns a map [N, 1, *space], one value a voxel, or a scalar; its docstring states which.
Shapes: N batch, C classes, *space 2 or 3 axes. `p` and `q` are probabilities [N, C, *space], `weight` [N, 1, *space].

Where classes overlap (`label_rules`), probabilities are sigmoids, C is without the background, and maps and weights are
[N, C, *space]: `edgemt.learning.bernoulli`. Losses whose docstring does not name them are of exclusive classes alone.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemt.learning.bernoulli import binary_cross_entropy, binary_entropy, binary_kl, class_bits
from edgemt.learning.label_rules import (
    as_class,
    class_weights,
    known_pixels,
    known_target,
    labelled_pixels,
    overlapping,
    pixel_weight,
)

Distance = Literal["mse", "kl", "ce", "dice", "dice_ce"]
SMOOTH = 1e-5


def onehot(label: Tensor, classes: int) -> Tensor:
    """int64 [N, *space] -> float [N, C, *space]; 0 for all classes where a label is ignored (`label_rules`).

    Labels of overlapping classes are bit masks, and a pixel may be 1 in several classes.
    """
    if overlapping():
        return class_bits(as_class(label), classes)
    hot = F.one_hot(as_class(label), classes).movedim(-1, 1).float()
    inside = labelled_pixels(label)
    return hot if inside is None else hot * inside


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over classes, of overlapping classes the sigmoid of each, in float32 at least."""
    if overlapping():
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()
    return logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-softmax over classes, of overlapping classes the log-sigmoid of each, in float32 at least."""
    if overlapping():
        return F.logsigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32)))
    return logits.log_softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))


def logits_of(p: Tensor, *, smallest: float) -> Tensor:
    """Logits whose `probabilities` are `p`, clamped to `smallest` at least (sigmoids also to 1 - `smallest`)."""
    return p.logit(smallest) if overlapping() else p.clamp_min(smallest).log()


def hard_classes(p: Tensor) -> Tensor:
    """[N, C, *space] -> 0 and 1: the most likely class of a voxel, or each overlapping class of more than 0.5."""
    return (p > 0.5).float() if overlapping() else onehot(p.argmax(1), p.shape[1])


def foreground(p: Tensor) -> Tensor:
    """The classes without the background, [N, C - 1, *space]; overlapping classes have none."""
    return p if overlapping() else p[:, 1:]


def weighted_mean(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Scalar: sum(w v) / sum(w), the mean of a map under weights; 0 if all weights are 0."""
    if weight is None:
        return values.mean()
    weight = weight.to(values.dtype).expand_as(values)
    return (weight * values).sum() / weight.sum().clamp_min(SMOOTH)


def dice(
    p: Tensor,
    q: Tensor,
    *,
    weight: Tensor | None = None,
    background: bool = False,
    per_image: bool = False,
    class_weight: Tensor | None = None,
) -> Tensor:
    """1 - (2 sum w p q) / (sum w (p^2 + q^2)), a scalar in [0, 1]: mean over the classes that `q` contains.

    The sums run over the whole batch, as the V-Net papers have it (Milletari et al., 3DV 2016); with `per_image` over
    each image, and the mean over its classes too: a small object then counts as much as a large one, which is what
    Dice averaged over images measures. Foreground only, unless `background`. A class that the target lacks is left
    out: its Dice has no gradient; cross-entropy removes false positives there.
    `class_weight` [C], or [C - 1] without the background, weights the mean over classes. Overlapping classes: all C.
    """
    weight = known_target(q, weight)
    if not background:
        p, q = foreground(p), foreground(q)
    w = 1.0 if weight is None else weight
    axes = tuple(range(2, p.ndim)) if per_image else (0, *range(2, p.ndim))
    intersection = (w * p * q).sum(axes)
    cardinality = (w * (p.square() + q.square())).sum(axes)
    present = ((w * q).sum(axes) > 0).to(p.dtype)
    loss = 1.0 - (2.0 * intersection + SMOOTH) / (cardinality + SMOOTH)
    if class_weight is not None:
        present = present * class_weight
        return (present * loss).sum() / present.sum().clamp_min(SMOOTH)
    return (present * loss).sum() / present.sum().clamp_min(1.0)


def cross_entropy(logits: Tensor, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Scalar: weighted mean of -log softmax(logits)[target], 0 or more; of overlapping classes binary, of each class.

    `target` is int64 [N, *space], which follows `label_rules`, or probabilities [N, C, *space].
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if overlapping():
        if not target.is_floating_point():
            weight, target = pixel_weight(target, weight), onehot(target, logits.shape[1])
        return weighted_mean(binary_cross_entropy(logits, target), weight)
    if not target.is_floating_point():
        weight, target = pixel_weight(target, weight), as_class(target)
    return weighted_mean(F.cross_entropy(logits, target, reduction="none").unsqueeze(1), weight)


def dice_ce(logits: Tensor, target: Tensor, *, weight: Tensor | None = None, per_image: bool = False) -> Tensor:
    """Scalar: 0.5 (cross-entropy + Dice), the usual supervised loss; `target` as in `cross_entropy`."""
    labels = not target.is_floating_point()
    q = onehot(target, logits.shape[1]) if labels else target
    of_classes = class_weights(q, background=False) if labels else None
    known = known_pixels(target, weight) if labels else weight
    dice_loss = dice(probabilities(logits), q, weight=known, per_image=per_image, class_weight=of_classes)
    return 0.5 * (cross_entropy(logits, target, weight=weight) + dice_loss)


def mse(p: Tensor, q: Tensor) -> Tensor:
    """Map: mean over classes of (p - q)^2, from 0 to 2 / C; of overlapping classes (p - q)^2 of each."""
    if overlapping():
        return (p - q).square()
    return (p - q).square().mean(1, keepdim=True)


def kl(log_p: Tensor, q: Tensor) -> Tensor:
    """Map: KL(q || p) = sum_c q log(q / p) in nats, 0 or more; p is given as log-probabilities.

    Of overlapping classes the divergence of each (`binary_kl`).
    """
    if overlapping():
        return binary_kl(log_p, q)
    return F.kl_div(log_p, q, reduction="none").sum(1, keepdim=True)


def entropy(p: Tensor) -> Tensor:
    """Map: entropy H(p) = -sum_c p log p in nats, from 0 to ln C; of overlapping classes that of each, up to ln 2."""
    if overlapping():
        return binary_entropy(p)
    return torch.special.entr(p).sum(1, keepdim=True)


def largest_entropy(classes: int) -> float:
    """The most that `entropy` of `classes` classes can be."""
    return math.log(2 if overlapping() else classes)


def consistency_loss(
    kind: Distance, logits: Tensor, q: Tensor, *, weight: Tensor | None = None, per_image: bool = False
) -> Tensor:
    """Scalar: distance of softmax(logits) from the target probabilities `q`, under a confidence weight.

    `kind` is one of the losses of this module: "mse", "kl", "ce", "dice", "dice_ce". Raises ValueError for another one.
    """
    if kind == "mse":
        return weighted_mean(mse(probabilities(logits), q), weight)
    if kind == "kl":
        return weighted_mean(kl(log_probabilities(logits), q), weight)
    if kind == "ce":
        return cross_entropy(logits, q, weight=weight)
    if kind == "dice":
        return dice(probabilities(logits), q, weight=weight, per_image=per_image)
    if kind == "dice_ce":
        return dice_ce(logits, q, weight=weight, per_image=per_image)
    raise ValueError(f"distance: {kind!r} is not known; use one of {', '.join(get_args(Distance))}")


def uncertain_mse(p: Tensor, q: Tensor, *, beta: float) -> Tensor:
    """Map: sum over classes of (p - q)^2 / (e^(beta H(p)) + e^(beta H(q))), plus beta (H(p) + H(q)).

    The UnCL of DyCON, Assefa et al., CVPR 2025: with a larger `beta`, disagreement of uncertain voxels counts less and
    their entropy counts more.
    """
    uncertainty_p, uncertainty_q = entropy(p), entropy(q)
    loss = (p - q).square().sum(1, keepdim=True) / ((beta * uncertainty_p).exp() + (beta * uncertainty_q).exp())
    return loss + beta * (uncertainty_p + uncertainty_q)


def focal_contrast(features: Tensor, label: Tensor, *, temperature: float = 0.6, gamma: float = 2.0) -> Tensor:
    """[N, V]: focal InfoNCE of each place over cosines of `features` [N, F, V], 0 or more.

    For places i, j of one image with equal `label` int64 [N, V] (positives) and s_ij = cos(f_i, f_j) / T:
    P_ij = e^s_ij / (e^s_ij + sum over negatives k of e^s_ik), loss_i = mean_j -(1 - P_ij)^gamma log P_ij; 0 for a place
    without positives. The FeCL of DyCON, Assefa et al., CVPR 2025.
    """
    unit = F.normalize(features.float(), dim=1)
    similarity = torch.einsum("nfi,nfj->nij", unit, unit) / temperature
    same = label.unsqueeze(2) == label.unsqueeze(1)
    positives = same & ~torch.eye(label.shape[1], dtype=torch.bool, device=label.device)
    # -1e4, as -inf has no gradient if a place has no negatives.
    negatives = similarity.masked_fill(same, -1e4).logsumexp(2, keepdim=True)
    log_p = similarity - torch.logaddexp(similarity, negatives)
    loss = -((1.0 - log_p.exp()).clamp_min(0.0) ** gamma) * log_p
    return (positives * loss).sum(2) / positives.sum(2).clamp_min(1)


# --- noisy labels, and losses that differ between heads ---


def noise_robust_dice(p: Tensor, q: Tensor, *, gamma: float = 1.5, weight: Tensor | None = None) -> Tensor:
    """Scalar: mean over classes of sum w |p - q|^gamma / sum w (p + q), from 0 to 1. COPLE-Net, Wang et al., TMI 2020.

    `gamma` 1 is as robust as the mean absolute error, 2 is like Dice. PyMIC's denominator; the background is a class.
    """
    weight = known_target(q, weight)
    w = 1.0 if weight is None else weight
    axes = (0, *range(2, p.ndim))
    error = (p - q).abs().clamp_min(1e-6) ** gamma  # autograd's gradient of |x|^1.5 at 0 is not finite
    return ((w * error).sum(axes) / ((w * (p + q)).sum(axes) + SMOOTH)).mean()


def focal(logits: Tensor, target: Tensor, *, gamma: float = 2.0, weight: Tensor | None = None) -> Tensor:
    """Scalar: weighted mean of -(1 - p_t)^gamma log p_t, p_t the probability of the target. Lin et al., ICCV 2017."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if not target.is_floating_point():
        weight, target = pixel_weight(target, weight), as_class(target)
    loss = F.cross_entropy(logits, target, reduction="none").unsqueeze(1)
    return weighted_mean((1.0 - (-loss).exp()).clamp_min(0.0) ** gamma * loss, weight)


def soft_iou_loss(p: Tensor, q: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """1 - sum w p q / sum w (p + q - p q), a scalar in [0, 1]: soft intersection over union over the whole batch.

    Mean over the foreground classes that `q` contains.
    """
    weight = known_target(q, weight)
    p, q = p[:, 1:], q[:, 1:]
    w = 1.0 if weight is None else weight
    axes = (0, *range(2, p.ndim))
    intersection = (w * p * q).sum(axes)
    union = (w * (p + q - p * q)).sum(axes)
    present = ((w * q).sum(axes) > 0).to(p.dtype)
    return (present * (1.0 - (intersection + SMOOTH) / (union + SMOOTH))).sum() / present.sum().clamp_min(1.0)


def pixel_contrast(anchor: Tensor, key: Tensor, label: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Scalar: InfoNCE between two [n, F] of the same n places, 0 or more.

    mean_i mean over j with label_j = label_i of -log softmax_j(cos(anchor_i, key_j) / T); label int64 [n].
    """
    anchor, key = (F.normalize(x.float(), dim=1) for x in (anchor, key))
    log_p = (anchor @ key.T / temperature).float().log_softmax(1)
    same = (label[:, None] == label).to(log_p.dtype)
    return -((same * log_p).sum(1) / same.sum(1)).mean()


# --- distillation: student logits first, then the teacher's, both [N, C, *space] ---


def temperature_kl(student: Tensor, teacher: Tensor, *, temperature: float, weight: Tensor | None = None) -> Tensor:
    """Scalar: T^2 KL(softmax(teacher / T) || softmax(student / T)), weighted mean over voxels. Hinton et al., 2015."""
    divergence = kl(log_probabilities(student / temperature), probabilities(teacher / temperature))
    return temperature**2 * weighted_mean(divergence, weight)


def cwd_loss(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """CWD, scalar: T^2 KL(teacher || student) of softmaxes over *space*, mean over images and channels.

    Channel-wise distillation, Shu et al., ICCV 2021.
    """
    log_p = (student.flatten(2).float() / temperature).log_softmax(2)
    log_q = (teacher.flatten(2).float() / temperature).log_softmax(2)
    return temperature**2 * F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(2).mean()


def dist_intra_class_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """DIST, intra-class part: mean over classes of 1 - Pearson correlation over voxels, from 0 to 2.

    Huang et al., NeurIPS 2022. The inter-class part is left out: with two classes it is a sign without gradient.
    """
    p, q = (probabilities(x).movedim(1, 0).flatten(1) for x in (student, teacher))
    p, q = p - p.mean(1, keepdim=True), q - q.mean(1, keepdim=True)
    return 1.0 - F.cosine_similarity(p, q, dim=1).mean()


def boundary_band(q: Tensor, *, radius: int = 2) -> Tensor:
    """Map: 1 within `radius` voxels of a change of the most likely class of `q`, or of an overlapping class, else 0."""
    pool = F.max_pool3d if q.ndim == 5 else F.max_pool2d
    label = hard_classes(q)
    near_inside, near_outside = (pool(x, 2 * radius + 1, stride=1, padding=radius) for x in (label, 1.0 - label))
    near = near_inside * near_outside
    return near if overlapping() else near.amax(1, keepdim=True)
