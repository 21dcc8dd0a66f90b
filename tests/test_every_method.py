"""The contract that every row of METHODS signs. A new row is tested at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from contract_of_a_method import (
    check_averages_converge,
    check_every_term_teaches,
    check_finite,
    check_named_terms_stay_with_their_player,
    check_names_of_classes_do_not_matter,
    check_nothing_global_is_drawn,
    check_only_trainable_players_learn,
    check_resume_is_exact,
    check_targets_are_detached,
    check_the_discriminator_is_told_the_truth,
    check_unlabelled_images_matter,
    eager,
)
from small_stage import Stage, batch_of

from edgemt.contract import Output
from edgemt.losses import onehot
from edgemt.methods import METHODS, explain, get
from edgemt.perturb import Box
from edgemt.roles import Ema, Trainable, set_modes

every = pytest.mark.parametrize("name", METHODS)
LEARNS_FROM_UNLABELLED = [name for name in METHODS if name != "supervised"]
AVERAGED = [name for name, m in METHODS.items() if any(isinstance(r, Ema) for r in m.roles().values())]
JUDGED = [name for name, m in METHODS.items() if "discriminator" in m.roles()]


@every
@pytest.mark.parametrize(
    ("dims", "classes", "labelled", "unlabelled"), [(2, 2, 2, 2), (3, 2, 2, 2), (2, 4, 1, 3), (3, 3, 3, 1)]
)
def test_it_steps_in_any_space_with_any_classes_and_batch(name, dims, classes, labelled, unlabelled):
    check_finite(METHODS[name], dims=dims, classes=classes, labelled=labelled, unlabelled=unlabelled)


@every
def test_it_goes_on_without_unlabelled_rows(name):
    check_finite(METHODS[name], dims=2, classes=3, labelled=2, unlabelled=0)


@every
def test_every_term_teaches_who_pays_it(name):
    check_every_term_teaches(eager(METHODS[name]))


@every
def test_a_peer_is_a_target_and_not_a_pupil(name):
    check_named_terms_stay_with_their_player(METHODS[name])


@every
def test_no_gradient_enters_a_teacher(name):
    check_targets_are_detached(METHODS[name])


@pytest.mark.parametrize("name", LEARNS_FROM_UNLABELLED)
def test_unlabelled_images_teach_the_student(name):
    check_unlabelled_images_matter(eager(METHODS[name]))


@every
def test_only_trainable_players_learn_and_frozen_ones_stay_bit_identical(name):
    check_only_trainable_players_learn(METHODS[name])


@every
def test_resuming_equals_never_stopping_bit_for_bit(name):
    check_resume_is_exact(METHODS[name])


@every
def test_all_chance_comes_from_the_step(name):
    check_nothing_global_is_drawn(METHODS[name])


@every
def test_renaming_foreground_classes_changes_nothing(name):
    check_names_of_classes_do_not_matter(eager(METHODS[name]))


@pytest.mark.parametrize("name", AVERAGED)
def test_averages_become_a_student_that_stands_still(name):
    check_averages_converge(METHODS[name].roles(), METHODS[name])


@pytest.mark.parametrize("name", JUDGED)
def test_the_discriminator_is_told_the_truth(name):
    check_the_discriminator_is_told_the_truth(METHODS[name])


@every
def test_it_learns_an_easy_task(name):
    """The class is the sign of the first channel; forty steps on fresh batches lower the loss."""
    stage = Stage(METHODS[name], classes=2, total=40)
    paid = []
    for i in range(40):
        b = batch_of(classes=2, seed=i)
        b.label.copy_((b.labelled[:, 0] > 0).long())
        b = replace(b, soft=onehot((b.image[:, 0] > 0).long(), 2))
        terms = stage.step(b)
        paid.append(next(v for k, v in terms.items() if k.startswith("supervised")))
    assert sum(paid[-5:]) < 0.8 * sum(paid[:5])


@every
def test_what_it_delivers_is_one_of_its_players_or_an_average_of_them(name):
    role = METHODS[name].roles()[METHODS[name].delivers]
    assert isinstance(role, Trainable | Ema)


@every
def test_explain_says_who_plays_what_can_be_set_and_who_wrote_it(name):
    text = explain(name)
    for word in (*METHODS[name].roles(), "fields", METHODS[name].citation, METHODS[name].delivers):
        assert word in text


def test_an_unknown_method_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="mean_teacher"):
        get("mean_techer")


def test_methods_are_values_that_compare_and_are_not_changed():
    method = METHODS["ua_mt"]
    assert method == type(method)(target=method.target)
    with pytest.raises(AttributeError):
        method.strong = True


class Echo(torch.nn.Module):
    """Says of an image what its channels are."""

    def forward(self, x):
        return Output(x)


@pytest.mark.parametrize(
    ("method", "terms"),
    [
        (replace(METHODS["cutmix_mt"], box=Box(chance=1.0)), ("consistency",)),
        (replace(METHODS["distillation"], box=Box(chance=1.0)), ("kl", "consistency")),
        (replace(METHODS["distillation"], box=Box(chance=1.0), teacher_sees="same"), ("kl", "consistency")),
        (replace(METHODS["slice_distillation"], box=Box(chance=1.0)), ("kl", "overlap", "consistency")),
    ],
)
def test_cutmix_cuts_image_and_target_alike(method, terms):
    """A student that says what it sees agrees with a teacher that does the same, wherever the boxes fall."""
    stage = Stage(method, classes=2, total=1, index=1)
    for name in stage.nets:
        stage.nets[name] = Echo()
    b = batch_of(classes=2, strong=False)
    sure = torch.sign(b.image[:, :1]) * 6
    image = torch.cat([sure, -sure], 1)
    _, paid = next(stage.turns(replace(b, image=image, soft=image.softmax(1))))
    for term in terms:
        assert float(paid[term]) < 1e-3


def test_a_bank_guides_as_the_network_that_filled_it():
    """The teacher's words in half precision give the same terms as the teacher, all but the rounding."""
    b = batch_of()
    asked = Stage(replace(METHODS["distillation"], intra=1.0, overlap=1.0, boundary=2.0), total=1, index=1)
    set_modes(asked.nets, asked.roles)
    with torch.no_grad():
        b = replace(b, soft=asked.nets.teacher(b.image).logits.softmax(1).half().float())
    told = Stage(replace(asked.method, guide="bank"), total=1, index=1)
    assert "teacher" not in told.nets
    (_, want), (_, got) = next(asked.turns(b)), next(told.turns(b))
    assert set(want) == set(got) == {"supervised", "kl", "intra", "overlap", "consistency"}
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=2e-3, atol=2e-4, msg=name)


