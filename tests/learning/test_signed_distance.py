"""Signed distances on the device of the label."""

from __future__ import annotations

import pytest
import torch
from method_samples import seeded_generator

from edgemt.learning.pseudo_labels import signed_distance, signed_distance_on_device, squared_distance


@pytest.mark.parametrize("size", [(13, 9), (9, 8, 7)])
def test_signed_distance_on_device_equals_scipy(size: tuple[int, ...]):
    label = torch.randint(0, 4, (3, *size), generator=seeded_generator()) * (
        torch.rand(3, *size, generator=seeded_generator(1)) < 0.2
    )
    label[1], label[2] = 2, 0  # one class everywhere, none anywhere
    exact, here = (f(label, classes=4) for f in (signed_distance, signed_distance_on_device))
    torch.testing.assert_close(here, exact)
    hit = label[:1, None] == 1
    assert torch.equal(squared_distance(hit), squared_distance(hit, voxels=1)), "in pieces as at once"
