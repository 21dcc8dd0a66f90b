"""Alternation schedule, and the variants of the average."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from edgemt.contract import Step
from edgemt.learning.ema import AlternatingEma, AlternationSchedule, Ema, ResidualEma, SwitchingEma


def test_random_turns_have_uniform_lengths():
    turns, longest = AlternationSchedule(longest=0.001, drawn=True), 5
    whose = [turns(Step(i, 5000)) for i in range(5000)]
    assert set(whose) == {0, 1}
    lengths, count = Counter(), 1
    for a, b in zip(whose, whose[1:], strict=False):
        lengths[count] += a != b
        count = count + 1 if a == b else 1
    assert set(k for k, v in lengths.items() if v) == set(range(1, longest + 1))
    assert max(lengths.values()) < 1.3 * min(v for v in lengths.values() if v)


def test_fixed_turns_are_fractions_of_the_run_of_at_least_one_step():
    assert [AlternationSchedule(longest=0.2)(Step(i, 10)) for i in range(8)] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert [AlternationSchedule(longest=0.0001, drawn=True)(Step(i, 10)) for i in range(4)] == [0, 1, 0, 1]
    with pytest.raises(ValueError, match="longest: 0.7"):
        AlternationSchedule(longest=0.7)


def pair(mine: float, *theirs: float) -> list[nn.Module]:
    nets = [nn.Linear(1, 1, bias=False) for _ in range(1 + len(theirs))]
    for net, value in zip(nets, (mine, *theirs), strict=True):
        nn.init.constant_(net.weight, value)
    return nets


def test_alternating_ema_moves_in_its_turn_only():
    average, student = pair(0.0, 1.0)
    role = AlternatingEma(decay=0.5, warmup=False, turns=AlternationSchedule(longest=0.1), place=1)
    role.update(average, [student], Step(0, 10))
    assert float(average.weight.detach()) == 0.0
    role.update(average, [student], Step(1, 10))
    assert float(average.weight.detach()) == 0.5


def test_switching_ema_follows_one_network_at_a_time():
    average, student, peer = pair(0.0, 1.0, -1.0)
    role = SwitchingEma(decay=0.5, warmup=False)
    role.update(average, [student, peer], Step(0, 10))
    assert float(average.weight.detach()) == 0.5
    role.update(average, [student, peer], Step(1, 10))
    assert float(average.weight.detach()) == -0.25


@pytest.mark.parametrize(
    ("mine", "gain", "want"), [(2.0, 0.0, 2.1), (2.0, 1.0, 2.15), (2.0, 9.0, 2.55), (0.1, 50.0, 3.0)]
)
def test_residual_ema_scales_with_residual_and_never_overshoots(mine, gain, want):
    """From 2 to 3 with decay 0.9: a move of 0.1 and a residual of half the weight's size."""
    average, student = pair(mine, 3.0)
    ResidualEma(decay=0.9, warmup=False, gain=gain).update(average, [student], Step(5, 10))
    assert float(average.weight.detach()) == pytest.approx(want)


def test_residual_ema_without_gain_is_plain_ema():
    torch.manual_seed(0)
    one, student = nn.Linear(3, 3), nn.Linear(3, 3)
    two = nn.Linear(3, 3)
    two.load_state_dict(one.state_dict())
    Ema().update(one, [student], Step(50, 100))
    ResidualEma(gain=0.0).update(two, [student], Step(50, 100))
    torch.testing.assert_close(one.weight, two.weight)
