"""Weak views label strong ones: strong images, disturbed features, adversarial pushes, contrast of what is learnt."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgemt.contract import Batch, Head, Step
from edgemt.learning.losses import (
    Distance,
    dice,
    dice_ce,
    distance,
    entropy,
    focal_contrast,
    mse,
    onehot,
    probabilities,
    uncertain_mse,
    weighted_mean,
)
from edgemt.learning.method import Method, Terms, every_decoder
from edgemt.learning.perturbations import Box, DropChannels, Jitter, adversarial, cutmix, mixup_share
from edgemt.learning.pseudo_labels import hard, sharpen, soft
from edgemt.learning.roles import Ema, Players, Role, Trainable, bare, untracked
from edgemt.learning.schedules import Ramp
from edgemt.learning.student_teacher import Pair
from edgemt.methods.as_published import IN_UNIT_RANGE, Published
from edgemt.methods.mean_teacher import student_view

Label = tuple[Tensor, Tensor]  # hard labels [U, C, *space] and where they are believed [U, 1, *space]


def believed(logits: Tensor, *, confidence: float) -> Label:
    """The most likely class where its probability passes the bar; no gradient."""
    p = probabilities(logits.detach())
    return hard(p), (p.amax(1, keepdim=True) >= confidence).to(p.dtype)


def cut(box: Tensor, label: Label) -> Label:
    return cutmix(box, label[0]), cutmix(box, label[1])


@dataclass(frozen=True)
class UniMatch(Method):
    """Confident labels of the weak view teach two strong views and one with disturbed features.

    Follows the release for ACDC: confidence 0.95, Dice, weights 0.25, 0.25 and 0.5, half the channels dropped, CutMix
    from other unlabelled images, brightness and contrast of the second strong view from 0.5 to 1.5 in four images of
    five. At 0.95 the threshold filters little where the background rules: 98 % of the voxels of heart slices passed
    while Dice was 0.45. The term `accepted` in the log is that share, and a run that ends above 95 % gives notice.

    Target: the student's own hard labels of the weak view, above a threshold.

    Differs: the whole loss is not halved. The first strong view is the batch's, with its own ranges; the second has no
    blur; CutMix takes the other image from the same batch; one forward serves all views; an average of the student is
    delivered, as for the supervised control.
    """

    heads: ClassVar[tuple[Head, ...]] = ("disturb",)
    delivers: ClassVar[str] = "average"
    release: ClassVar[Published | None] = IN_UNIT_RANGE
    citation: ClassVar[str] = "Yang et al., CVPR 2023, Revisiting weak-to-strong consistency in segmentation (UniMatch)"
    confidence: float = 0.95
    distance: Distance = "dice"
    strong: float = 0.25  # of each strong view
    features: float = 0.5  # of the view with disturbed features
    drop: float = 0.5
    jitter: Jitter = field(default_factory=Jitter)
    box: Box = field(default_factory=Box)
    ema: Ema = field(default_factory=lambda: Ema(mode="eval"))

    def roles(self) -> dict[str, Role]:
        return {"student": Trainable(), "average": self.ema}

    def losses(self, nets: Players, batch: Batch, step: Step) -> Terms:
        count, rows, weak = batch.count, len(batch.unlabelled), batch.unlabelled
        if not rows:
            return Terms(supervised=dice_ce(nets.student(batch.labelled).logits, batch.label))
        boxes = [self.box.draw(weak, step.generator) for _ in range(2)]
        views = zip(boxes, (student_view(batch, strong=True), self.jitter(weak, step.generator)), strict=True)
        image = torch.cat([batch.image, weak, *(cutmix(box, view) for box, view in views)])
        dropout = DropChannels(self.drop, count + rows, count + 2 * rows, step.generator)
        # Bound, as an engine searches a dataclass that it is given for tensors.
        logits = nets.student(image, disturb=dropout.__call__).logits
        said, dropped, *strong = logits[count:].chunk(4)
        label = believed(said, confidence=self.confidence)
        gaps = [self.apart(pupil, cut(box, label)) for pupil, box in zip(strong, boxes, strict=True)]
        terms = Terms(
            supervised=dice_ce(logits[:count], batch.label),
            strong=self.strong * torch.stack(gaps).sum(),
            features=self.features * self.apart(dropped, label),
        )
        terms.notes["accepted"] = label[1].mean()
        return terms

    def apart(self, logits: Tensor, label: Label) -> Tensor:
        return distance(self.distance, logits, label[0], weight=label[1])


@dataclass(frozen=True)
class CrossMatch(UniMatch):
    """Two strong views, and weakly and strongly disturbed features that learn from the clean ones.

    Follows the LA script: channels dropped at 0.25 and 0.75; Dice; strong views 0.25 each; self-distillation 0.7 times
    the mean of four (the clean word to both disturbed ones, on the weak and on the second strong view) plus 0.3 times
    the mean of two (each disturbed word of the weak view to its like on the strong).

    Target: the student's own hard labels of the weak view, clean and disturbed, above a bar.

    Differs: the release multiplies a rising bar by ln 2 and so passes almost everything; here the bar is `confidence`
    as it stands. Views, CutMix and what is delivered are as in `unimatch`.
    """

    citation: ClassVar[str] = "Zhao et al., IEEE JBHI 2024, CrossMatch: perturbation strategies and distillation"
    confidence: float = 0.75
    features: float = 1.0
    drop: float = 0.5  # the mean of the two rates
    gap: float = 0.5  # between them
    eta: float = 0.3

    def losses(self, nets: Players, batch: Batch, step: Step) -> Terms:
        count, rows, weak = batch.count, len(batch.unlabelled), batch.unlabelled
        if not rows:
            return Terms(supervised=dice_ce(nets.student(batch.labelled).logits, batch.label))
        first, second = (self.box.draw(weak, step.generator) for _ in range(2))
        jittered = cutmix(second, self.jitter(weak, step.generator))
        view = torch.cat([weak, jittered])
        image = torch.cat([batch.labelled, cutmix(first, student_view(batch, strong=True)), view, view, view])
        logits = nets.student(image, disturb=self.disturbed(count + 3 * rows, 2 * rows, step)).logits
        strong, said, mixed, *disturbed = logits[count:].chunk(7)
        label = believed(said, confidence=self.confidence)
        moved = cut(second, label)
        cost = self.apart(strong, cut(first, label)) + self.apart(mixed, moved)
        told, like = [], []
        for of_weak, of_strong in (disturbed[:2], disturbed[2:]):
            told += [self.apart(of_weak, label), self.apart(of_strong, moved)]
            own = cut(second, believed(of_weak, confidence=self.confidence))
            like += [self.apart(of_strong, own)]
        distilled = (1.0 - self.eta) * torch.stack(told).mean() + self.eta * torch.stack(like).mean()
        supervised = dice_ce(logits[:count], batch.label)
        terms = Terms(supervised=supervised, strong=self.strong * cost, features=self.features * distilled)
        terms.notes["accepted"] = label[1].mean()
        return terms

    def disturbed(self, start: int, rows: int, step: Step) -> Callable[[Tensor], Tensor]:
        """Drops channels weakly in `rows` rows from `start` and strongly in as many behind them."""
        low, high = self.drop - self.gap / 2, self.drop + self.gap / 2
        weakly = DropChannels(low, start, start + rows, step.generator)
        strongly = DropChannels(high, start + rows, start + 2 * rows, step.generator)
        return lambda x: strongly(weakly(x))


@dataclass(frozen=True)
class CrossHead(Pair):
    """CMMT-Net: two heads follow the other head of their average, under noise, pushes and mixtures.

    Sharpened squared error (T 0.1, ramped up), Dice with the other head's hard labels, adversarial smoothness (VAT,
    reach 10), all weight 1 as released, and mixtures of labelled and unlabelled images.

    Target: the average's other head, sharpened and as hard labels, trusted everywhere.

    Differs: the released code does not run (the mixing share is undefined), never uses the mixed outputs and takes
    cross-entropy of a softmax; here mixtures are compared with the mixture of label and teacher, and labels are learnt
    with Dice and cross-entropy.
    """

    heads: ClassVar[tuple[Head, ...]] = ("decoder2",)
    citation: ClassVar[str] = "Li et al., CMMT-Net: cross-head mutual mean-teaching for segmentation"
    ramp: Ramp = field(default_factory=lambda: Ramp(top=1.0))
    temperature: float = 0.1
    pseudo: float = 1.0
    push: float = 1.0
    mixed: float = 1.0
    reach: float = 10.0
    alpha: float = 0.5

    def compared(self, nets: Players, batch: Batch, step: Step) -> Terms:
        count, rows, weak = batch.count, len(batch.unlabelled), batch.unlabelled
        heads = both(nets.student, batch.image)
        terms = Terms(supervised=mean(dice_ce(head[:count], batch.label) for head in heads))
        with torch.no_grad():
            wise = [probabilities(h) for h in both(nets.teacher, self.noise(weak, step.generator))]
        said = [probabilities(head[count:]) for head in heads]
        pairs = list(zip(said, wise[::-1], strict=True))
        gaps = (mse(p, sharpen(q, temperature=self.temperature)).mean() for p, q in pairs)
        own = [p.detach() for p in said]

        def moved(image: Tensor, student: nn.Module) -> Tensor:
            return mean(dice(probabilities(h), p) for h, p in zip(both(student, image), own, strict=True))

        calmly = partial(moved, student=bare(nets.student))
        with untracked(nets.student):
            pushed = weak + adversarial(calmly, weak, step.generator, reach=self.reach, probe=self.reach)
            push = moved(pushed, nets.student)
        partner = torch.arange(rows, device=weak.device) % count
        share = mixup_share(weak, step.generator, alpha=self.alpha)
        image = torch.lerp(weak, batch.labelled[partner], share)
        truth = onehot(batch.label[partner], wise[0].shape[1]).to(wise[0].dtype)
        targets = [torch.lerp(q, truth, share.to(q.dtype)) for q in wise[::-1]]
        terms["consistency"] = self.ramp(step) * mean(gaps)
        terms["pseudo"] = self.ramp(step) * self.pseudo * mean(dice(p, hard(q)) for p, q in pairs)
        terms["push"] = self.ramp(step) * self.push * push
        mixtures = zip(both(nets.student, image), targets, strict=True)
        terms["mixed"] = self.ramp(step) * self.mixed * mean(distance("mse", h, q) for h, q in mixtures)
        return terms


def both(network: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the main decoder and of the second one."""
    logits = every_decoder(network(image))
    return logits[0], logits[-1]


