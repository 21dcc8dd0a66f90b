"""Dual teacher: agreement of teachers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from method_samples import probs_of_voxel

from edgemt.methods import METHODS
from edgemt.methods.dual_teacher import teacher_agreement


def test_teacher_agreement_weight_is_zero_in_conflict():
    teacher_probs = torch.stack(
        [
            torch.cat([probs_of_voxel(0.9, 0.1), probs_of_voxel(0.9, 0.1)]),
            torch.cat([probs_of_voxel(0.9, 0.1), probs_of_voxel(0.4, 0.6)]),
        ]
    )
    _, weight = teacher_agreement(teacher_probs)
    torch.testing.assert_close(weight.flatten(), torch.tensor([1.0, 0.0]))


def test_number_of_teachers_is_limited():
    with pytest.raises(ValueError, match="decays: "):
        replace(METHODS["dual_teacher"], decays=(0.9,))
