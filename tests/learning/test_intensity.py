"""Shadow mask and intensity jitter."""

from __future__ import annotations

import torch
from method_samples import seeded_generator

from edgemt.learning.perturbations.intensity import IntensityJitter, apply_shadow, shadow_mask


def test_shadow_mask_is_half_a_cosine_between_two_levels():
    image = torch.tensor([0.0, 1.0, 30.5, 60.0, 255.0]).view(1, 1, 1, 5)
    want = [0.0, 0.0, 0.5, 1.0, 1.0]
    assert torch.allclose(shadow_mask(image).flatten(), torch.tensor(want), atol=1e-6)
    assert torch.allclose(shadow_mask(image * 0.02 - 3).flatten(), torch.tensor(want), atol=1e-4), (
        "levels know the range"
    )
    assert torch.allclose(apply_shadow(image * 0.02 - 3, torch.zeros(1, 1, 1, 5)), torch.tensor(-3.0)), (
        "black, not grey"
    )


def test_intensity_jitter_is_drawn_for_each_image():
    image = torch.randn(1, 2, 16, 16, generator=seeded_generator()).repeat(3, 1, 1, 1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again = (IntensityJitter()(image, seeded_generator(1)) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(before, torch.get_rng_state())
    assert not torch.allclose(first[0], first[1])
    torch.testing.assert_close(
        IntensityJitter(contrast=0, brightness=0, power=0)(image, None), image, rtol=1e-4, atol=1e-4
    )
