"""Knowledge distillation from a frozen teacher into a small student, with consistency on unlabelled images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from edgemt.contract import ADDED_LATER, Batch, Head, Output, Step
from edgemt.learning.ema import Ema
from edgemt.learning.feature_term import FeatureTerm
from edgemt.learning.label_rules import overlapping
from edgemt.learning.losses import (
    boundary_band,
    consistency_loss,
    cwd_loss,
    dice,
    dice_ce,
    dist_intra_class_loss,
    log_probabilities,
    logits_of,
    probabilities,
    temperature_kl,
)
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations.mixing import CutMixBox, cutmix
from edgemt.learning.perturbations.motion import PseudoMotion
from edgemt.learning.pseudo_labels import predict_probabilities
from edgemt.learning.roles import Frozen, Networks, Role, Trainable
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.student_teacher import Mixing, one_output, student_view
from edgemt.learning.temporal_term import temporal_loss
from edgemt.learning.uncertainty_term import batch_uncertainty_loss, check_teacher_source
from edgemt.renamed_fields import renamed_fields

MIN_PROBABILITY = 1e-6  # soft labels in half precision contain zeros, whose logarithm is not finite


@renamed_fields(supervised_weight="hard", teacher_view="teacher_sees", teacher_source="guide")
@dataclass(frozen=True)
class Distillation(Method):
    """Distillation: match a frozen teacher, and the student's own average.

    L = hard dice_ce(x_l, y_l) + kl T^2 KL(q^T || p^T) + cwd CWD + intra DIST + overlap Dice(p, q) + feature term
    + consistency(t) MSE(p_u, average's p_u) + temporal J(W p_u, p(W x_u)); q are the teacher's probabilities, every
    weight may be 0.

    `teacher_view` "weak": soft labels of the clean view, mixed as the student's images are (FixMatch's way); "same":
    soft labels of the very input that the student gets (the "patient teacher" way). All weights 0 is the control
    without distillation. CWD weight 3 is the authors'; it suits convolutional students on several classes.

    `teacher_source` "network" runs the teacher at each step; "bank" takes its soft labels of every row from
    `batch.soft`, computed beforehand: a 3-D teacher then guides a 2-D student, and no step runs it.

    `feature` adds a loss between feature maps of the student and of a frozen network on every image (FitNets, VID, CWD
    or pairwise similarity), off unless its `kind` is set; its projection is no part of what is delivered.

    Target: the frozen teacher's softmax at a temperature, and the average's softmax.

    Differs: a sum of published losses, each with its weight (KL 1, others 0), with CutMix and a consistency with the
    student's own average; of DIST the part within classes, as with two classes the other part is a sign.

    `uncertainty` trains a second head on the decoder's last map: the probability that the class of a pixel is wrong,
    from the student's errors on labelled rows and the standard deviation between the teachers on unlabelled ones
    (`edgemt.learning.uncertainty_term`). It needs `teacher_source` "bank" and several teachers (`teacher.members`). Its
    gradient stops at that map.
    """

    delivers: ClassVar[str] = "average"
    takes_overlapping: ClassVar[bool] = True
    family: ClassVar[str] = "distillation"
    citation: ClassVar[str] = (
        "Hinton et al., 2015; CWD: Shu et al., ICCV 2021; DIST: Huang et al., NeurIPS 2022; FitNets: Romero et al., "
        "ICLR 2015; VID: Ahn et al., CVPR 2019; pairwise similarity: Liu et al., CVPR 2019; temporal: Liu et al., "
        "ECCV 2020"
    )
    temperature: float = 2.0
    kl: float = 1.0
    cwd: float = 0.0
    cwd_temperature: float = 4.0
    intra: float = 0.0
    overlap: float = 0.0  # soft Dice with the teacher's probabilities, where small organs count as much as large ones
    boundary: float = 0.0  # extra weight of the KL near the teacher's borders
    supervised_weight: float = 1.0  # Dice + cross-entropy on the labelled rows
    consistency: SigmoidRampUp = field(default_factory=SigmoidRampUp)
    ema: Ema = field(default_factory=lambda: Ema(mode="eval"))
    strong: bool = True
    mix: Mixing = "cutmix"
    box: CutMixBox = field(default_factory=CutMixBox)
    teacher_view: Literal["weak", "same"] = "weak"
    teacher_source: Literal["network", "bank"] = "network"
    feature: FeatureTerm = field(default_factory=FeatureTerm)
    separate_streams: bool = False  # labelled and unlabelled rows in forward passes of their own: own batch statistics
    image_dice: bool = False  # Dice of each image in place of that of the batch, also in `overlap`
    temporal: float = field(default=0.0, metadata=ADDED_LATER)  # weight of the term against flicker; 1 is usual
    motion: PseudoMotion = field(default_factory=PseudoMotion, metadata=ADDED_LATER)  # between its two frames
    uncertainty: float = field(default=0.0, metadata=ADDED_LATER)  # weight of the uncertainty head's term; 0: no head

    def __post_init__(self) -> None:
        _check_options(self)

    @property
    def heads(self) -> tuple[Head, ...]:  # type: ignore[override, misc]
        return ("uncertainty",) if self.uncertainty else ()

    def variant_note(self) -> str:
        if self.teacher_source == "bank":
            return "Soft labels from disk."
        return "Separate streams." if self.separate_streams else ""

    def roles(self) -> dict[str, Role]:
        teacher: dict[str, Role] = {"teacher": Frozen("teacher")} if self.teacher_source == "network" else {}
        return {"student": Trainable(), **teacher, **self.feature.roles(), "average": self.ema}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        count, view = batch.count, student_view(batch, strong=self.strong)
        box = self.box.sample(view, step.generator) if self.mix == "cutmix" and len(view) else None
        image = torch.cat([batch.labelled, view if box is None else cutmix(box, view)])
        out = one_output(nets.student, image, count=count, separate=self.separate_streams)
        logits = out.logits
        supervised = dice_ce(logits[:count], batch.label, per_image=self.image_dice)
        terms = LossTerms(supervised=self.supervised_weight * supervised)

        uses_logits = self.kl or self.cwd or self.intra or self.overlap
        teacher_image = batch.image if self.teacher_view == "weak" else image
        teacher = self._teacher(nets, teacher_image) if uses_logits or self.feature.on else None
        if uses_logits:
            with torch.no_grad():
                teacher_logits = _teacher_logits(teacher, batch)
                if box is not None and self.teacher_view == "weak":
                    teacher_logits = torch.cat([teacher_logits[:count], cutmix(box, teacher_logits[count:])])
                weight = 1.0 + self.boundary * boundary_band(probabilities(teacher_logits)) if self.boundary else None
            terms.update(_logit_terms(self, logits, teacher_logits, weight))

        if self.feature.on:
            maps = self.feature.target_maps(nets, teacher_image, teacher)
            feature_box = box if self.teacher_view == "weak" else None
            terms["feature"] = self.feature.loss(nets, out, maps, space=image.shape[2:], box=feature_box, count=count)

        if self.uncertainty:
            terms["uncertainty"] = self.uncertainty * batch_uncertainty_loss(out, batch, box)

        if len(view) and not self.consistency.is_zero:
            target = predict_probabilities(nets.average, batch.unlabelled)
            target = target if box is None else cutmix(box, target)
            terms["consistency"] = self.consistency(step) * consistency_loss("mse", logits[count:], target)
        if len(view) and self.temporal:
            first = {"image": image[count:], "logits": logits[count:]}
            loss = temporal_loss(nets.student, **first, motion=self.motion, generator=step.generator)
            terms["temporal"] = self.temporal * loss
        return terms

    @torch.no_grad()
    def _teacher(self, nets: Networks, image: Tensor) -> Output | None:
        """The teacher's output for every row; None if a bank of soft labels replaces it."""
        return nets.teacher(image) if self.teacher_source == "network" else None


