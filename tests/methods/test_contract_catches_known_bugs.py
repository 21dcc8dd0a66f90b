"""Bugs found in published code, planted again: the contract of a method must catch each of them.

Which project each was seen in is in the name of the class or the comment beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import pytest
import torch
import torch.nn.functional as F
from target_rule_checks import check_masked_voxels_do_not_count, check_the_bar_knows_the_number_of_classes

from edgemt.learning import roles
from edgemt.learning.ema import Ema
from edgemt.learning.losses import consistency_loss, dice, dice_ce, mse, onehot, probabilities, weighted_mean
from edgemt.learning.method import LossTerms
from edgemt.learning.perturbations.intensity import GaussianNoise
from edgemt.learning.targets import PseudoTarget, SoftTarget, UncertaintyMasked
from edgemt.methods import METHODS
from edgemt.methods.cps import CPS
from edgemt.methods.dan import DAN
from edgemt.methods.mean_teacher import MeanTeacher
from edgemt.testing.check_losses import (
    check_class_permutation_invariance,
    check_discriminator_targets,
    check_every_loss_has_gradient,
    check_finite,
    check_named_losses_reach_one_network,
    check_targets_are_detached,
    check_unlabelled_images_have_gradient,
)
from edgemt.testing.check_players import (
    check_ema_converges,
    check_no_global_rng,
    check_only_trainable_networks_change,
)
from edgemt.testing.tiny_training import TinyTrainer


def caught(match: str):
    return pytest.raises(AssertionError, match=match)


# --- averages ---


@dataclass(frozen=True)
class OutOfPlace(Ema):
    """PyMIC: scales in place, adds out of place; the student's share is lost and the teacher fades."""

    @torch.no_grad()
    def update(self, average, sources, step):
        rate = self.rate(step)
        for mine, theirs in zip(average.parameters(), sources[0].parameters(), strict=True):
            mine.mul_(rate).add(theirs, alpha=1 - rate)


@dataclass(frozen=True)
class WithoutBuffers(Ema):
    """UA-MT, SSL4MIS, BCP: weights are averaged, batch-norm statistics are not."""

    @torch.no_grad()
    def update(self, average, sources, step):
        for mine, theirs in zip(average.parameters(), sources[0].parameters(), strict=True):
            mine.lerp_(theirs, 1 - self.rate(step))


@pytest.mark.parametrize("ema", [OutOfPlace(), WithoutBuffers(mode="eval"), WithoutBuffers(), Ema(buffers="own")])
def test_a_wrong_average_is_caught(ema):
    method = MeanTeacher(ema=ema)
    with caught("does not become"):
        check_ema_converges(method)


def test_an_average_that_blends_in_its_own_statistics_is_caught(monkeypatch):
    monkeypatch.setattr(roles, "_track", lambda network, on: None)
    with caught("does not become"):
        check_ema_converges(METHODS["mean_teacher"])


# --- gradients ---


@dataclass(frozen=True)
class Attached(SoftTarget):
    def __call__(self, teacher, image, step):
        return PseudoTarget(probabilities(teacher(image).logits))


def test_a_target_with_a_gradient_is_caught():
    with caught("a gradient reached it"):
        check_targets_are_detached(MeanTeacher(target=Attached()))


@dataclass(frozen=True)
class SoftPeers(CPS):
    """MC-Net: the peer's soft target is not detached."""

    def losses(self, nets, batch, step):
        p = {who: probabilities(nets[who](batch.image).logits)[batch.count :] for who in ("student", "peer")}
        return LossTerms(pseudo_student=mse(p["student"], p["peer"]).mean())


def test_contract_detects_gradient_into_peer_network():
    with caught("reaches peer"):
        check_named_losses_reach_one_network(SoftPeers())


@dataclass(frozen=True)
class NoGradient(MeanTeacher):
    """ASE-Net: Dice of an output that was made under no_grad."""

    def losses(self, nets, batch, step):
        terms = super().losses(nets, batch, step)
        with torch.no_grad():
            p = probabilities(nets.student(batch.unlabelled).logits)
        return LossTerms(**terms, shape=dice(p, probabilities(nets.teacher(batch.unlabelled).logits)))


def test_a_loss_without_gradient_is_caught():
    with caught("shape: has no gradient"):
        check_every_loss_has_gradient(NoGradient())


@dataclass(frozen=True)
class DividedByItself(MeanTeacher):
    """SemiSAM+: a loss over itself is 1, whatever the student says."""

    def losses(self, nets, batch, step):
        terms = super().losses(nets, batch, step)
        terms["consistency"] = terms["consistency"] / terms["consistency"]
        return terms


def test_a_loss_divided_by_itself_is_caught():
    with caught("consistency: its gradient is"):
        check_every_loss_has_gradient(DividedByItself())


@dataclass(frozen=True)
class Blind(MeanTeacher):
    """A consistency computed on the labelled rows: the unlabelled images are loaded and never used."""

    def losses(self, nets, batch, step):
        pseudo_probs, target = (probabilities(n(batch.labelled).logits) for n in (nets.student, nets.teacher))
        return LossTerms(
            supervised=dice_ce(pseudo_probs.log(), batch.label), consistency=mse(pseudo_probs, target).mean()
        )


