"""Losses of overlapping classes against formulas written out by hand, and against softmax of two classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from edgemt.contract import IGNORE, LabelRules, Output, Step  # noqa: E402
from edgemt.learning import losses  # noqa: E402
from edgemt.learning.ensemble import Ensemble  # noqa: E402
from edgemt.learning.label_rules import label_rules  # noqa: E402
from edgemt.learning.targets import ConfidenceThresholded, UncertaintyMasked  # noqa: E402
from edgemt.methods import METHODS, takes_overlapping_classes  # noqa: E402
from edgemt.testing.tiny_training import TinyTrainer, random_batch  # noqa: E402

RULES = LabelRules(overlapping=True)
CLASSES = 3
TAKEN = [name for name, method in METHODS.items() if takes_overlapping_classes(method)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(seed: int = 0) -> Tensor:
    return torch.randint(0, 1 << CLASSES, (2, 6, 5), generator=torch.Generator().manual_seed(seed))


def test_a_label_has_a_bit_for_each_class() -> None:
    with label_rules(RULES):
        hot = losses.onehot(torch.tensor([[0, 1, 2, 5]]), CLASSES)
    assert hot[0].T.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 1]]


def test_cross_entropy_and_dice_are_those_of_each_class() -> None:
    logits, label = draw(2, CLASSES, 6, 5), labels()
    with label_rules(RULES):
        q = losses.onehot(label, CLASSES)
        found, overlap = losses.cross_entropy(logits, label), losses.dice(losses.probabilities(logits), q)
    assert found == pytest.approx(float(F.binary_cross_entropy_with_logits(logits, q)), rel=1e-5)
    p = logits.sigmoid()
    each = 1 - 2 * (p * q).sum((0, 2, 3)) / (p.square() + q.square()).sum((0, 2, 3))
    assert float(overlap) == pytest.approx(float(each.mean()), rel=1e-4)


@pytest.mark.parametrize("kind", ["mse", "kl", "ce"])
def test_one_class_alone_has_the_distance_of_a_softmax_of_two(kind: Any) -> None:
    z, q = draw(2, 1, 6, 5), draw(2, 1, 6, 5, seed=1).sigmoid()
    pair = torch.cat([torch.zeros_like(z), z], 1)
    wanted = losses.consistency_loss(kind, pair, torch.cat([1 - q, q], 1))
    with label_rules(RULES):
        assert float(losses.consistency_loss(kind, z, q)) == pytest.approx(float(wanted), rel=1e-4)
        halved = losses.temperature_kl(z, q.logit(), temperature=2.0)
    wanted = losses.temperature_kl(pair, torch.cat([torch.zeros_like(q), q.logit()], 1), temperature=2.0)
    assert float(halved) == pytest.approx(float(wanted), rel=1e-4)


def test_kl_stays_finite_where_both_are_certain() -> None:
    z = torch.tensor([-200.0, -30.0, 0.0, 30.0, 200.0]).view(1, 1, 1, 5).requires_grad_()
    with label_rules(RULES):
        loss = losses.consistency_loss("kl", z, torch.tensor([0.0, 1.0, 0.5, 0.0, 1.0]).view(1, 1, 1, 5))
    loss.backward()
    assert loss.isfinite() and z.grad is not None and z.grad.isfinite().all()
    assert float(loss.detach()) == pytest.approx(60 / 5, rel=1e-3)


def test_ignored_pixels_and_weights_of_classes_count() -> None:
    logits, label = draw(2, CLASSES, 6, 5), labels()
    label[:, :3] = IGNORE
    with label_rules(LabelRules(ignore=True, overlapping=True)):
        found = losses.dice_ce(logits, label)
    with label_rules(RULES):
        wanted = losses.dice_ce(logits[:, :, 3:], label[:, 3:])
    assert float(found) == pytest.approx(float(wanted), rel=1e-4)
    with label_rules(LabelRules(class_weights=(1.0, 1.0, 0.0, 0.0), overlapping=True)):
        weighted = losses.dice_ce(logits[:, :, 3:], label[:, 3:])
    with label_rules(RULES):
        first = losses.dice_ce(logits[:, :1, 3:], label[:, 3:] & 1)
    assert float(weighted) == pytest.approx(float(first), rel=1e-4)


class Fixed(torch.nn.Module):
    """Gives the same logits for every image."""

    overlapping = True

    def __init__(self, p: Tensor) -> None:
        super().__init__()
        self.logits = p.logit()

    def forward(self, x: Tensor) -> Output:
        return Output(self.logits.expand(len(x), *self.logits.shape[1:]))


def test_confidence_accepts_one_class_of_a_pixel_and_rejects_another() -> None:
    p = torch.tensor([0.97, 0.55, 0.02]).view(1, 3, 1, 1)
    with label_rules(RULES):
        rule = ConfidenceThresholded(by_class=False, confidence=0.9)
        target = rule(Fixed(p), torch.zeros(1, 1, 1, 1), Step(0, 1))
    assert target.probability.flatten().tolist() == [1, 1, 0]
    assert target.weight is not None and target.weight.flatten().tolist() == [1, 0, 1]


def test_entropy_masks_each_class() -> None:
    p = torch.tensor([0.999, 0.5, 0.001]).view(1, 3, 1, 1)
    with label_rules(RULES):
        target = UncertaintyMasked(passes=2)(Fixed(p), torch.zeros(1, 1, 1, 1), Step(0, 10))
    assert target.weight is not None and target.weight.flatten().tolist() == [1, 0, 1]


def test_an_ensemble_has_the_logits_of_the_mean_probability() -> None:
    p, q = torch.tensor([0.9, 0.2]).view(1, 2, 1, 1), torch.tensor([0.5, 0.4]).view(1, 2, 1, 1)
    out = Ensemble([Fixed(p), Fixed(q)])(torch.zeros(1, 1, 1, 1))
    assert out.logits.sigmoid().flatten().tolist() == pytest.approx([0.7, 0.3], abs=1e-5)


@pytest.mark.parametrize("name", TAKEN)
def test_every_method_that_takes_them_learns_from_both_kinds_of_images(name: str) -> None:
    trainer = TinyTrainer(METHODS[name], dims=2, classes=CLASSES)
    drawn = random_batch(classes=CLASSES)
    bits = torch.randint(0, 1 << CLASSES, drawn.label.shape, generator=torch.Generator().manual_seed(5))
    batch, step = replace(drawn, label=bits, rules=RULES), Step(50, 100, torch.Generator().manual_seed(0))
    with label_rules(RULES):
        terms = METHODS[name].losses(trainer.nets, batch, step)
    torch.stack(list(terms.values())).sum().backward()
    assert all(term.isfinite() for term in terms.values())
    gradients = [p.grad for p in trainer.nets.student.parameters() if p.grad is not None]
    assert gradients and all(g.isfinite().all() for g in gradients)


def test_which_methods_take_them() -> None:
    assert set(TAKEN) >= {"supervised", "mean_teacher", "ua_mt", "two_stream_mt", "cutmix_mt", "slice_distillation"}
    assert not {"cps", "adaptive_threshold", "bcp", "dtc", "sassnet"} & set(TAKEN)
