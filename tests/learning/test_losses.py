"""Losses, pseudo-targets and target rules against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from method_samples import ConstantTeacher

from edgemt.contract import Step
from edgemt.learning import losses
from edgemt.learning.perturbations.intensity import GaussianNoise
from edgemt.learning.pseudo_labels import argmax_one_hot, largest_component, mc_probabilities, sharpen, signed_distance
from edgemt.learning.targets import ConfidenceThresholded, SoftTarget

DIMS = pytest.mark.parametrize("size", [(6, 5), (6, 5, 4)])


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(*shape: int, classes: int) -> torch.Tensor:
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(1))


@DIMS
def test_a_perfect_prediction_costs_nothing(size):
    label = labels(2, *size, classes=3)
    logits = losses.onehot(label, 3) * 40
    assert float(losses.dice_ce(logits, label)) < 1e-4
    for kind in ("mse", "kl", "ce", "dice", "dice_ce"):
        assert float(losses.consistency_loss(kind, logits, losses.onehot(label, 3))) < 1e-4


@DIMS
def test_dice_is_the_formula_with_squared_denominators(size):
    p, label = some(2, 3, *size).softmax(1), labels(2, *size, classes=3)
    q = losses.onehot(label, 3)
    want = 0.0
    for c in (1, 2):
        want += 1 - 2 * (p[:, c] * q[:, c]).sum() / (p[:, c].square().sum() + q[:, c].sum())
    torch.testing.assert_close(losses.dice(p, q), want / 2)


def test_dice_leaves_out_a_class_that_the_target_lacks():
    p = some(2, 3, 6, 6).softmax(1)
    q = losses.onehot(labels(2, 6, 6, classes=2), 3)
    torch.testing.assert_close(losses.dice(p, q), losses.dice(p[:, :2], q[:, :2]))


def test_dice_of_background_alone_is_zero_and_not_nan():
    p = some(1, 2, 6, 6).softmax(1)
    assert float(losses.dice(p, losses.onehot(torch.zeros(1, 6, 6, dtype=torch.int64), 2))) == 0.0


def test_cross_entropy_takes_labels_and_their_probabilities_alike():
    logits, label = some(2, 4, 6, 6), labels(2, 6, 6, classes=4)
    want = F.cross_entropy(logits, label)
    torch.testing.assert_close(losses.cross_entropy(logits, label), want)
    torch.testing.assert_close(losses.cross_entropy(logits, losses.onehot(label, 4)), want)


def test_kl_and_entropy_make_cross_entropy():
    log_p, q = some(2, 4, 6, 6).log_softmax(1), some(2, 4, 6, 6, seed=3).softmax(1)
    ce = -(q * log_p).sum(1, keepdim=True)
    torch.testing.assert_close(losses.kl(log_p, q) + losses.entropy(q), ce)


def test_entropy_runs_from_zero_to_ln_c():
    even, sure = torch.full((1, 5, 2, 2), 0.2), losses.onehot(torch.zeros(1, 2, 2, dtype=torch.int64), 5)
    assert losses.entropy(even).mean() == pytest.approx(math.log(5))
    assert float(losses.entropy(sure).abs().max()) == 0.0


def test_losses_of_half_precision_logits_are_float():
    logits = some(1, 2, 4, 4).to(torch.bfloat16)
    for kind in ("mse", "kl", "ce", "dice", "dice_ce"):
        value = losses.consistency_loss(kind, logits, torch.full((1, 2, 4, 4), 0.5))
        assert value.dtype == torch.float32 and torch.isfinite(value)


def test_an_unknown_distance_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="'l2'.*mse"):
        losses.consistency_loss("l2", some(1, 2, 4, 4), some(1, 2, 4, 4))


@DIMS
def test_a_student_that_is_its_teacher_pays_no_distillation(size):
    logits = some(2, 3, *size)
    assert abs(float(losses.temperature_kl(logits, logits, temperature=2))) < 1e-6
    assert abs(float(losses.cwd_loss(logits, logits, temperature=4))) < 1e-5
    assert abs(float(losses.dist_intra_class_loss(logits, logits))) < 1e-5


def test_temperature_kl_keeps_its_gradient_when_softened():
    teacher, sizes = some(2, 3, 6, 6), []
    for t in (4.0, 16.0):
        student = some(2, 3, 6, 6, seed=2).requires_grad_()
        losses.temperature_kl(student, teacher, temperature=t).backward()
        sizes.append(float(student.grad.norm()))
    assert 0.5 < sizes[1] / sizes[0] < 2


def test_channel_wise_is_the_mean_over_images_and_channels():
    student, teacher = some(2, 3, 4, 4), some(2, 3, 4, 4, seed=2)
    p, q = (x.flatten(2).div(4.0).softmax(2) for x in (student, teacher))
    want = 16.0 * (q * (q / p).log()).sum() / (2 * 3)
    torch.testing.assert_close(losses.cwd_loss(student, teacher, temperature=4.0), want)


def test_channel_wise_does_not_see_a_constant_added_to_a_channel():
    student, teacher = some(2, 3, 4, 4), some(2, 3, 4, 4, seed=2)
    there = losses.cwd_loss(student + 5, teacher, temperature=4.0)
    torch.testing.assert_close(there, losses.cwd_loss(student, teacher, temperature=4.0))


def test_the_boundary_band_is_where_the_class_changes():
    label = torch.zeros(1, 8, 8, dtype=torch.int64)
    label[..., 4:] = 1
    band = losses.boundary_band(losses.onehot(label, 2), radius=2)
    assert band[0, 0, 3].tolist() == [0, 0, 1, 1, 1, 1, 0, 0]


def test_sharpened_probabilities_still_sum_to_one_and_keep_their_order():
    p = some(2, 4, 5, 5).softmax(1)
    sharp = sharpen(p, temperature=0.2)
    torch.testing.assert_close(sharp.sum(1), torch.ones(2, 5, 5))
    assert torch.equal(argmax_one_hot(sharp), argmax_one_hot(p))
    assert (sharp.amax(1) >= p.amax(1)).all()


def test_stochastic_passes_are_one_forward_of_different_looks():
    net, calls = ConstantTeacher(torch.full((2, 1, 1), 0.5)), []
    net.register_forward_hook(lambda module, args, out: calls.append(args[0]))
    generator = torch.Generator().manual_seed(0)
    probs = mc_probabilities(net, torch.zeros(3, 1, 4, 4), GaussianNoise(), generator, num_passes=5)
    assert probs.shape[:2] == (5, 3)
    assert len(calls) == 1 and calls[0].unflatten(0, (5, 3)).std(0).min() > 0


@DIMS
def test_signed_distance_is_negative_inside_and_within_one(size):
    label = labels(2, *size, classes=3)
    sdf = signed_distance(label, classes=3)
    assert sdf.shape == (2, 2, *size)
    assert sdf.min() == -1 and sdf.max() == 1
    for c in (1, 2):
        assert torch.equal(sdf[:, c - 1] < 0, label == c)


def test_signed_distance_of_an_absent_class_is_one_and_of_a_full_one_minus_one():
    label = torch.ones(1, 4, 4, dtype=torch.int64)
    sdf = signed_distance(label, classes=3)
    assert (sdf[:, 0] == -1).all() and (sdf[:, 1] == 1).all()


@DIMS
def test_the_largest_piece_of_each_class_stays_and_only_that(size):
    label = torch.zeros(1, *size, dtype=torch.int64)
    label[0, 0:2, 0:2] = 1
    label[0, 5, 4] = 1
    label[0, 3, 0] = 2
    largest = largest_component(label, classes=3)
    assert int((largest == 1).sum()) == int((label[0, 0:2, 0:2] == 1).sum())
    assert torch.equal(largest == 2, label == 2)
    assert not largest[0, 5, 4].any()


def target_of(rule, p: np.ndarray | torch.Tensor):
    return rule(ConstantTeacher(torch.as_tensor(p, dtype=torch.float32)), torch.zeros(1, 1, 1, 4), Step(0, 10))


def test_a_soft_target_is_what_the_teacher_says():
    p = torch.tensor([[[0.9, 0.2, 0.5, 0.4]], [[0.1, 0.8, 0.5, 0.6]]])
    target = target_of(SoftTarget(), p)
    torch.testing.assert_close(target.probability[0], p)
    assert target.weight is None


def test_one_bar_for_all_starves_a_rare_class_and_a_bar_by_class_does_not():
    p = torch.tensor([[[0.99, 0.99, 0.99, 0.3]], [[0.01, 0.01, 0.01, 0.7]]])
    assert target_of(ConfidenceThresholded(confidence=0.9, by_class=False), p).weight.flatten().tolist() == [1, 1, 1, 0]
    assert target_of(ConfidenceThresholded(confidence=0.9), p).weight.flatten().tolist() == [1, 1, 1, 1]


def test_a_bar_by_class_never_falls_under_its_floor():
    p = torch.tensor([[[0.99, 0.99, 0.99, 0.45]], [[0.01, 0.01, 0.01, 0.55]]])
    assert target_of(ConfidenceThresholded(confidence=0.9, floor=0.6), p).weight.flatten().tolist() == [1, 1, 1, 0]


def test_a_bar_that_nothing_passes_is_refused():
    with pytest.raises(ValueError, match="confidence: 1.0"):
        ConfidenceThresholded(confidence=1.0)
