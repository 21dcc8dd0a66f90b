"""Mean teachers whose networks have a second task: the signed distance to each organ.

Shapes: N batch, L labelled, U unlabelled, C classes, F features, T passes, *space 2 or 3 axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import cross_entropy, dice, dice_ce, entropy, mse, onehot, probabilities, weighted_mean
from edgemt.learning.method import Terms, every_scale
from edgemt.learning.perturbations import Noise
from edgemt.learning.pseudo_labels import joined, looks, passes, signed_distance
from edgemt.learning.roles import Players
from edgemt.learning.schedules import Ramp
from edgemt.learning.student_teacher import Pair
from edgemt.methods.tasks import mask_of
from edgemt.methods.uncertainty import steady_features


@dataclass(frozen=True)
class MutualTasks(Pair):
    """UG-MCL: the student follows a certain teacher, and its distances tell the same masks as its classes.

    Follows the release: 0.5 (cross-entropy + Dice + Dice of the mask that the distance gives), half the masked MSE as
    in UA-MT, the squared gap between the two tasks, weights 0.1 rising over the whole run, all rows. Masks are
    sigmoid(-1500 distance): steep, so that slopes reach a few voxels near a border.

    Target: the average's softmax, where several looks of it are certain; and the student's other task.

    Differs: one distance a foreground class, where the release has one for the background too; the bar is a share of
    ln C, where it has ln 2.
    """

    heads: ClassVar[tuple[Head, ...]] = ("sdf",)
    citation: ClassVar[str] = "Zhang et al., AIIM 2023, Uncertainty-guided mutual consistency learning (UG-MCL)"
    ramp: Ramp = field(default_factory=lambda: Ramp(length=1.0))
    passes: int = 8
    bar: Ramp = field(default_factory=lambda: Ramp(top=1.0, start=0.75, length=1.0))
    steepness: float = 1500.0

    def compared(self, nets: Players, batch: Batch, step: Step) -> Terms:
        out, count, weight = nets.student(batch.image), batch.count, self.ramp(step)
        p = probabilities(out.logits)
        mask = mask_of(out.sdf, steepness=self.steepness)
        seen = passes(nets.teacher, batch.image, self.noise, step.generator, times=self.passes + 1)
        doubt = entropy(seen[1:].mean(0))
        certain = (doubt <= self.bar(step) * math.log(p.shape[1])).to(p.dtype)
        truth = onehot(batch.label, p.shape[1])
        shape = dice(mask[:count], truth[:, 1:], background=True)
        terms = Terms(
            supervised=0.5 * (cross_entropy(out.logits[:count], batch.label) + dice(p[:count], truth)),
            supervised_shape=0.5 * shape,
            consistency=weight * 0.5 * weighted_mean(mse(p, seen[0]), certain),
            tasks=weight * mse(mask, p[:, 1:]).mean(),
        )
        terms.notes["accepted"] = certain.mean()
        return terms


@dataclass(frozen=True)
class TripledUncertainty(Pair):
    """Tri-U-MT: three tasks follow the teacher's mean of several looks, each by its own uncertainty.

    Follows the release: eight looks at noise 0.02, classes weighed by 1 - H and regressions by e^-variance, weights
    0.1 ramped up, distances of labelled rows from labels and, at 0.1, of the others from the student's own mask.

    Target: the mean softmax, distances and features of several looks of the average, by certainty.

    Differs: the third task, to reconstruct the foreground, needs a head of its own and is left out; consistency of
    features stands in its place. Dice with cross-entropy where it has Dice.
    """

    heads: ClassVar[tuple[Head, ...]] = ("sdf", "features")
    citation: ClassVar[str] = "Wang et al., MedIA 2022, Segmentation via a tripled-uncertainty guided mean teacher"
    noise: Noise = field(default_factory=lambda: Noise(std=0.02))
    passes: int = 8
    own: float = 0.1

    def compared(self, nets: Players, batch: Batch, step: Step) -> Terms:
        out, count, weight = nets.student(batch.image), batch.count, self.ramp(step)
        p = probabilities(out.logits)
        seen = looks(nets.teacher, batch.image, self.noise, step.generator, times=self.passes)
        target = probabilities(seen.logits.flatten(0, 1)).view(seen.logits.shape).mean(0)
        sure = 1 - entropy(target) / math.log(p.shape[1])
        features, steady, size = steady_features(seen)
        assert out.sdf is not None and seen.sdf is not None and out.features is not None
        far = weighted_mean((out.sdf - seen.sdf.mean(0)).square(), torch.exp(-seen.sdf.var(0, correction=0)))
        gap = (out.features - features).square().flatten(2).mean(2) / size
        truth = signed_distance(torch.cat([batch.label, p[count:].argmax(1)]), classes=p.shape[1])
        return Terms(
            supervised=dice_ce(out.logits[:count], batch.label),
            distance=(out.sdf[:count] - truth[:count]).square().mean(),
            own=self.own * (out.sdf[count:] - truth[count:]).square().mean(),
            consistency=weight * weighted_mean(mse(p, target), sure),
            far=weight * far,
            features=weight * weighted_mean(gap, steady),
        )


@dataclass(frozen=True)
class Aggregation(Pair):
    """Inspired by adaptive feature aggregation: each decoder depth follows the teacher's depths joined.

    The teacher's scales are put together voxel by voxel, each by how sure it is there (e^-H), and a second task, the
    signed distance, is learnt from labels and followed beside it.

    Target: the average's scales joined by certainty, and its signed distances.

    Differs: of the paper only a survey's sentence is known; weights are ours, that of the distance is DTC's.
    """

    inspired: ClassVar[bool] = True
    heads: ClassVar[tuple[Head, ...]] = ("sdf", "scales")
    citation: ClassVar[str] = "Inspired by multi-task mean teachers with adaptive feature aggregation (survey)"
    shape: float = 0.3  # of the distance on labelled rows, as in DTC

    def compared(self, nets: Players, batch: Batch, step: Step) -> Terms:
        out, count, weight = nets.student(batch.image), batch.count, self.ramp(step)
        with torch.no_grad():
            wise = nets.teacher(self.noise(batch.unlabelled, step.generator))
            target = joined(torch.stack([probabilities(x) for x in every_scale(wise)]))
        scales = every_scale(out)
        truth = signed_distance(batch.label, classes=target.shape[1])
        gaps = [mse(probabilities(x[count:]), target).mean() for x in scales]
        return Terms(
            supervised=torch.stack([dice_ce(x[:count], batch.label) for x in scales]).mean(),
            distance=self.shape * (out.sdf[:count] - truth).square().mean(),
            consistency=weight * torch.stack(gaps).mean(),
            far=weight * (out.sdf[count:] - wise.sdf).square().mean(),
        )
