"""Mean teacher whose student sees unlabelled images with patches of labelled ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from edgemt.contract import Batch, Step
from edgemt.learning.losses import dice_ce, mse, onehot, probabilities
from edgemt.learning.method import LossTerms
from edgemt.learning.perturbations.mixing import PatchGrid
from edgemt.learning.pseudo_labels import predict_probabilities
from edgemt.learning.roles import Networks
from edgemt.learning.student_teacher import StudentTeacher


@dataclass(frozen=True)
class PatchSwap(StudentTeacher):
    """Inspired by PrixMatch: unlabelled images with half of their patches taken from labelled ones.

    With a random patch mask M: x = M x_l + (1 - M) x_u, target M onehot(y_l) + (1 - M) q_u;
    L = dice_ce(x_l, y_l) + ramp(t) MSE(p(x), target).

    Target: the average's softmax, and the label where a patch is a labelled one's.

    Differs: of PrixMatch only a survey's sentence is known; two modalities, or two devices, are any labelled and
    unlabelled row here.
    """

    inspired: ClassVar[bool] = True
    family: ClassVar[str] = "consistency"
    citation: ClassVar[str] = "Inspired by PrixMatch, patch swapping between modalities (survey)"
    cells: PatchGrid = field(default_factory=PatchGrid)

    def losses_with_unlabelled(self, nets: Networks, batch: Batch, step: Step) -> LossTerms:
        target = predict_probabilities(nets.teacher, self.noise(batch.unlabelled, step.generator))
        partner = torch.arange(len(target), device=target.device) % batch.count
        swapped = self.cells.sample(batch.unlabelled, step.generator)
        view = torch.where(swapped, batch.labelled[partner], batch.unlabelled)
        target = torch.where(swapped, onehot(batch.label, target.shape[1])[partner].to(target.dtype), target)
        logits = nets.student(torch.cat([batch.labelled, view])).logits
        return LossTerms(
            supervised=dice_ce(logits[: batch.count], batch.label),
            consistency=self.ramp(step) * mse(probabilities(logits[batch.count :]), target).mean(),
        )
