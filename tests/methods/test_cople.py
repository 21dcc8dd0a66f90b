"""COPLE-Net: its average and its consistency."""

from __future__ import annotations

import math

import pytest
import torch
from method_samples import FixedProbabilities
from torch import nn

from edgemt.contract import Step
from edgemt.learning.ema import LossGatedEma
from edgemt.learning.losses import onehot
from edgemt.learning.roles import Memory, Trainable, build_networks, update_averages
from edgemt.methods import METHODS
from edgemt.testing.tiny_training import TinyTrainer, random_batch


def watched(pushed: list[float], share: float = 0.1) -> float:
    """How far a zero average moves to a one student, after these losses."""
    roles = {
        "student": Trainable(),
        "teacher": LossGatedEma(decay=0.5, warmup=False, share=share),
        "record": Memory(size=4, features=1, classes=1),
    }
    players = build_networks(roles, lambda kind, init: nn.Linear(1, 1, bias=False))
    players.student.weight.data.fill_(1.0)
    players.teacher.weight.data.fill_(0.0)
    for value in pushed:
        players.record.push(torch.tensor([[value]]), label=0)
    update_averages(players, roles, Step(0, 10))
    return float(players.teacher.weight.detach())


def test_loss_gated_ema_moves_little_after_an_outlier_loss():
    assert watched([]) == watched([1.0]) == watched([1.0, 1.1, 0.9, 1.0]) == pytest.approx(0.5)
    assert watched([1.0, 1.1, 0.9, 5.0]) == pytest.approx(0.05)
    assert watched([9.0, 1.0, 1.1, 0.9, 5.0]) == pytest.approx(0.05), "what was pushed out does not count"
    assert watched([1.0, math.nan, 1.1, 5.0], share=0.2) == pytest.approx(0.1), (
        "a loss that was no number is passed over"
    )
    assert watched([5.0, 1.0, 1.1, 0.9]) == pytest.approx(0.5), "only the last one is judged"
    with pytest.raises(ValueError, match="share: 0.0"):
        LossGatedEma(share=0.0)


def test_cople_consistency_masked_to_voxels_where_teacher_is_better():
    """COPLE: where the student is nearer to the label everywhere, nothing is asked of it."""
    stage = TinyTrainer(METHODS["cople"], classes=2, total=1, index=1)
    b = random_batch(classes=2)
    right = (onehot(b.label, 2) * 8 - 4).repeat(3, 1, 1, 1)[:5]
    stage.nets["student"], stage.nets["teacher"] = FixedProbabilities(right), FixedProbabilities(-right)
    _, terms = next(stage.optimiser_steps(b))
    assert not terms["consistency"].any()
    stage.nets["student"], stage.nets["teacher"] = FixedProbabilities(-right), FixedProbabilities(right)
    _, terms = next(stage.optimiser_steps(b))
    assert float(terms["consistency"].detach()) > 0.05
