"""Players are gathered, put into their modes, and averaged by the formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgemt.contract import Step
from edgemt.learning.ema import Ema
from edgemt.learning.roles import Frozen, Memory, Trainable, build_networks, set_modes, update_averages


def build(kind: str, init: int) -> nn.Module:
    torch.manual_seed(init)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5))


ROLES = {"teacher": Ema(), "student": Trainable(), "guide": Frozen()}


def filled(value: float) -> nn.Module:
    net = build("student", 0)
    for tensor in net.state_dict().values():
        tensor.fill_(value)
    return net


def test_players_answer_by_attribute_and_by_name():
    players = build_networks(ROLES, build)
    assert players.student is players["student"]
    assert set(players) == {"teacher", "student", "guide"}


def test_an_average_begins_as_a_copy_and_not_as_the_same_tensors():
    players = build_networks(ROLES, build)
    mine, theirs = players.teacher[0].weight, players.student[0].weight
    assert torch.equal(mine, theirs)
    assert mine.data_ptr() != theirs.data_ptr()


def test_two_students_begin_with_the_weights_of_their_own_init():
    players = build_networks({"student": Trainable(), "peer": Trainable(init=1)}, build)
    assert not torch.equal(players.student[0].weight, players.peer[0].weight)


def test_only_trainable_players_ask_for_gradients():
    players = build_networks(ROLES, build)
    wants = {name: any(p.requires_grad for p in net.parameters()) for name, net in players.items()}
    assert wants == {"teacher": False, "student": True, "guide": False}


def test_modes_follow_the_roles():
    roles = {**ROLES, "average": Ema(mode="eval")}
    players = build_networks(roles, build)
    for net in players.values():
        net.train()
    set_modes(players, roles)
    modes = {name: net.training for name, net in players.items()}
    assert modes == {"teacher": True, "student": True, "guide": False, "average": False}


def test_an_average_of_nobody_is_refused():
    with pytest.raises(ValueError, match="studnt"):
        build_networks({"student": Trainable(), "teacher": Ema(of=("studnt",))}, build)


def test_a_decay_of_one_is_refused():
    with pytest.raises(ValueError, match="decay: 1"):
        Ema(decay=1.0)


def test_the_average_is_the_formula():
    average = filled(1.0)
    Ema(decay=0.9, warmup=False).update(average, [filled(3.0)], Step(5, 10))
    for name, tensor in average.state_dict().items():
        want = 3.0 if "num_batches" in name else 0.9 * 1.0 + 0.1 * 3.0
        torch.testing.assert_close(tensor.float(), torch.full_like(tensor.float(), want), msg=name)


def test_buffers_can_be_taken_over_or_left_alone():
    for buffers, want in (("copy", 3.0), ("own", 1.0)):
        average = filled(1.0)
        Ema(decay=0.9, warmup=False, buffers=buffers).update(average, [filled(3.0)], Step(5, 10))
        assert float(average[1].running_mean[0]) == want
        assert float(average[0].weight.detach().flatten()[0]) == pytest.approx(1.2)


def test_an_average_of_two_is_of_their_mean():
    average = filled(0.0)
    Ema(decay=0.5, warmup=False).update(average, [filled(1.0), filled(3.0)], Step(5, 10))
    assert float(average[0].weight.detach().flatten()[0]) == pytest.approx(1.0)


def test_warm_up_follows_quickly_at_first_and_binds_until_the_decay_is_reached():
    ema = Ema(decay=0.99)
    assert [ema.rate(Step(i, 5000)) for i in (0, 8, 890, 4000)] == pytest.approx([0.1, 0.5, 0.99, 0.99])
    assert Ema(decay=0.99, warmup=False).rate(Step(0, 5000)) == 0.99


def test_an_average_in_train_mode_does_not_blend_in_what_it_sees():
    players = build_networks(ROLES, build)
    set_modes(players, ROLES)
    before = players.teacher[1].running_mean.clone()
    with torch.no_grad():
        outputs = [players.teacher(10 + torch.randn(4, 1, 8, 8)) for _ in range(2)]
    assert torch.equal(players.teacher[1].running_mean, before)
    assert outputs[0].abs().mean() < 3, "batch statistics are not used"


def test_after_an_update_an_average_can_be_fine_tuned_like_any_network():
    players = build_networks(ROLES, build)
    set_modes(players, ROLES)
    update_averages(players, ROLES, Step(0, 10))
    before = players.teacher[1].running_mean.clone()
    players.teacher.train()(10 + torch.randn(4, 1, 8, 8))
    assert not torch.equal(players.teacher[1].running_mean, before)


def test_a_memory_keeps_the_last_vectors_of_each_class_in_its_buffers():
    roles = {"student": Trainable(), "bank": Memory(size=3, features=2, classes=2)}
    players = build_networks(roles, build)
    players.bank.push(torch.tensor([[1.0, 1.0], [2.0, 2.0]]), label=1)
    players.bank.push(torch.tensor([[3.0, 3.0], [4.0, 4.0]]), label=1)
    assert players.bank.filled.tolist() == [0, 3]
    assert sorted(players.bank.vectors[1, :, 0].tolist()) == [2.0, 3.0, 4.0]
    assert "bank.vectors" in players.state_dict()
    assert not list(players.bank.parameters())
