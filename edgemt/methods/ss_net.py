"""SS-Net: smoothness under adversarial noise, and separation of classes in feature space.

Shapes: N batch, C classes, F features, V voxels of a batch, *space 2 or 3 axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import dice, dice_ce, onehot, probabilities
from edgemt.learning.method import LossTerms, Method, OptimiserStep
from edgemt.learning.perturbations.features import vat_perturbation
from edgemt.learning.pseudo_labels import argmax_one_hot
from edgemt.learning.published_settings import CONSTANT, PublishedSettings
from edgemt.learning.roles import Memory, Networks, Role, Trainable, untracked, unwrap
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.renamed_fields import renamed_fields


@renamed_fields(epsilon="reach", xi="probe")
@dataclass(frozen=True)
class SSNet(Method):
    """SS-Net: predictions robust to adversarial noise, features close to remembered ones of their class.

    L = dice_ce(x_l, y_l) + ramp(t) [Dice(p(x + r_adv), p(x)) + contrast sum over labelled and unlabelled rows of
    mean_c mean over voxels of class c of (1 - cos(f, m_c))], m_c the mean direction of the remembered and the new
    feature vectors of class c.

    Follows the release: one power iteration, `xi` and `epsilon` of 10, 6 for slices; Dice distance; 32
    remembered vectors a class, cosine distance, contrast weight 0.1, all times a weight of 1 ramped up.

    Target: the student's softmax of the clean image, and the mean remembered feature of each class.

    Differs: the trained projections and selectors are left out: features are compared as they are, and vectors to
    remember are drawn at random among labelled voxels that were classified right. The background is remembered too;
    the release filters it away first, so its memory stays empty.
    """

    heads: ClassVar[tuple[Head, ...]] = ("features",)
    release: ClassVar[PublishedSettings | None] = CONSTANT
    family: ClassVar[str] = "contrast"
    citation: ClassVar[str] = "Wu et al., MICCAI 2022, Exploring smoothness and class-separation"
    ramp: SigmoidRampUp = field(default_factory=lambda: SigmoidRampUp(top=1.0))
    contrast: float = 0.1
    epsilon: float = 10.0  # of VAT: length of the perturbation
    xi: float = 10.0  # of VAT: length of the probe
    memory: Memory = field(default_factory=lambda: Memory(size=32, features=256, classes=16))  # the last two at most

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "memory": self.memory}

    def steps(self, nets: Networks, batch: Batch, step: Step) -> Iterator[OptimiserStep]:
        out, count = nets.student(batch.image), batch.count
        nets.memory.check_capacity(out.logits.shape[1], features=out.features.shape[1])
        clean, label = probabilities(out.logits.detach()), onehot(batch.label, out.logits.shape[1])

        def divergence(image: Tensor, student: nn.Module) -> Tensor:
            return dice(probabilities(student(image).logits), clean)

        unwrapped = partial(divergence, student=unwrap(nets.student))
        with untracked(nets.student):
            perturbation = vat_perturbation(unwrapped, batch.image, step.generator, epsilon=self.epsilon, xi=self.xi)
            smoothness_loss = divergence(batch.image + perturbation, nets.student)
        correct = label * argmax_one_hot(clean[:count])
        priority = torch.rand(batch.label.shape, generator=step.generator, device=batch.label.device)
        new_vectors = [
            sample_features(out.features[:count], one, priority, most=self.memory.size) for one in correct.unbind(1)
        ]
        centre, has_centre = class_centres(nets.memory.vectors, new_vectors)
        classes = label if not len(batch.unlabelled) else torch.cat([label, argmax_one_hot(clean[count:])])
        weight = self.ramp(step)
        parts = (slice(count), slice(count, None)) if len(batch.unlabelled) else (slice(count),)
        distances = [class_distance(out.features[part], classes[part], centre, has_centre) for part in parts]
        terms = LossTerms(supervised=dice_ce(out.logits[:count], batch.label))
        terms["smooth"] = weight * smoothness_loss
        terms["contrast"] = weight * self.contrast * torch.stack(distances).sum()
        yield ("student",), terms
        # After the yield: a step whose loss is not finite does not change the memory.
        for c, vectors in enumerate(new_vectors):
            nets.memory.push(vectors, label=c)


def sample_features(features: Tensor, mask: Tensor, priority: Tensor, *, most: int) -> Tensor:
    """Up to `most` vectors [n, F] of `features` [N, F, *space]: those with the highest `priority` where `mask` is 1.

    mask and priority [N, *space]; random priorities from 0 to 1 give a sample without replacement.
    """
    score, index = priority.masked_fill(mask < 0.5, -1.0).flatten().topk(min(most, priority.numel()))
    return features.detach().movedim(1, -1).flatten(0, -2)[index[score >= 0]].float()


def class_centres(memory: Tensor, new_vectors: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean direction [C, F] of the vectors of each class, and bool [C], true if it has any.

    memory [C, size, F'] of which the first F features are used, new_vectors one [n, F] a class.
    """
    width = new_vectors[0].shape[1]
    unit = [F.normalize(torch.cat([memory[c, :, :width].to(v.dtype), v]), dim=1) for c, v in enumerate(new_vectors)]
    counts = torch.stack([v.any(1).sum() for v in unit])  # rows of the memory that were never written are 0
    return torch.stack([v.sum(0) for v in unit]) / counts.clamp_min(1)[:, None], counts > 0


def class_distance(features: Tensor, classes: Tensor, centre: Tensor, has_centre: Tensor) -> Tensor:
    """Scalar: mean over classes c of the mean of 1 - cos(f, centre_c) over the voxels of c.

    features [N, F, *space], classes one-hot [N, C, *space], centre [C, F], has_centre bool [C].
    """
    unit = F.normalize(features.float(), dim=1)
    distance = 1.0 - torch.einsum("nf...,cf->nc...", unit, centre.to(unit.dtype))
    axes = (0, *range(2, classes.ndim))
    size = classes.sum(axes)
    present = ((size > 0) & has_centre).to(unit.dtype)
    return (present * (distance * classes).sum(axes) / size.clamp_min(1.0)).sum() / present.sum().clamp_min(1.0)
