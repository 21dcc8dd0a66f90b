"""What a promptable network is asked: boxes, points and a first mask, read off a prediction, never off a label.

A label speaks in `spoiled` alone, which makes the predictions that a promptable network of our own is trained on, from
labelled images. Coordinates are shares of the frame, (0, 0) its top left corner, x before y.

Shapes: N images (or slices), C classes, O = C - 1 objects, P points of an object, H W a frame.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from edgemt.learning.losses import onehot

FAR = 8.0  # logits of a first mask are kept within this
POINTS = 2  # one on the object, one beside it


class Prompts(NamedTuple):
    """One question an object. A kind of prompt that is None is not put; which objects there are says `asked`."""

    boxes: Tensor | None  # [N, O, 4] x0 y0 x1 y1
    points: Tensor | None  # [N, O, P, 2] x y
    signs: Tensor | None  # int64 [N, O, P] 1 on the object, 0 beside it, -1 no point
    masks: Tensor | None  # [N, O, H, W] logits

    def without(self, *kinds: str) -> Prompts:
        """The same question with fewer prompts: "boxes", "points" or "masks" are left out."""
        gone = {*kinds, *(("signs",) if "points" in kinds else ())}
        return self._replace(**dict.fromkeys(gone))


def from_prediction(p: Tensor, *, trim: float = 0.02, margin: float = 0.05, least: int = 4) -> tuple[Prompts, Tensor]:
    """The questions that class probabilities [N, C, H, W] raise, and bool [N, O]: which classes they show at all.

    A class is shown where it is the likeliest; on fewer than `least` pixels it is not. Its box leaves out `trim` of
    the mass at each side, so that stray pixels do not stretch it, and is then widened by `margin` of its own side. The
    points are the surest place of the class, and the place in its box that is least like it, if that is unlike it.
    """
    region = onehot(p.argmax(1), p.shape[1])[:, 1:].to(p.dtype)
    shown = p.sum(1, keepdim=True) > 0.5  # where a view was turned back, its corners hold nothing
    mass, own = region * p[:, 1:] * shown, p[:, 1:]
    asked = (region * shown).flatten(2).sum(2) >= least
    boxes = _boxes(mass, trim=trim, margin=margin)
    points, signs = _points(mass, own, boxes)
    signs = torch.where(asked[..., None], signs, -1)
    logits = own.clamp(1e-6, 1 - 1e-6).logit().clamp(-FAR, FAR)
    return Prompts(boxes, points, signs, logits), asked


def _boxes(mass: Tensor, *, trim: float, margin: float) -> Tensor:
    edges = []
    for axis in (2, 3):  # the sum over rows is a profile along x, and the other way round
        profile = mass.sum(axis)
        share = profile.cumsum(2) / profile.sum(2, keepdim=True).clamp_min(1e-6)
        length = profile.shape[2]
        low = (share <= trim).sum(2).clamp_max(length - 1) / length
        high = ((share < 1 - trim).sum(2) + 1).clamp_max(length) / length
        wider = margin * (high - low)
        edges.append(((low - wider).clamp_min(0), (high + wider).clamp_max(1)))
    (left, right), (top, bottom) = edges
    return torch.stack([left, top, right, bottom], 2).to(mass.dtype)


def _points(mass: Tensor, own: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """[N, O, 2, 2] and int64 [N, O, 2]."""
    height, width = mass.shape[2:]
    side = max(3, min(height, width) // 16 | 1)
    smooth = [F.avg_pool2d(x, side, stride=1, padding=side // 2, count_include_pad=False) for x in (mass, own)]
    best = smooth[0].flatten(2).argmax(2)
    outside = (inside_of(boxes, (height, width)) < 0.5).to(mass.dtype)
    worst_value, worst = (smooth[1] + 2 * outside).flatten(2).min(2)
    at = torch.stack([best, worst], 2)
    points = torch.stack([(at % width + 0.5) / width, (at // width + 0.5) / height], 3).to(mass.dtype)
    signs = torch.stack([torch.ones_like(best), torch.where(worst_value < 0.25, 0, -1)], 2)
    return points, signs


def inside_of(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, O, H, W]: 1 inside each box [N, O, 4], 0 outside."""
    y, x = ((torch.arange(n, device=boxes.device, dtype=boxes.dtype) + 0.5) / n for n in size)
    x0, y0, x1, y1 = boxes[..., None, None].unbind(2)
    y = y[:, None]
    return ((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)).to(boxes.dtype)


def joined(logits: Tensor, asked: Tensor) -> Tensor:
    """Class probabilities [N, C, H, W] from one logit an object [N, O, H, W]; an object not asked for is nowhere."""
    logits = logits.masked_fill(~asked[..., None, None], -2 * FAR)
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], 1).softmax(1)


def spoiled(label: Tensor, *, classes: int, generator: torch.Generator | None) -> Tensor:
    """What a teacher that has learnt little would say: class probabilities [N, C, H, W] around int64 [N, H, W].

    Every class is blurred, lifted or lowered as a whole and bent by a smooth field, each image by its own draw, so that
    borders lie wrong, parts are missing and others are too much.
    """
    truth = onehot(label, classes)
    draw = {"generator": generator, "device": label.device}
    cell = max(2, min(label.shape[1:]) // 24)
    coarse = F.avg_pool2d(truth, cell, stride=cell, ceil_mode=True, count_include_pad=False)
    strength = 3.0 * torch.rand(len(label), 1, 1, 1, **draw)  # type: ignore[arg-type]
    lift = torch.randn(len(label), classes, 1, 1, **draw)  # type: ignore[arg-type]
    bend = torch.randn(len(label), classes, 6, 6, **draw)  # type: ignore[arg-type]
    bend = F.interpolate(bend, size=coarse.shape[2:], mode="bicubic", align_corners=False)
    logits = 6.0 * coarse + strength * (0.5 * lift + 1.5 * bend)
    return F.interpolate(logits, size=label.shape[1:], mode="bilinear", align_corners=False).softmax(1)
