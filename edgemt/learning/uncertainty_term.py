"""The term that trains a student's uncertainty head: the probability that the class of a pixel is wrong.

Shapes: N batch, L labelled, U unlabelled, C classes, *space 2 or 3 axes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from edgemt.contract import Batch, Output
from edgemt.learning.label_rules import labelled_pixels, overlapping
from edgemt.learning.losses import weighted_mean
from edgemt.learning.perturbations.mixing import cutmix


def uncertainty_loss(uncertainty: Tensor, logits: Tensor, label: Tensor, deviation: Tensor) -> Tensor:
    """Scalar: binary cross-entropy of sigmoid(u) with t, mean over all pixels.

    t = [argmax of the student's logits != label] on labelled rows, of overlapping classes 1 where any of them is wrong;
    t = sqrt(v), the standard deviation between the teachers of the ensemble, on unlabelled ones. uncertainty
    [N, 1, *space] logits u; logits [N, C, *space]; label int64 [L, *space], bits of overlapping classes; deviation
    [U, *space] in [0, 1], N = L + U.

    Learning the errors of the own prediction with stopped gradients: Corbiere et al., NeurIPS 2019 (arXiv 1910.04851).
    The standard deviation of a deep ensemble as the target of a second head of one student: Landgraf et al., 2023
    (DUDES, arXiv 2303.09843), there with a regression on logarithms. Cross-entropy with a target in [0, 1] is smallest
    at the mean of the target, as a squared error is, but does not saturate near 0, where most pixels are, and both
    kinds of row share one scale.
    """
    wrong = _decided(logits[: len(label)]) != label
    target = torch.cat([wrong.to(deviation.dtype), deviation.clamp(0, 1)])
    inside = labelled_pixels(label)
    if inside is None:
        return F.binary_cross_entropy_with_logits(uncertainty[:, 0].float(), target.float())
    weight = torch.cat([inside[:, 0].float(), torch.ones_like(target[len(label) :]).float()])
    loss = F.binary_cross_entropy_with_logits(uncertainty[:, 0].float(), target.float(), reduction="none")
    return weighted_mean(loss, weight)


def _decided(logits: Tensor) -> Tensor:
    """[L, C, *space] -> int64 [L, *space]: the likeliest class, or the bits of overlapping classes."""
    if not overlapping():
        return logits.argmax(1)
    weight = 2 ** torch.arange(logits.shape[1], device=logits.device)
    return ((logits > 0) * weight.view(1, -1, *[1] * (logits.ndim - 2))).sum(1)


def batch_uncertainty_loss(out: Output, batch: Batch, box: Tensor | None) -> Tensor:
    """`uncertainty_loss` of a student's output for a batch whose unlabelled images were mixed by `box` (CutMix).

    Raises ValueError for a network without the head and for a batch without the variance between teachers.
    """
    if out.uncertainty is None:
        raise ValueError("uncertainty: the student has no such head; build it with heads=('uncertainty',)")
    if batch.deviation is None:
        raise ValueError("uncertainty: needs the variance between the teachers; fill a bank of several teachers first")
    deviation = batch.deviation[batch.count :]
    mixed = deviation if box is None else cutmix(box, deviation[:, None])[:, 0]
    return uncertainty_loss(out.uncertainty, out.logits.detach(), batch.label, mixed)


def check_teacher_source(teacher_source: str, *, uncertainty: float) -> None:
    """Raises ValueError for an unknown source, a negative weight, and a weight without a bank of soft labels."""
    if teacher_source not in ("network", "bank"):
        raise ValueError(f"teacher_source: {teacher_source!r} is not known; use 'network' or 'bank'")
    if uncertainty < 0:
        raise ValueError(f"uncertainty: {uncertainty} is below 0; 1 is usual, 0 leaves the head out")
    if uncertainty and teacher_source != "bank":
        raise ValueError(
            "uncertainty: needs the variance that a bank of several teachers holds; set teacher_source to 'bank'"
        )
