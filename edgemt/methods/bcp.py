"""BCP: bidirectional copy-paste between labelled and unlabelled images.

Shapes: P pairs, L labelled, U unlabelled, C classes, *space 2 or 3 axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from edgemt.contract import Batch, Step
from edgemt.learning.ema import Ema
from edgemt.learning.losses import cross_entropy, dice, onehot, probabilities
from edgemt.learning.method import LossTerms, Method
from edgemt.learning.perturbations.mixing import CutMixBox
from edgemt.learning.pseudo_labels import largest_component, predict_probabilities
from edgemt.learning.published_settings import CONSTANT, PublishedSettings
from edgemt.learning.roles import Networks, Role, Trainable


@dataclass(frozen=True)
class BCP(Method):
    """BCP: train on labelled images with a pasted block of an unlabelled image, and the reverse.

    With a block mask M (1 inside), x_out = (1 - M) x_l + M x_u, x_in = (1 - M) x_u + M x_l, labels y and pseudo-labels
    q: L = L_seg(out, y; 1 - M) + L_seg(in, y; M) + alpha (L_seg(out, q; M) + L_seg(in, q; 1 - M)), L_seg half
    cross-entropy, half Dice, within the mask; alpha is `unlabelled`.

    Follows the release: blocks of two thirds a side, alpha 0.5, no ramp, Dice over all classes with the background. One
    block serves the whole batch. Its first stage, labelled images pasted into each other, is the first fraction of this
    run: `pretrain` for slices (10000 of 40000 iterations there), `pretrain_volumes` for volumes (2000 of 17000).

    Target: the average's hard labels, reduced to each class's largest component (voxels that share a corner connect).

    Differs: each pair is pasted both ways with one block, where the release pairs each image once; Dice leaves out a
    class that the target lacks, and has squared denominators for volumes too; the average follows from the first step,
    where the release starts it with the second stage, includes batch-norm statistics, is in eval mode, and is
    delivered.
    """

    delivers: ClassVar[str] = "teacher"
    release: ClassVar[PublishedSettings | None] = CONSTANT
    family: ClassVar[str] = "copy-paste"
    citation: ClassVar[str] = "Bai et al., CVPR 2023, Bidirectional copy-paste for semi-supervised segmentation"
    pretrain: float = 0.25
    pretrain_volumes: float = 0.12
    unlabelled: float = 0.5  # alpha, weight of the regions with pseudo-labels
    box: CutMixBox = field(default_factory=lambda: CutMixBox(low=2 / 3, high=2 / 3, chance=1.0))
    ema: Ema = field(default_factory=lambda: Ema(mode="eval"))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pretrain", "pretrain_volumes"):
            fraction = getattr(self, name)
            if not 0.0 <= fraction < 1.0:
                raise ValueError(f"{name}: {fraction} is not a share of the run; give a number from 0 up to, not 1")

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "teacher": self.ema}

    def losses(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        num_unlabelled = len(batch.unlabelled)
        pretrain = self.pretrain_volumes if batch.image.ndim == 5 else self.pretrain
        pretraining = step.progress < pretrain or not num_unlabelled
        if pretraining:
            labelled, label = batch.labelled, batch.label
            unlabelled, pseudo_label = labelled.roll(1, 0), label.roll(1, 0)
        else:
            pair = torch.arange(max(batch.count, num_unlabelled), device=batch.image.device)
            labelled, label = batch.labelled[pair % batch.count], batch.label[pair % batch.count]
            p = predict_probabilities(nets.teacher, batch.unlabelled)
            pseudo_label = largest_component(p.argmax(1), classes=p.shape[1])[pair % num_unlabelled]
            unlabelled = batch.unlabelled[pair % num_unlabelled]
        block = self.box.sample(labelled[:1], step.generator)
        block = block.expand(len(labelled), -1, *labelled.shape[2:])  # [P, 1, *space]
        logits_out, logits_in = nets.student(copy_paste(block, labelled, unlabelled)).logits.chunk(2)
        mask = block.to(logits_out.dtype)
        label_loss = mixed_region_loss(logits_out, logits_in, label, 1.0 - mask)
        pseudo_loss = mixed_region_loss(logits_out, logits_in, pseudo_label, mask)
        if pretraining:  # the release pastes one way at a time in its first stage
            return LossTerms(supervised=0.5 * label_loss, supervised_pasted=0.5 * pseudo_loss)
        return LossTerms(supervised=label_loss, pasted=self.unlabelled * pseudo_loss)


def copy_paste(block: Tensor, labelled: Tensor, unlabelled: Tensor) -> Tensor:
    """[2P, K, *space]: `labelled` with the block of `unlabelled`, then `unlabelled` with the block of `labelled`."""
    return torch.cat([torch.where(block, unlabelled, labelled), torch.where(block, labelled, unlabelled)])


def mixed_region_loss(logits_out: Tensor, logits_in: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Scalar: L_seg(out, label; weight) + L_seg(in, label; 1 - weight), for the label of one image of each pair.

    `weight` [P, 1, *space] is 1 where that image is visible in the first mixture; in the second it is visible
    everywhere else. L_seg = 0.5 (cross-entropy + Dice), Dice over all classes with the background.
    """
    target = onehot(label, logits_out.shape[1])
    losses = [
        0.5 * (cross_entropy(logits, label, weight=w) + dice(probabilities(logits), target, weight=w, background=True))
        for logits, w in ((logits_out, weight), (logits_in, 1.0 - weight))
    ]
    return torch.stack(losses).sum()
