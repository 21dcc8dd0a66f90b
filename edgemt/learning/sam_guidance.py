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
from edgemt.learning.perturbations.spatial import invert_affine
from edgemt.learning.prompts import merge_object_logits, prompts_from_prediction
from edgemt.learning.pseudo_labels import predict_probabilities
from edgemt.learning.roles import unwrap
from edgemt.renamed_fields import renamed_fields


@renamed_fields(pretrain_steps="lessons", min_predicted_iou="sure")
@dataclass(frozen=True)
class PromptableTeacherOptions:
    """Which promptable network gives pseudo-labels, and with which prompts; used in training, not at inference."""

    model: str = "small"  # "small": trained on this run's labelled images; or a SAM folder, or a name on the hub
    pretrain_steps: int = 400  # steps of the small one's training
    boxes: bool = True  # kinds of prompts, computed from the mean teacher's prediction
    points: bool = True
    masks: bool = True
    min_predicted_iou: float = 0.6  # smallest predicted IoU of a mask that is used
    slices: int = 8  # slices of each volume that are segmented at a step
    gigabytes: float = 20.0  # limit of the embeddings of a SAM on disk

    def __post_init__(self) -> None:
        if not (self.boxes or self.points or self.masks):
            raise ValueError("boxes, points, masks: all are false, so there is no prompt; set one to true")
        if self.slices < 1 or self.pretrain_steps < 1:
            raise ValueError(f"slices: {self.slices}, pretrain_steps: {self.pretrain_steps}: give at least 1 of each")

    @torch.no_grad()
    def pseudo_label(self, network: nn.Module, batch: Batch, p: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Probabilities [U, C, *space] of the unlabelled rows, and where they count, [U, 1, *space] of 0 and 1.

        Prompts are made of `p` [U, C, *space] alone, the mean teacher's probabilities. Of volumes `slices` random
        slices are segmented, and nothing counts in the others. A frozen network that takes no prompts gives its own
        softmax, which counts everywhere: a plain second teacher is the control.
        """
        if not getattr(unwrap(network), "promptable", False):
            return predict_probabilities(network, batch.unlabelled), torch.ones_like(p[:, :1])
        if p.ndim == 4:
            return self._prompt(network, batch.unlabelled, p, *_slice_positions(batch))
        index = torch.randperm(p.shape[-1], generator=step.generator, device=p.device)[: self.slices]
        image, flat = (x[..., index].movedim(-1, 1).flatten(0, 1) for x in (batch.unlabelled, p))
        q, trusted = self._prompt(network, image, flat, *_slice_positions(batch, index))
        pseudo_label, weight = p.clone(), torch.zeros_like(p[:, :1])
        pseudo_label[..., index], weight[..., index] = (
            x.unflatten(0, (len(p), -1)).movedim(1, -1) for x in (q, trusted)
        )
        return pseudo_label, weight

    def _prompt(
        self, network: nn.Module, image: Tensor, p: Tensor, case: Tensor, depth: Tensor, affine: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Probabilities [V, C, H, W] and where they count, [V, 1, H, W], of slices.

        A network with cached embeddings (`remembers`) segments whole images; its masks are warped back to this view.
        """
        cached: bool = getattr(unwrap(network), "remembers", False)
        prompts, class_present = prompts_from_prediction(_warp(invert_affine(affine), p) if cached else p)
        left_out = [kind for kind in ("boxes", "points", "masks") if not getattr(self, kind)]
        logits, predicted_iou = network(
            image, *prompts.without(*left_out), **({"case": case, "depth": depth} if cached else {})
        )
        q = merge_object_logits(logits.to(p.dtype), class_present)
        predicted_iou = predicted_iou.to(p.dtype).masked_fill(~class_present, 2.0)
        # The background has the lowest value of all objects, and -1 in an image without any.
        background = torch.where(class_present.any(1), predicted_iou.amin(1), -1.0)
        predicted = onehot(q.argmax(1), q.shape[1]).to(p.dtype)
        iou = (predicted * torch.cat([background[:, None], predicted_iou], 1)[..., None, None]).sum(1, keepdim=True)
        trusted = (iou >= self.min_predicted_iou).to(p.dtype)
        if cached:
            q, trusted = _warp(affine, q), (_warp(affine, trusted) > 0.99).to(p.dtype)
        return q, trusted


def _slice_positions(batch: Batch, index: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Of each slice: case index [V], depth as a fraction of its volume [V], affine of its view [V, 2, 3].

    `index` are the slices of each volume; None for batches of frames.
    """
    rows = slice(batch.count, None)
    count = len(batch.unlabelled)
    case = torch.zeros(count, dtype=torch.int64) if batch.index is None else batch.index[rows]
    affine = (
        batch.image.new_zeros(count, *((2, 3) if index is None else (3, 4)))
        if batch.place is None
        else batch.place[rows]
    )
    affine = affine.to(batch.image)
    if index is None:
        return case, torch.zeros(count), affine
    z = (2 * index + 1) / batch.image.shape[-1] - 1  # -1 to 1 along the patch
    depth = (affine[:, 0, 0, None] * z + affine[:, 0, 3, None] + 1) / 2
    return case.repeat_interleave(len(index)), depth.flatten(), affine[:, 1:, 1:].repeat_interleave(len(index), 0)


def _warp(affine: Tensor, x: Tensor) -> Tensor:
    """`x` [V, C, H, W] sampled through `affine` [V, 2, 3], rows of `affine_grid`; 0 outside of `x`."""
    grid = F.affine_grid(affine.to(x.dtype), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)
