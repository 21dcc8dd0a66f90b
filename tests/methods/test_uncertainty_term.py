"""The uncertainty term of the distillation: its formula, what it needs, and keys without it while it is off."""

from __future__ import annotations

import pytest
import torch

import students
from edgemt.artefacts import stage_folder
from edgemt.contract import IGNORE, Batch, LabelRules, Step
from edgemt.learning.label_rules import label_rules
from edgemt.learning.roles import Networks
from edgemt.learning.uncertainty_term import uncertainty_loss
from edgemt.methods.distillation import Distillation


def test_labelled_rows_learn_their_errors_and_unlabelled_ones_the_deviation() -> None:
    logits = torch.tensor([[[[2.0, 2.0]], [[0.0, 0.0]]], [[[0.0, 0.0]], [[1.0, 1.0]]]])  # classes 0 0, then 1 1
    label, deviation = torch.tensor([[[0, 1]]]), torch.tensor([[[0.25, 0.5]]])
    u = torch.tensor([[[[-1.0, 0.5]]], [[[0.0, -2.0]]]])
    p, t = u[:, 0].sigmoid(), torch.tensor([[[0.0, 1.0]], [[0.25, 0.5]]])
    wanted = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
    torch.testing.assert_close(uncertainty_loss(u, logits, label, deviation), wanted)


def test_of_overlapping_classes_a_pixel_is_wrong_where_any_of_them_is() -> None:
    logits = torch.tensor([[[[2.0, 2.0, -1.0, 0.5]], [[-1.0, 3.0, -2.0, -0.5]]], [[[0.0] * 4], [[1.0] * 4]]])
    label = torch.tensor([[[1, 1, 0, IGNORE]]])  # decided: 1, 3, 0, 1
    deviation, u = torch.tensor([[[0.25, 0.5, 0.0, 1.0]]]), torch.randn(2, 1, 1, 4)
    t = torch.tensor([[[0.0, 1.0, 0.0, 0.0]], [[0.25, 0.5, 0.0, 1.0]]])
    p, counts = u[:, 0].sigmoid(), torch.tensor([[[1.0, 1, 1, 0]], [[1.0] * 4]])
    each = -(t * p.log() + (1 - t) * (1 - p).log())
    with label_rules(LabelRules(ignore=True, overlapping=True)):
        found = uncertainty_loss(u, logits, label, deviation)
    torch.testing.assert_close(found, (each * counts).sum() / counts.sum())


def test_the_loss_is_least_where_the_head_predicts_the_mean_of_its_targets() -> None:
    u = torch.zeros(2, 1, 1, 4, requires_grad=True)
    label, deviation = torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0.1, 0.2, 0.3, 0.4]]])
    same = torch.full((), 0.375).logit()  # mean of 0, 0, 1, 1 and the four deviations
    uncertainty_loss(
        u + same, torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(2, 2, 1, 4), label, deviation
    ).backward()
    assert u.grad is not None and u.grad.sum().abs() < 1e-6


def test_distillation_trains_the_head_and_leaves_the_other_gradients_alone() -> None:
    torch.manual_seed(0)
    image = torch.randn(4, 3, 64, 64)
    soft, label = torch.rand(4, 2, 64, 64).softmax(1), torch.randint(0, 2, (2, 64, 64))
    batch = Batch(image, label, image[2:], soft, deviation=torch.rand(4, 64, 64))
    gradients = []
    for weight in (0.0, 1.0):
        method = Distillation(teacher_source="bank", uncertainty=weight, separate_streams=True)
        torch.manual_seed(1)
        network = students.build("test_efficientnet", channels=3, classes=2, heads=method.heads).train()
        nets = Networks({"student": network, "average": network})
        terms = method.losses(nets, batch, Step(0, 10, torch.Generator().manual_seed(0)))
        assert ("uncertainty" in terms) == bool(weight)
        torch.stack(list(terms.values())).sum().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
    assert gradients[1]["uncertainty.1.bias"].abs().max() > 0


def test_it_needs_a_bank_with_the_variance_of_several_teachers() -> None:
    with pytest.raises(ValueError, match="set teacher_source to 'bank'"):
        Distillation(uncertainty=1.0)
    with pytest.raises(ValueError, match="uncertainty: -1"):
        Distillation(teacher_source="bank", uncertainty=-1.0)


def test_off_it_is_in_no_key() -> None:
    assert Distillation().heads == () and "uncertainty" not in stage_folder.plain(Distillation())
    assert stage_folder.plain(Distillation(teacher_source="bank", uncertainty=1.0))["uncertainty"] == 1.0
