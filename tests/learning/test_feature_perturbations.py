"""Perturbations of feature maps."""

from __future__ import annotations

import pytest
import torch
from method_samples import seeded_generator

from edgemt.learning.perturbations.features import AttentionDrop, FeatureDropout, FeatureNoise, RowwiseChannelDropout


@pytest.mark.parametrize("size", [(8, 6), (6, 4, 4)])
def test_feature_perturbations_follow_their_definition(size: tuple[int, ...]):
    x = torch.rand(4, 64, *size, generator=seeded_generator()) + 0.5
    noise = FeatureNoise(span=0.3)(x, seeded_generator()) / x
    assert noise.min() >= 0.7 and noise.max() <= 1.3 and torch.allclose(noise[0], noise[1], atol=1e-5)
    whole = FeatureDropout(rate=0.5)(x, seeded_generator()).flatten(2)
    gone = (whole == 0).all(2)
    assert torch.equal(gone, (whole == 0).any(2)) and 0.3 < gone.float().mean() < 0.7
    torch.testing.assert_close(whole[~gone], 2 * x.flatten(2)[~gone])
    assert 0.2 < float((FeatureDropout(rate=0.3, channels=False)(x, seeded_generator()) == 0).float().mean()) < 0.4
    dropped = AttentionDrop(low=0.8, high=0.8)(x, seeded_generator())
    mean = x.mean(1, keepdim=True)
    loud = (mean >= 0.8 * mean.flatten(1).amax(1).view(-1, 1, *[1] * len(size))).expand_as(x)
    assert (dropped[loud] == 0).all() and torch.equal(dropped[~loud], x[~loud])
    for way in (FeatureNoise(), FeatureDropout(), AttentionDrop()):
        assert torch.equal(way(x, seeded_generator()), way(x, seeded_generator()))


def test_rowwise_channel_dropout_drops_whole_channels_of_its_rows():
    x = torch.ones(4, 400, 3, 3)
    out = RowwiseChannelDropout(0.25, 1, 3, seeded_generator())(x)
    assert torch.equal(out[0], x[0]) and torch.equal(out[3], x[3])
    assert out[1:3].unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert torch.equal(out.amax((2, 3)), out.amin((2, 3)))
    assert float(out[1:3].mean()) == pytest.approx(1.0, abs=0.05)
