"""DTC: the mask of signed distances."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from method_samples import FULL, ConstantOutput, losses_of, seeded_generator

from edgemt.learning.auxiliary_tasks import mask_from_sdf
from edgemt.learning.losses import onehot
from edgemt.methods import METHODS
from edgemt.testing.tiny_training import random_batch


def test_mask_from_sdf_is_a_step_at_zero():
    sdf = torch.tensor([-0.5, -0.01, 0.0, 0.01, 0.5]).view(1, 1, 5, 1)
    assert mask_from_sdf(sdf, steepness=1500.0).flatten().tolist() == pytest.approx([1, 1, 0.5, 0, 0], abs=1e-4)


def test_dtc_consistency_is_zero_if_both_tasks_agree():
    label = torch.randint(0, 3, (2, 12, 10), generator=seeded_generator())
    b = replace(random_batch(unlabelled=0), label=label)
    inside = onehot(label, 3)[:, 1:]
    agreed = ConstantOutput(onehot(label, 3) * 40, sdf=1.0 - 2.0 * inside)
    method = replace(METHODS["dtc"], ramp=FULL)
    assert losses_of(method, agreed, b)["consistency"].item() < 1e-6
    # one class of two told the other way round: half of the foreground maps are wrong where it is
    wrong = (1.0 - 2.0 * inside) * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
    assert losses_of(method, ConstantOutput(onehot(label, 3) * 40, sdf=wrong), b)[
        "consistency"
    ].item() == pytest.approx(0.5, abs=1e-4)
