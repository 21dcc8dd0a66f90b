"""The contract that every row of METHODS signs. A new row is tested at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from edgemt.contract import Output
from edgemt.learning.losses import onehot
from edgemt.learning.perturbations.mixing import CutMixBox
from edgemt.learning.roles import set_modes
from edgemt.methods import METHODS, get
from edgemt.methods.catalogue import explain
from edgemt.testing.method_checks import CHECKS, CONFIGURATIONS, MethodCheck
from edgemt.testing.tiny_training import TinyTrainer, random_batch

every = pytest.mark.parametrize("name", METHODS)


def promises() -> Iterator[Any]:
    """Every check of every method. Two configurations, which have both numbers of axes and classes, are fast."""
    for check in CHECKS:
        every = check.configurations or CONFIGURATIONS[:1]
        fast = tuple(dict.fromkeys((every[0], every[-1])))
        for name in METHODS:
            if check.applies_to(METHODS[name]):
                described = f"{check.description.replace(' ', '-')}-{name}"
                yield pytest.param(check, name, fast, id=described)
                if others := every[1:-1]:
                    yield pytest.param(check, name, others, id=f"{described}-others", marks=pytest.mark.slow)


@pytest.mark.parametrize(("check", "name", "configurations"), [*promises()])
def test_it_keeps_its_promise_in_2d_and_3d_with_2_and_4_classes(
    check: MethodCheck, name: str, configurations: tuple[tuple[int, int], ...]
) -> None:
    for dims, classes in configurations:
        check.run(METHODS[name], dims=dims, classes=classes)


def test_the_fast_configurations_have_2_and_3_axes_and_2_and_4_classes() -> None:
    assert (CONFIGURATIONS[0], CONFIGURATIONS[-1]) == ((2, 2), (3, 4)) and len(CONFIGURATIONS) == 4


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.description.replace(" ", "-"))
def test_every_promise_concerns_a_method(check: MethodCheck) -> None:
    assert any(check.applies_to(method) for method in METHODS.values())


@every
def test_explain_says_who_plays_what_can_be_set_and_who_wrote_it(name):
    text = explain(name)
    for expected in (*METHODS[name].roles(), "fields", METHODS[name].citation, METHODS[name].delivers):
        assert expected in text


def test_an_unknown_method_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="mean_teacher"):
        get("mean_techer")


def test_methods_are_values_that_compare_and_are_not_changed():
    method = METHODS["ua_mt"]
    assert method == type(method)(target=method.target)
    with pytest.raises(AttributeError):
        method.strong = True


class Echo(torch.nn.Module):
    """A network whose outputs are the channels of the image."""

    def forward(self, x):
        return Output(x)


@pytest.mark.parametrize(
    ("method", "terms"),
    [
        (replace(METHODS["cutmix_mt"], box=CutMixBox(chance=1.0)), ("consistency",)),
        (replace(METHODS["distillation"], box=CutMixBox(chance=1.0)), ("kl", "consistency")),
        (replace(METHODS["distillation"], box=CutMixBox(chance=1.0), teacher_view="same"), ("kl", "consistency")),
        (replace(METHODS["slice_distillation"], box=CutMixBox(chance=1.0)), ("kl", "overlap", "consistency")),
    ],
)
def test_cutmix_cuts_image_and_target_alike(method, terms):
    """A student that says what it sees agrees with a teacher that does the same, wherever the boxes fall."""
    stage = TinyTrainer(method, classes=2, total=1, index=1)
    for name in stage.nets:
        stage.nets[name] = Echo()
    b = random_batch(classes=2, strong=False)
    sure = torch.sign(b.image[:, :1]) * 6
    image = torch.cat([sure, -sure], 1)
    _, paid = next(stage.optimiser_steps(replace(b, image=image, soft=image.softmax(1))))
    for term in terms:
        assert float(paid[term]) < 1e-3


def test_a_bank_guides_as_the_network_that_filled_it():
    """The teacher's words in half precision give the same terms as the teacher, all but the rounding."""
    b = random_batch()
    with_network = TinyTrainer(replace(METHODS["distillation"], intra=1.0, overlap=1.0, boundary=2.0), total=1, index=1)
    set_modes(with_network.nets, with_network.roles)
    with torch.no_grad():
        b = replace(b, soft=with_network.nets.teacher(b.image).logits.softmax(1).half().float())
    with_bank = TinyTrainer(replace(with_network.method, teacher_source="bank"), total=1, index=1)
    assert "teacher" not in with_bank.nets
    (_, want), (_, got) = next(with_network.optimiser_steps(b)), next(with_bank.optimiser_steps(b))
    assert set(want) == set(got) == {"supervised", "kl", "intra", "overlap", "consistency"}
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=2e-3, atol=2e-4, msg=name)


def test_a_bank_that_is_sure_of_everything_is_harmless():
    """Exact zeros, as half precision makes them of small probabilities, give finite losses and slopes."""
    b = random_batch()
    sure = onehot(torch.randint(0, 3, b.soft[:, 0].shape, generator=torch.Generator().manual_seed(0)), 3)
    stage = TinyTrainer(replace(METHODS["slice_distillation"], cwd=1.0, intra=1.0), total=1, index=1)
    _, terms = next(stage.optimiser_steps(replace(b, soft=sure)))
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in stage.nets.student.parameters() if p.grad is not None)
    assert all(torch.isfinite(term) for term in terms.values())


def test_a_student_that_says_what_the_bank_says_pays_nothing_for_it():
    """Channel-wise distillation too, although a bank knows logits only up to a constant a voxel."""
    stage = TinyTrainer(replace(METHODS["slice_distillation"], cwd=1.0, intra=1.0, mix="none"), total=1, index=1)
    stage.nets["student"] = stage.nets["average"] = Echo()
    b = random_batch(classes=2, strong=False)
    _, terms = next(stage.optimiser_steps(replace(b, soft=b.image.softmax(1))))
    assert all(abs(float(terms[name])) < 1e-4 for name in ("kl", "cwd", "intra", "overlap"))


def test_without_a_bank_it_says_what_is_missing():
    stage = TinyTrainer(METHODS["slice_distillation"])
    with pytest.raises(ValueError, match="fill a bank first"):
        stage.step(replace(random_batch(), soft=None))
    with pytest.raises(ValueError, match="teacher_view: 'same'"):
        replace(METHODS["slice_distillation"], teacher_view="same")
    with pytest.raises(ValueError, match="teacher_source: 'Bank' is not known"):
        replace(METHODS["slice_distillation"], teacher_source="Bank")
