"""A promptable network (SAM) as a second, frozen teacher: it is asked about what the mean teacher shows.

Shapes: U unlabelled, C classes, O = C - 1 objects, *space 2 or 3 axes; V slices asked about, all images' together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemt.contract import Batch, Step
from edgemt.learning.losses import Distance, dice_ce, distance, mse, onehot, probabilities, weighted_mean
from edgemt.learning.method import Terms
from edgemt.learning.perturbations import Box, Noise, cutmix, inverse
from edgemt.learning.prompts import from_prediction, joined
from edgemt.learning.pseudo_labels import soft
from edgemt.learning.roles import Ema, Frozen, Players, Role, bare
from edgemt.learning.schedules import Ramp
from edgemt.learning.student_teacher import Pair
from edgemt.methods.ac_mt import Ambiguous
from edgemt.methods.as_published import Published
from edgemt.methods.mean_teacher import Mix, student_view


@dataclass(frozen=True)
class SecondTeacher:
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
        if not getattr(bare(network), "promptable", False):
            return soft(network, batch.unlabelled), torch.ones_like(p[:, :1])
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
        kept: bool = getattr(bare(network), "remembers", False)
        prompts, asked = from_prediction(_seen(inverse(place), p) if kept else p)
        left_out = [kind for kind in ("boxes", "points", "masks") if not getattr(self, kind)]
        logits, quality = network(
            image, *prompts.without(*left_out), **({"case": case, "depth": depth} if kept else {})
        )
        q = joined(logits.to(p.dtype), asked)
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


@dataclass(frozen=True)
class SamAssisted(Ambiguous):
    """Inspired by S-ACMT: where the student is in doubt it follows its average and, where sure, SAM.

    As `ac_mt`, with SAM (or a small promptable network that the run trains on its labelled images) as a second, frozen
    teacher. It is asked about each class that the mean teacher shows, by box, points and mask of that prediction.

    Target: the average's softmax of a noisy view, and SAM's answer, both on voxels where the student's entropy is high;
    SAM's counts where it expects an overlap of `sure` and, with `agree`, names the class that the average names.

    Differs: of S-ACMT only a survey's sentence is known; how SAM is asked and when it is believed is our own.
    """

    inspired: ClassVar[bool] = True
    release: ClassVar[Published | None] = None  # no code of it is public
    citation: ClassVar[str] = (
        "Inspired by S-ACMT (survey); AC-MT: Xu et al., MedIA 2023; SAM: Kirillov et al., ICCV 2023"
    )
    second: SecondTeacher = field(default_factory=SecondTeacher)
    agree: bool = True
    weight: float = 1.0  # of SAM's term, beside the mean teacher's

    def roles(self) -> dict[str, Role]:
        return {**super().roles(), "sam": Frozen("promptable")}

    def compared(self, nets: Players, batch: Batch, step: Step) -> Terms:
        logits = nets.student(batch.image).logits
        target = soft(nets.teacher, self.noise(batch.unlabelled, step.generator))
        word, trust = self.second.word(nets.sam, batch, target, step)
        if self.agree:
            trust = trust * (word.argmax(1) == target.argmax(1)).unsqueeze(1)
        p = probabilities(logits[batch.count :])
        chosen = self.select(nets, batch.unlabelled, p.detach(), step).to(p.dtype)
        terms = Terms(supervised=dice_ce(logits[: batch.count], batch.label))
        terms["consistency"] = self.ramp(step) * weighted_mean(mse(p, target), chosen)
        terms["sam"] = self.ramp(step) * self.weight * weighted_mean(mse(p, word), chosen * trust)
        terms.notes["accepted"] = (chosen * trust).mean()
        return terms


@dataclass(frozen=True)
class SamHandover(Pair):
    """Inspired by SynFoC: SAM early, the mean teacher late; the target moves from one to the other.

    Target: (1 - r) SAM + r average, soft, r rising by `handover` over the run; where SAM has no word, the average's
    softmax. The student sees the strong view with CutMix boxes, as in `soft_cutmix_mt`.

    Differs: theirs fine-tunes MedSAM beside the U-Net and takes r from how sure and how agreed the two are; here SAM is
    frozen, r is a ramp, and prompts are those of the average's prediction.
    """

    inspired: ClassVar[bool] = True
    citation: ClassVar[str] = "Inspired by SynFoC: Ma et al., CVPR 2025; SAM: Kirillov et al., ICCV 2023"
    ramp: Ramp = field(default_factory=lambda: Ramp(top=1.0, length=0.5))
    ema: Ema = field(default_factory=lambda: Ema(mode="eval"))
    noise: Noise = field(default_factory=lambda: Noise(std=0.0))
    second: SecondTeacher = field(default_factory=SecondTeacher)
    handover: Ramp = field(default_factory=lambda: Ramp(top=1.0, length=0.8))
    distance: Distance = "ce"
    strong: bool = True
    mix: Mix = "cutmix"
    box: Box = field(default_factory=Box)

    def roles(self) -> dict[str, Role]:
        return {**super().roles(), "sam": Frozen("promptable")}

    def compared(self, nets: Players, batch: Batch, step: Step) -> Terms:
        own = soft(nets.teacher, self.noise(batch.unlabelled, step.generator))
        word, trust = self.second.word(nets.sam, batch, own, step)
        early = (1.0 - self.handover(step)) * trust
        target, view = early * word + (1.0 - early) * own, student_view(batch, strong=self.strong)
        if self.mix == "cutmix":
            box = self.box.draw(view, step.generator)
            view, target = cutmix(box, view), cutmix(box, target)
        logits = nets.student(torch.cat([batch.labelled, view])).logits
        terms = Terms(supervised=dice_ce(logits[: batch.count], batch.label))
        terms["consistency"] = self.ramp(step) * distance(self.distance, logits[batch.count :], target)
        terms.notes["sam"] = early.mean()
        return terms