def _teacher_logits(teacher: Output | None, batch: Batch) -> Tensor:
    """The teacher's logits [N, C, *space] of every row; those of a bank are log-probabilities."""
    if teacher is not None:
        return teacher.logits
    if batch.soft is None:
        raise ValueError("teacher_source: 'bank' needs soft labels of the images; fill a bank first or use 'network'")
    return logits_of(batch.soft.to(batch.image.dtype), smallest=MIN_PROBABILITY)


def _logit_terms(
    method: Distillation, logits: Tensor, teacher_logits: Tensor, weight: Tensor | None
) -> dict[str, Tensor]:
    """The losses between logits of student and teacher [N, C, *space] whose weight is not 0; `weight` is of the KL."""
    terms: dict[str, Tensor] = {}
    if method.kl:
        kl_loss = temperature_kl(logits, teacher_logits, temperature=method.temperature, weight=weight)
        terms["kl"] = method.kl * kl_loss
    if method.cwd:
        # A softmax over space depends on a constant a voxel; a bank has log-probabilities, so both need them.
        # Those of overlapping classes have no such constant.
        as_stored = method.teacher_source == "bank" and not overlapping()
        student_logits = log_probabilities(logits) if as_stored else logits
        terms["cwd"] = method.cwd * cwd_loss(student_logits, teacher_logits, temperature=method.cwd_temperature)
    if method.intra:
        terms["intra"] = method.intra * dist_intra_class_loss(logits, teacher_logits)
    if method.overlap:
        dice_loss = dice(probabilities(logits), probabilities(teacher_logits), per_image=method.image_dice)
        terms["overlap"] = method.overlap * dice_loss
    return terms


def _check_options(of: Distillation) -> None:
    """Raises ValueError for options that are out of range or do not fit together."""
    for name in ("temperature", "cwd_temperature"):
        if getattr(of, name) <= 0:
            raise ValueError(f"{name}: {getattr(of, name)} must be above 0; 2 to 4 is usual")
    if of.temporal < 0:
        raise ValueError(f"temporal: {of.temporal} is below 0; 1 is usual, 0 switches the term off")
    check_teacher_source(of.teacher_source, uncertainty=of.uncertainty)
    if of.teacher_source == "bank" and of.teacher_view == "same":
        raise ValueError("teacher_view: 'same' needs a teacher at each step, and a bank has none; use 'weak'")
