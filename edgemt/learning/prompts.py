"""Prompts for a promptable network: boxes, points and a coarse mask, computed from a prediction, never from a label.

Only `corrupt_label` takes a label: it makes imperfect predictions from labels, to train a small promptable network on.
Coordinates are fractions of the frame, (0, 0) its top left corner, x before y.

Shapes: N images (or slices), C classes, O = C - 1 objects, P points of an object, H W a frame.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemt.learning.losses import onehot

LOGIT_RANGE = 8.0  # logits of a mask prompt are clamped to this range
POINTS = 2  # one on the object, one on the background


class Prompts(NamedTuple):
    """Prompts of every object. A kind of prompt that is None is left out."""

    boxes: Tensor | None  # [N, O, 4] x0 y0 x1 y1
    points: Tensor | None  # [N, O, P, 2] x y
    point_labels: Tensor | None  # int64 [N, O, P] 1 object, 0 background, -1 no point
    masks: Tensor | None  # [N, O, H, W] logits

    def without(self, *kinds: str) -> Prompts:
        """The same prompts without some kinds: "boxes", "points", "masks"."""
        removed = {*kinds, *(("point_labels",) if "points" in kinds else ())}
        return self._replace(**dict.fromkeys(removed))


def prompts_from_prediction(
    p: Tensor, *, trim: float = 0.02, margin: float = 0.05, least: int = 4
) -> tuple[Prompts, Tensor]:
    """Prompts from class probabilities [N, C, H, W], and `class_present`, bool [N, O].

    A class is present if it is the most likely one on at least `least` pixels. Its box leaves out the fraction `trim`
    of the probability mass at each side, so that stray pixels do not enlarge it, and is then widened by `margin` of its
    own side. Points: the place of highest probability of the class, and the place in its box of lowest probability, if
    that is below 0.25.
    """
    region = onehot(p.argmax(1), p.shape[1])[:, 1:].to(p.dtype)
    valid = p.sum(1, keepdim=True) > 0.5  # probabilities are 0 in the corners of a view that was rotated back
    mass, object_probs = region * p[:, 1:] * valid, p[:, 1:]
    class_present = (region * valid).flatten(2).sum(2) >= least
    boxes = _boxes(mass, trim=trim, margin=margin)
    points, point_labels = _points(mass, object_probs, boxes)
    point_labels = torch.where(class_present[..., None], point_labels, -1)
    logits = object_probs.clamp(1e-6, 1 - 1e-6).logit().clamp(-LOGIT_RANGE, LOGIT_RANGE)
    return Prompts(boxes, points, point_labels, logits), class_present


def _boxes(mass: Tensor, *, trim: float, margin: float) -> Tensor:
    """[N, O, 4] x0 y0 x1 y1 from the probability mass [N, O, H, W] of each object."""
    edges = []
    for axis in (2, 3):  # the sum over rows is a profile along x, and the other way round
        profile = mass.sum(axis)
        cumulative = profile.cumsum(2) / profile.sum(2, keepdim=True).clamp_min(1e-6)
        length = profile.shape[2]
        low = (cumulative <= trim).sum(2).clamp_max(length - 1) / length
        high = ((cumulative < 1 - trim).sum(2) + 1).clamp_max(length) / length
        widening = margin * (high - low)
        edges.append(((low - widening).clamp_min(0), (high + widening).clamp_max(1)))
    (left, right), (top, bottom) = edges
    return torch.stack([left, top, right, bottom], 2).to(mass.dtype)


def _points(mass: Tensor, object_probs: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Points [N, O, 2, 2] (x, y of the object, then of the background) and their labels, int64 [N, O, 2]."""
    height, width = mass.shape[2:]
    side = max(3, min(height, width) // 16 | 1)
    smooth = [F.avg_pool2d(x, side, stride=1, padding=side // 2, count_include_pad=False) for x in (mass, object_probs)]
    best = smooth[0].flatten(2).argmax(2)
    outside = (inside_of(boxes, (height, width)) < 0.5).to(mass.dtype)
    worst_value, worst = (smooth[1] + 2 * outside).flatten(2).min(2)
    index = torch.stack([best, worst], 2)
    points = torch.stack([(index % width + 0.5) / width, (index // width + 0.5) / height], 3).to(mass.dtype)
    point_labels = torch.stack([torch.ones_like(best), torch.where(worst_value < 0.25, 0, -1)], 2)
    return points, point_labels


def inside_of(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, O, H, W]: 1 inside each box [N, O, 4], 0 outside."""
    y, x = ((torch.arange(n, device=boxes.device, dtype=boxes.dtype) + 0.5) / n for n in size)
    x0, y0, x1, y1 = boxes[..., None, None].unbind(2)
    y = y[:, None]
    return ((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)).to(boxes.dtype)


def merge_object_logits(logits: Tensor, class_present: Tensor) -> Tensor:
    """Class probabilities [N, C, H, W]: softmax of 0 for the background and one logit an object, [N, O, H, W].

    An object that is false in `class_present` [N, O] has logit -16 everywhere.
    """
    logits = logits.masked_fill(~class_present[..., None, None], -2 * LOGIT_RANGE)
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], 1).softmax(1)


def corrupt_label(label: Tensor, *, classes: int, generator: torch.Generator | None) -> Tensor:
    """Simulated prediction of a weak network: class probabilities [N, C, H, W] from a label, int64 [N, H, W].

    softmax(6 blur(onehot) + s (0.5 offset + 1.5 field)): every class is blurred, gets a random offset and a smooth
    random field, with strength s ~ U(0, 3) for each image; borders move, and parts are missing or added.
    """
    truth = onehot(label, classes)
    draw = {"generator": generator, "device": label.device}
    cell = max(2, min(label.shape[1:]) // 24)
    coarse = F.avg_pool2d(truth, cell, stride=cell, ceil_mode=True, count_include_pad=False)
    strength = 3.0 * torch.rand(len(label), 1, 1, 1, **draw)  # type: ignore[arg-type]
    offset = torch.randn(len(label), classes, 1, 1, **draw)  # type: ignore[arg-type]
    field = torch.randn(len(label), classes, 6, 6, **draw)  # type: ignore[arg-type]
    field = F.interpolate(field, size=coarse.shape[2:], mode="bicubic", align_corners=False)
    logits = 6.0 * coarse + strength * (0.5 * offset + 1.5 * field)
    return F.interpolate(logits, size=label.shape[1:], mode="bilinear", align_corners=False).softmax(1)
