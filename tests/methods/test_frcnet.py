"""FRCNet: cosine transform, frequency loss, region similarity."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from method_samples import SPACES, random_tensor
from scipy.fft import dctn

from edgemt.methods.frcnet import cosine_transform, frequency_loss, region_similarity


@SPACES
def test_cosine_transform_equals_scipy(size):
    x = random_tensor(2, 3, *size)
    want = dctn(x.numpy(), axes=tuple(range(2, x.ndim)), norm="ortho")
    np.testing.assert_allclose(cosine_transform(x).numpy(), want, atol=1e-4)


def test_frequency_loss_separates_bands():
    """A constant shift lies in the low band alone; the same energy in fine detail costs more, its band having less."""
    theirs = F.interpolate(random_tensor(1, 2, 4, 4), size=(16, 16), mode="bilinear") + 1.0
    fine = torch.ones(16, 16)
    fine[::2] = -1.0
    coarse_gap = frequency_loss(theirs + 0.3, theirs, side=16, low=0.25)
    fine_gap = frequency_loss(theirs + 0.3 * fine, theirs, side=16, low=0.25)
    assert float(frequency_loss(theirs, theirs, side=16, low=0.25)) == 0.0
    assert float(fine_gap) > 5 * float(coarse_gap)


@SPACES
def test_region_similarity_is_cosine_of_mean_features(size):
    alike = region_similarity(random_tensor(2, 5, *size), 2)
    assert alike.shape == (2, 2 ** len(size), 2 ** len(size))
    torch.testing.assert_close(alike.diagonal(dim1=1, dim2=2), torch.ones(2, 2 ** len(size)))
    one = torch.ones(1, 3, *size)
    torch.testing.assert_close(region_similarity(one, 2), torch.ones(1, 2 ** len(size), 2 ** len(size)))
