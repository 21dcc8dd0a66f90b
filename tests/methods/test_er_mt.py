"""LG-ER-MT: similarities and information maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from method_samples import random_tensor

from edgemt.methods.er_mt import neighbour_similarity, self_information


@pytest.mark.parametrize(("size", "directions"), [((4, 3), 4), ((4, 3, 3), 13)])
def test_neighbour_similarity_has_each_pair_once(size, directions):
    p = random_tensor(1, 3, *size).softmax(1)
    maps = neighbour_similarity(p, 1)
    assert len(maps) == directions
    pairs = {}
    places = list(np.ndindex(*size))
    for i, a in enumerate(places):
        for b in places[i + 1 :]:
            if max(abs(x - y) for x, y in zip(a, b, strict=True)) == 1:
                pairs[a, b] = float((p[(0, slice(None), *a)] * p[(0, slice(None), *b)]).sum())
    found = sorted(float(v) for m in maps for v in m.flatten())
    np.testing.assert_allclose(found, sorted(pairs.values()), atol=1e-6)


def test_self_information_gradient_finite_at_zero_probability():
    p = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
    self_information(p).sum().backward()
    assert torch.isfinite(p.grad).all()
