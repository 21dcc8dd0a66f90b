"""CCT: perturbed features of unlabelled rows."""

from __future__ import annotations

from dataclasses import replace

import torch
from method_samples import FULL, losses_of
from torch import Tensor, nn

from edgemt.contract import Output
from edgemt.methods import METHODS
from edgemt.testing.tiny_training import random_batch


def test_cct_encodes_once_and_perturbs_unlabelled_rows_only():
    read: list[Tensor] = []

    class Reader(nn.Module):
        def forward(self, x: Tensor, disturb) -> Output:
            read.append(disturb(x))
            return Output(read[0])

    b = random_batch(classes=2)
    terms = losses_of(replace(METHODS["cct"], ramp=FULL), Reader(), b)
    (rows,) = read
    assert len(rows) == 5 + 3 * 3 and torch.equal(rows[:5], b.image)
    clean = b.unlabelled.softmax(1)
    want = sum((rows[5 + 3 * k : 8 + 3 * k].softmax(1) - clean).square().mean() for k in range(3)) / 3
    torch.testing.assert_close(terms["consistency"], want)
