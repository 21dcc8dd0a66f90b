"""Losses, pure. Maps keep the voxels ([N, 1, *space]); scalars are weighted means of maps.

Shapes: N batch, C classes, *space 2 or 3 axes. `p` `q` are probabilities [N, C, *space], `weight` [N, 1,
*space].
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Distance = Literal["mse", "kl", "ce", "dice", "dice_ce"]
SMOOTH = 1e-5


def onehot(label: Tensor, classes: int) -> Tensor:
    """int64 [N, *space] -> float [N, C, *space]."""
    return F.one_hot(label, classes).movedim(-1, 1).float()


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over classes, in float32 at least."""
    return logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-softmax over classes, in float32 at least."""
    return logits.log_softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))


def weighted_mean(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of a map under weights: what has no weight is not in the mean. Nothing kept gives 0, not NaN."""
    if weight is None:
        return values.mean()
    weight = weight.to(values.dtype).expand_as(values)
    return (weight * values).sum() / weight.sum().clamp_min(SMOOTH)


def dice(
    p: Tensor, q: Tensor, *, weight: Tensor | None = None, background: bool = False, per_image: bool = False
) -> Tensor:
    """1 - (2 sum w p q) / (sum w (p^2 + q^2)), a scalar in [0, 1]: mean over the classes that `q` contains.

    The sums run over the whole batch, as the V-Net papers have it (Milletari et al., 3DV 2016); with `per_image` over
    each image, and the mean over its classes too: a small object then counts as much as a large one, which is what
    Dice averaged over images measures. Foreground only, unless `background`. A class that the target lacks is left
    out: its Dice has no gradient; cross-entropy is what removes false positives there.
    """
    if not background:
        p, q = p[:, 1:], q[:, 1:]
    w = 1.0 if weight is None else weight
    axes = tuple(range(2, p.ndim)) if per_image else (0, *range(2, p.ndim))
    both = (w * p * q).sum(axes)
    size = (w * (p.square() + q.square())).sum(axes)
    held = ((w * q).sum(axes) > 0).to(p.dtype)
    loss = 1.0 - (2.0 * both + SMOOTH) / (size + SMOOTH)
    return (held * loss).sum() / held.sum().clamp_min(1.0)


