"""A promptable network (SAM) as a second, frozen teacher: prompts come from the prediction of the mean teacher.

Shapes: U unlabelled, C classes, O = C - 1 objects, *space 2 or 3 axes; V slices, those of all images together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemt.contract import Batch, Step
from edgemt.learning.losses import onehot
from edgemt.learning.perturbations import invert_affine
from edgemt.learning.prompts import merge_object_logits, prompts_from_prediction
from edgemt.learning.pseudo_labels import predict_probabilities
from edgemt.learning.roles import unwrap


@dataclass(frozen=True)
class PromptableTeacherOptions:
    """Which promptable network is asked, and when its word counts: in training only, never at inference."""

    model: str = "small"  # "small": trained on this run's labelled images; or a SAM folder, or a name on the hub
    lessons: int = 400  # steps of the small one's training
    boxes: bool = True  # the prompts that are read off the mean teacher's prediction
    points: bool = True
    masks: bool = True
    sure: float = 0.6  # the overlap that it must expect of its own mask
    slices: int = 8  # of a volume, so many are asked about at a step
    gigabytes: float = 20.0  # that the embeddings of a SAM may take on disk

    def __post_init__(self) -> None:
        if not (self.boxes or self.points or self.masks):
            raise ValueError("boxes, points, masks: all are false, so nothing would be asked; leave one on")
        if self.slices < 1 or self.lessons < 1:
            raise ValueError(f"slices: {self.slices}, lessons: {self.lessons}: give at least 1 of each")

    @torch.no_grad()
    def word(self, network: nn.Module, batch: Batch, p: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """What it says of the unlabelled rows, [U, C, *space], and where that counts, [U, 1, *space] of 0 and 1.

        `p` [U, C, *space] is what the mean teacher says of them: the only thing that prompts are made of. A frozen
        network that takes no prompts is asked without: a plain second teacher is the control.
        """
        if not getattr(unwrap(network), "promptable", False):
            return predict_probabilities(network, batch.unlabelled), torch.ones_like(p[:, :1])
        if p.ndim == 4:
            return self._answer(network, batch.unlabelled, p, *_where(batch))
        drawn = torch.randperm(p.shape[-1], generator=step.generator, device=p.device)[: self.slices]
        image, flat = (x[..., drawn].movedim(-1, 1).flatten(0, 1) for x in (batch.unlabelled, p))
        q, trust = self._answer(network, image, flat, *_where(batch, drawn))
        word, counts = p.clone(), torch.zeros_like(p[:, :1])
        word[..., drawn], counts[..., drawn] = (x.unflatten(0, (len(p), -1)).movedim(1, -1) for x in (q, trust))
        return word, counts

    def _answer(
        self, network: nn.Module, image: Tensor, p: Tensor, case: Tensor, depth: Tensor, place: Tensor
    ) -> tuple[Tensor, Tensor]:
        """[V, C, H, W] and [V, 1, H, W]. A network that remembers is asked about whole images, not about this view."""
        kept: bool = getattr(unwrap(network), "remembers", False)
        prompts, asked = prompts_from_prediction(_seen(invert_affine(place), p) if kept else p)
        left_out = [kind for kind in ("boxes", "points", "masks") if not getattr(self, kind)]
        logits, quality = network(
            image, *prompts.without(*left_out), **({"case": case, "depth": depth} if kept else {})
        )
        q = merge_object_logits(logits.to(p.dtype), asked)
        quality = quality.to(p.dtype).masked_fill(~asked, 2.0)
        background = torch.where(asked.any(1), quality.amin(1), -1.0)  # of an image where it was asked nothing: no word
        named = onehot(q.argmax(1), q.shape[1]).to(p.dtype)
        expected = (named * torch.cat([background[:, None], quality], 1)[..., None, None]).sum(1, keepdim=True)
        trust = (expected >= self.sure).to(p.dtype)
        if kept:
            q, trust = _seen(place, q), (_seen(place, trust) > 0.99).to(p.dtype)
        return q, trust


def _where(batch: Batch, drawn: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Of each slice asked about: its case [V], how far along its volume it lies [V], and its place [V, 2, 3] in it."""
    rows = slice(batch.count, None)
    count = len(batch.unlabelled)
    index = torch.zeros(count, dtype=torch.int64) if batch.index is None else batch.index[rows]
    place = (
        batch.image.new_zeros(count, *((2, 3) if drawn is None else (3, 4)))
        if batch.place is None
        else batch.place[rows]
    )
    place = place.to(batch.image)
    if drawn is None:
        return index, torch.zeros(count), place
    z = (2 * drawn + 1) / batch.image.shape[-1] - 1  # -1 to 1 along the patch
    depth = (place[:, 0, 0, None] * z + place[:, 0, 3, None] + 1) / 2
    return index.repeat_interleave(len(drawn)), depth.flatten(), place[:, 1:, 1:].repeat_interleave(len(drawn), 0)


def _seen(place: Tensor, x: Tensor) -> Tensor:
    """x [V, C, H, W] through `place` [V, 2, 3], rows of `affine_grid`; 0 where it looks beyond the rim."""
    grid = F.affine_grid(place.to(x.dtype), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)