def mean(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean()


@dataclass(frozen=True)
class UncertaintyContrast(Pair):
    """DyCON: agreement that discounts doubt less and less; features that part classes where in doubt.

    `beta` falls geometrically from 5 to 0.5 over the run, weight 0.5 for both losses beside cross-entropy plus Dice
    (0.25 beside their mean), and a mean-teacher term; T 0.6, focus 2.

    Target: the average's softmax, discounted by the doubt of both.

    Differs: the release, read in a public copy, contrasts patches of unlabelled images by their true labels, which is
    a leak: here the teacher labels them. Its focal weight of negatives multiplies positive pairs only and has no
    effect, and its doubt mask is switched off; here positives are focal and places weigh by entropy, as in the paper.
    Features are the decoder's last map averaged over a coarse grid, where the release projects the deepest one; its
    extra teacher negatives are left out.
    """

    heads: ClassVar[tuple[Head, ...]] = ("features",)
    citation: ClassVar[str] = "Assefa et al., CVPR 2025, DyCON: dynamic uncertainty-aware consistency and contrast"
    weight: float = 0.25
    beta: tuple[float, float] = (5.0, 0.5)
    temperature: float = 0.6
    focus: float = 2.0
    grid: int = 8  # places along each axis

    def compared(self, nets: Players, batch: Batch, step: Step) -> Terms:
        count, out = batch.count, nets.student(batch.image)
        terms = Terms(supervised=dice_ce(out.logits[:count], batch.label))
        p, q = probabilities(out.logits), soft(nets.teacher, self.noise(batch.image, step.generator))
        beta = self.beta[0] * (self.beta[1] / self.beta[0]) ** step.share
        terms["consistency"] = self.ramp(step) * mse(p[count:], q[count:]).mean()
        terms["uncertainty"] = self.weight * uncertain_mse(p, q, beta=beta).mean()
        truth = onehot(batch.label, p.shape[1]).to(q.dtype)
        # Where a place holds two classes alike the teacher decides, not the order of classes.
        place = coarse(torch.cat([truth, q[count:]]) + 1e-3 * q, grid=self.grid).argmax(1)
        features, doubt = (coarse(x, grid=self.grid) for x in (out.features, entropy(p.detach())))
        cost = focal_contrast(features, place, temperature=self.temperature, focus=self.focus)
        terms["contrast"] = self.weight * weighted_mean(cost, doubt[:, 0])
        return terms


def coarse(x: Tensor, *, grid: int) -> Tensor:
    """[N, K, *space] -> [N, K, V]: means over at most `grid` places along each axis."""
    size = tuple(min(grid, side) for side in x.shape[2:])
    pool = nn.AdaptiveAvgPool3d(size) if x.ndim == 5 else nn.AdaptiveAvgPool2d(size)
    return pool(x).flatten(2)
