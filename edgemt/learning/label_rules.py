"""Pixels without a label, and weights of the classes, in the losses that compare with labels.

A method calls `dice_ce(logits, batch.label)` and needs no code for them: the engine makes a step within
`label_rules(batch.rules)`, and the losses of `edgemt.learning.losses` follow the rules for integer labels. Losses
between predictions (consistency, distillation) are not changed.

Shapes: N batch, C classes, *space 2 or 3 axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from edgemt.contract import IGNORE, LabelRules

_CURRENT: ContextVar[LabelRules | None] = ContextVar("label_rules", default=None)


@contextmanager
def label_rules(rules: LabelRules | None) -> Iterator[None]:
    """Within this block the losses follow `rules`; None: every pixel counts once."""
    token = _CURRENT.set(rules)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current_rules() -> LabelRules | None:
    """The rules of the present step."""
    return _CURRENT.get()


def overlapping() -> bool:
    """Whether classes of the present step may overlap: labels are bit masks, probabilities are sigmoids."""
    rules = current_rules()
    return rules is not None and rules.overlapping


def labelled_pixels(label: Tensor) -> Tensor | None:
    """Bool [N, 1, *space] of an integer label: where it is not ignored; None where all of them count."""
    rules = current_rules()
    return (label != IGNORE).unsqueeze(1) if rules is not None and rules.ignore else None


def as_class(label: Tensor) -> Tensor:
    """The label with class 0 in place of the ignored pixels, which a weight of 0 leaves out."""
    rules = current_rules()
    return label.masked_fill(label == IGNORE, 0) if rules is not None and rules.ignore else label


def pixel_weight(label: Tensor, weight: Tensor | None) -> Tensor | None:
    """[N, 1, *space]: `weight` times the weight of each pixel's class, 0 for ignored ones; None: all count once.

    Overlapping classes: [N, C, *space] where classes have weights, which a pixel of several classes has all of.
    """
    rules = current_rules()
    if rules is None:
        return weight
    if rules.class_weights and rules.overlapping:
        own = label.new_tensor(rules.class_weights[1:], dtype=_float(weight)).view(1, -1, *[1] * (label.ndim - 1))
        weight = own if weight is None else own * weight
    elif rules.class_weights:
        own = label.new_tensor(rules.class_weights, dtype=_float(weight))[as_class(label)].unsqueeze(1)
        weight = own if weight is None else own * weight
    inside = labelled_pixels(label)
    return weight if inside is None else inside.to(_float(weight)) if weight is None else weight * inside


def known_pixels(label: Tensor, weight: Tensor | None) -> Tensor | None:
    """`weight` without ignored pixels, where classes overlap; else as it is: their one-hot target shows them."""
    inside = labelled_pixels(label) if overlapping() else None
    return weight if inside is None else inside.to(_float(weight)) if weight is None else weight * inside


def known_target(q: Tensor, weight: Tensor | None) -> Tensor | None:
    """`weight` without the pixels whose one-hot target [N, C, *space] is 0 for all classes: ignored ones.

    Of overlapping classes such a pixel is background; what is ignored there is in `weight` already.
    """
    rules = current_rules()
    if rules is None or not rules.ignore or rules.overlapping:
        return weight
    inside = (q.sum(1, keepdim=True) > 0).to(q.dtype)
    return inside if weight is None else weight * inside


def class_weights(like: Tensor, *, background: bool) -> Tensor | None:
    """[C], or [C - 1] without the background, for the mean over classes; None: each counts once."""
    rules = current_rules()
    if rules is None or not rules.class_weights:
        return None
    return like.new_tensor(rules.class_weights if background else rules.class_weights[1:])


def _float(weight: Tensor | None) -> torch.dtype:
    return torch.float32 if weight is None else weight.dtype