def cross_entropy(logits: Tensor, target: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """Scalar; `target` is int64 [N, *space] or probabilities [N, C, *space]."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return weighted_mean(F.cross_entropy(logits, target, reduction="none").unsqueeze(1), weight)


def dice_ce(logits: Tensor, target: Tensor, *, weight: Tensor | None = None, per_image: bool = False) -> Tensor:
    """0.5 (cross-entropy + Dice), the supervised loss of the field; `target` as in `cross_entropy`."""
    soft = target if target.is_floating_point() else onehot(target, logits.shape[1])
    overlap_loss = dice(probabilities(logits), soft, weight=weight, per_image=per_image)
    return 0.5 * (cross_entropy(logits, target, weight=weight) + overlap_loss)


def mse(p: Tensor, q: Tensor) -> Tensor:
    """Map: squared difference, mean over classes."""
    return (p - q).square().mean(1, keepdim=True)


def kl(log_p: Tensor, q: Tensor) -> Tensor:
    """Map: KL(q || p), with p given as log-probabilities."""
    return F.kl_div(log_p, q, reduction="none").sum(1, keepdim=True)


def entropy(p: Tensor) -> Tensor:
    """Map: entropy in nats, from 0 to ln C."""
    return torch.special.entr(p).sum(1, keepdim=True)


def consistency_loss(
    kind: Distance, logits: Tensor, q: Tensor, *, weight: Tensor | None = None, per_image: bool = False
) -> Tensor:
    """Scalar: how far `logits` are from the target probabilities `q`, under a confidence weight."""
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

    The UnCL of DyCON, Assefa et al., CVPR 2025: the larger `beta`, the less a doubtful voxel must agree and the more
    its doubt costs.
    """
    doubt, other = entropy(p), entropy(q)
    gap = (p - q).square().sum(1, keepdim=True) / ((beta * doubt).exp() + (beta * other).exp())
    return gap + beta * (doubt + other)


def focal_contrast(features: Tensor, label: Tensor, *, temperature: float = 0.6, gamma: float = 2.0) -> Tensor:
    """How badly each place [N, V] tells its class from others: InfoNCE over cosines of `features` [N, F, V].

    Places of one image with one `label` int64 [N, V] attract, others repel. A pair already told apart counts little:
    its share s of the softmax weighs it by (1 - s)^focus. A place without a companion costs nothing.
    """
    unit = F.normalize(features.float(), dim=1)
    alike = torch.einsum("nfi,nfj->nij", unit, unit) / temperature
    same = label.unsqueeze(2) == label.unsqueeze(1)
    friends = same & ~torch.eye(label.shape[1], dtype=torch.bool, device=label.device)
    foes = alike.masked_fill(same, -1e4).logsumexp(2, keepdim=True)  # -inf has no gradient where nobody is a foe
    log_share = alike - torch.logaddexp(alike, foes)
    cost = -((1.0 - log_share.exp()).clamp_min(0.0) ** gamma) * log_share
    return (friends * cost).sum(2) / friends.sum(2).clamp_min(1)


# --- for labels that may be wrong, and for heads that should not all be taught alike ---


def noise_robust_dice(p: Tensor, q: Tensor, *, gamma: float = 1.5, weight: Tensor | None = None) -> Tensor:
    """Sum of |p - q|^power over sum of p + q, a class at a time, mean of all classes. Wang et al., TMI 2020.

    `power` 1 is as robust as the mean absolute error, 2 is like Dice. PyMIC's denominator; the background counts.
    """
    w = 1.0 if weight is None else weight
    axes = (0, *range(2, p.ndim))
    gap = (p - q).abs().clamp_min(1e-6) ** gamma  # the slope of |x|^1.5 at 0 is 0, but not by its formula
    return ((w * gap).sum(axes) / ((w * (p + q)).sum(axes) + SMOOTH)).mean()


def focal(logits: Tensor, target: Tensor, *, gamma: float = 2.0, weight: Tensor | None = None) -> Tensor:
    """Scalar: cross-entropy times (1 - probability of the truth)^focus. Lin et al., ICCV 2017."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    cost = F.cross_entropy(logits, target, reduction="none").unsqueeze(1)
    return weighted_mean((1.0 - (-cost).exp()).clamp_min(0.0) ** gamma * cost, weight)


def soft_iou_loss(p: Tensor, q: Tensor, *, weight: Tensor | None = None) -> Tensor:
    """1 - soft intersection over union of the foreground over the whole batch, mean of the classes that `q` holds."""
    p, q = p[:, 1:], q[:, 1:]
    w = 1.0 if weight is None else weight
    axes = (0, *range(2, p.ndim))
    both = (w * p * q).sum(axes)
    either = (w * (p + q - p * q)).sum(axes)
    held = ((w * q).sum(axes) > 0).to(p.dtype)
    return (held * (1.0 - (both + SMOOTH) / (either + SMOOTH))).sum() / held.sum().clamp_min(1.0)


def pixel_contrast(anchor: Tensor, key: Tensor, label: Tensor, *, temperature: float = 0.1) -> Tensor:
    """InfoNCE between two [n, F] of the same n places: keys with one's own `label` int64 [n] attract, others repel."""
    anchor, key = (F.normalize(x.float(), dim=1) for x in (anchor, key))
    log_share = (anchor @ key.T / temperature).float().log_softmax(1)
    same = (label[:, None] == label).to(log_share.dtype)
    return -((same * log_share).sum(1) / same.sum(1)).mean()


# --- distillation: student logits first, then the teacher's, both [N, C, *space] ---


def temperature_kl(student: Tensor, teacher: Tensor, *, temperature: float, weight: Tensor | None = None) -> Tensor:
    """T^2 KL(teacher || student) of softened classes, mean over voxels. Hinton et al., 2015."""
    gap = kl(log_probabilities(student / temperature), probabilities(teacher / temperature))
    return temperature**2 * weighted_mean(gap, weight)


def cwd_loss(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """CWD: T^2 KL between softmaxes over *space*, mean over images and channels. Shu et al., ICCV 2021."""
    log_p = (student.flatten(2).float() / temperature).log_softmax(2)
    log_q = (teacher.flatten(2).float() / temperature).log_softmax(2)
    return temperature**2 * F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(2).mean()


def dist_intra_class_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """DIST, intra part: 1 - Pearson correlation over voxels, mean over classes. Huang et al., NeurIPS 2022.

    The inter-class part is left out: with two classes it is a sign and teaches nothing.
    """
    p, q = (probabilities(x).movedim(1, 0).flatten(1) for x in (student, teacher))
    p, q = p - p.mean(1, keepdim=True), q - q.mean(1, keepdim=True)
    return 1.0 - F.cosine_similarity(p, q, dim=1).mean()


def boundary_band(q: Tensor, *, reach: int = 2) -> Tensor:
    """Map: 1 within `reach` voxels of where the most likely class of `q` changes, else 0."""
    pool = F.max_pool3d if q.ndim == 5 else F.max_pool2d
    held = onehot(q.argmax(1), q.shape[1])
    near, far = (pool(x, 2 * reach + 1, stride=1, padding=reach) for x in (held, 1.0 - held))
    return (near * far).amax(1, keepdim=True)