def test_a_bank_that_is_sure_of_everything_is_harmless():
    """Exact zeros, as half precision makes them of small probabilities, give finite losses and slopes."""
    b = batch_of()
    sure = onehot(torch.randint(0, 3, b.soft[:, 0].shape, generator=torch.Generator().manual_seed(0)), 3)
    stage = Stage(replace(METHODS["slice_distillation"], cwd=1.0, intra=1.0), total=1, index=1)
    _, terms = next(stage.turns(replace(b, soft=sure)))
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in stage.nets.student.parameters() if p.grad is not None)
    assert all(torch.isfinite(term) for term in terms.values())


def test_a_student_that_says_what_the_bank_says_pays_nothing_for_it():
    """Channel-wise distillation too, although a bank knows logits only up to a constant a voxel."""
    stage = Stage(replace(METHODS["slice_distillation"], cwd=1.0, intra=1.0, mix="none"), total=1, index=1)
    stage.nets["student"] = stage.nets["average"] = Echo()
    b = batch_of(classes=2, strong=False)
    _, terms = next(stage.turns(replace(b, soft=b.image.softmax(1))))
    assert all(abs(float(terms[name])) < 1e-4 for name in ("kl", "cwd", "intra", "overlap"))


def test_without_a_bank_it_says_what_is_missing():
    stage = Stage(METHODS["slice_distillation"])
    with pytest.raises(ValueError, match="fill a bank first"):
        stage.step(replace(batch_of(), soft=None))
    with pytest.raises(ValueError, match="teacher_sees: 'same'"):
        replace(METHODS["slice_distillation"], teacher_sees="same")
    with pytest.raises(ValueError, match="guide: 'Bank' is not known"):
        replace(METHODS["slice_distillation"], guide="Bank")
