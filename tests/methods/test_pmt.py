"""PMT: turns of its students."""

from __future__ import annotations

import torch
from torch import nn

from edgemt.contract import Output
from edgemt.learning.losses import onehot
from edgemt.methods import METHODS
from edgemt.testing.tiny_training import TinyTrainer, random_batch


def test_pmt_updates_the_student_in_turn_and_its_teacher():
    stage = TinyTrainer(METHODS["pmt"])
    first, second = ("peer", "tutor"), ("student", "teacher")
    for index, moving, resting in ((0, first, second), (10, second, first)):
        stage.index = index
        before = {name: stage.nets[name].head.weight.clone() for name in (*moving, *resting)}
        stage.step(random_batch(seed=stage.index))
        changed = {name for name, weight in before.items() if not torch.equal(weight, stage.nets[name].head.weight)}
        assert changed == set(moving)


def test_pmt_only_the_worse_student_follows_the_other():
    """The other contradicts the student on every unlabelled voxel; it matters only where the other is ahead."""

    def paid(*, behind: bool) -> float:
        stage, b = TinyTrainer(METHODS["pmt"], classes=2, total=1, index=1), random_batch(classes=2)
        right = 6.0 * onehot(b.label, 2) - 3.0
        sure = torch.sign(b.unlabelled[:, :1]) * 6
        own = torch.cat([sure, -sure], 1)
        stage.nets["teacher"] = Fixed(own)
        stage.nets["student"] = Fixed(torch.cat([-right if behind else right, own]))
        stage.nets["peer"] = Fixed(torch.cat([right if behind else -right, -own]))
        return float(next(stage.optimiser_steps(b))[1]["consistency"])

    assert paid(behind=False) < 1e-3
    assert paid(behind=True) > 0.9


class Fixed(nn.Module):
    """Says the same logits whatever it sees."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x, disturb=None):
        return Output(self.logits[-len(x) :])