def test_unlabelled_images_that_are_never_used_are_caught():
    with caught("make no difference"):
        check_unlabelled_images_have_gradient(Blind())


# --- confidence ---


@dataclass(frozen=True)
class LnTwo(UncertaintyMasked):
    """CrossMatch, UA-MT: the bar is a share of ln 2, whatever the number of classes."""

    def __call__(self, teacher, image, step):
        right = super().__call__(teacher, image, step)
        ramp, ratio = self.entropy_threshold, math.log(2) / math.log(right.probability.shape[1])
        two = replace(ramp, top=ramp.top * ratio, start=ramp.start * ratio)
        return UncertaintyMasked(self.noise, self.passes, two)(teacher, image, step)


@pytest.mark.parametrize("classes", [2, 3, 4, 9])
def test_the_bar_of_the_real_rule_knows_the_number_of_classes(classes):
    check_the_bar_knows_the_number_of_classes(UncertaintyMasked(), classes=classes)


def test_a_bar_of_ln_2_is_caught():
    check_the_bar_knows_the_number_of_classes(LnTwo(), classes=2)
    with caught("still refused"):
        check_the_bar_knows_the_number_of_classes(LnTwo(), classes=4)


def masked_in_the_mean(kind, logits, q, *, weight=None):
    """Weighted, but divided by the number of all voxels."""
    if kind != "mse":
        return consistency_loss(kind, logits, q, weight=weight)
    gap = mse(probabilities(logits), q)
    return (gap * (1.0 if weight is None else weight)).mean()


def loser_times_zero(kind, logits, q, *, weight=None):
    """CDS: the loser's logits times 0 are an even guess, and are taught as one."""
    return consistency_loss(kind, logits if weight is None else logits * weight, q)


def whole_image_dice(kind, logits, q, *, weight=None):
    """BCP on ACDC: Dice over the whole image, where only a region was to count."""
    if kind != "dice":
        return consistency_loss(kind, logits, q, weight=weight)
    return dice(probabilities(logits), q)


def test_the_real_distances_do_not_count_masked_voxels():
    check_masked_voxels_do_not_count()


@pytest.mark.parametrize(
    ("far", "complaint"),
    [
        (masked_in_the_mean, "in the mean"),
        (loser_times_zero, "in the mean|behind the mask"),
        (whole_image_dice, "behind the mask"),
    ],
)
def test_masked_voxels_that_count_are_caught(far, complaint):
    with caught(complaint):
        check_masked_voxels_do_not_count(far)


# --- classes and rows ---


@dataclass(frozen=True)
class ForegroundIsOne(MeanTeacher):
    """Most binary code: foreground means channel 1."""

    def losses(self, nets, batch, step):
        p = probabilities(nets.student(batch.image).logits)[:, 1:2]
        label = onehot(batch.label, 2 if batch.label.max() < 2 else int(batch.label.max()) + 1)[:, 1:2]
        return LossTerms(supervised=dice(p[: batch.count], label, background=True))


def test_contract_detects_class_order_dependence():
    with caught("depends on the order of classes"):
        check_class_permutation_invariance(ForegroundIsOne())


@dataclass(frozen=True)
class TwoAndTwo(DAN):
    """DAN in SSL4MIS: the discriminator's truth is written down as 1, 1, 0, 0."""

    def steps(self, nets, batch, step):
        (who, terms), _ = super().steps(nets, batch, step)
        yield who, terms
        judged = nets.discriminator(probabilities(nets.student(batch.image).logits).detach(), batch.image)
        yield ("discriminator",), LossTerms(discriminator=F.cross_entropy(judged, torch.tensor([1, 1, 0, 0])))


def test_a_truth_written_down_for_two_and_two_rows_is_caught():
    with caught("loss of a perfect discriminator"):
        check_discriminator_targets(TwoAndTwo())
    with pytest.raises(ValueError, match="batch"):
        check_finite(TinyTrainer(TwoAndTwo()), labelled=3, unlabelled=3)


# --- state and chance ---


@dataclass(frozen=True)
class GlobalNoise(GaussianNoise):
    def __call__(self, image, generator):
        return image + torch.randn_like(image) * self.std


def test_noise_from_the_global_generator_is_caught():
    with caught("global generator"):
        check_no_global_rng(MeanTeacher(target=SoftTarget(noise=GlobalNoise())))


@dataclass(frozen=True)
class Awake(MeanTeacher):
    """A frozen guide put into train mode: its batch-norm statistics drift though its weights are frozen."""

    target: SoftTarget = field(default_factory=SoftTarget)

    def roles(self):
        return {**super().roles(), "guide": roles.Frozen()}

    def losses(self, nets, batch, step):
        nets.guide.train()(batch.unlabelled)
        return super().losses(nets, batch, step)


def test_a_frozen_player_whose_statistics_drift_is_caught():
    with caught("a frozen player changed"):
        check_only_trainable_networks_change(Awake())


def test_weighted_mean_of_nothing_is_zero_and_not_nan():
    assert float(weighted_mean(torch.ones(2, 1, 4, 4), torch.zeros(2, 1, 4, 4))) == 0.0
