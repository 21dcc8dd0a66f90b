"""Schedules scale with the run and end where they say."""

from __future__ import annotations

import math

import pytest

from edgemt.contract import Step
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.methods.mean_teacher import MeanTeacher


def at(index: int, total: int = 1000) -> Step:
    return Step(index, total)


def test_a_ramp_is_the_sigmoid_of_the_papers():
    ramp = SigmoidRampUp(top=0.1, length=1.0)
    for share in (0.0, 0.25, 0.5, 1.0):
        assert ramp(at(int(1000 * share))) == pytest.approx(0.1 * math.exp(-5 * (1 - share) ** 2))


def test_a_ramp_reaches_the_top_after_its_length_and_stays():
    ramp = SigmoidRampUp(top=2.0, start=0.5, length=0.4)
    assert ramp(at(399)) < 2.0
    assert ramp(at(400)) == ramp(at(1000)) == 2.0


def test_a_ramp_is_the_same_share_of_a_short_and_a_long_run():
    ramp = SigmoidRampUp()
    assert ramp(at(20, 100)) == pytest.approx(ramp(at(6000, 30000)))


def test_a_ramp_without_length_is_up_at_once():
    assert SigmoidRampUp(top=0.3, length=0.0)(at(0)) == 0.3


def test_a_length_that_is_no_share_is_refused():
    with pytest.raises(ValueError, match="length: 40"):
        SigmoidRampUp(length=40)


def test_a_ramp_of_nothing_warns_and_names_the_field():
    with pytest.warns(UserWarning, match="MeanTeacher.ramp.top is 0"):
        MeanTeacher(ramp=SigmoidRampUp(top=0.0))
