"""Several noisy passes: outputs, weighted means, uncertainty."""

from __future__ import annotations

import math

import pytest
import torch
from method_samples import probs_of_voxel, seeded_generator

from edgemt.learning.auxiliary_tasks import grid_means
from edgemt.learning.losses import onehot, uncertain_mse
from edgemt.learning.perturbations.intensity import GaussianNoise
from edgemt.learning.pseudo_labels import entropy_weighted_mean, mc_outputs
from edgemt.testing.tiny_training import TinyNetwork, random_batch


def test_mc_outputs_has_all_outputs_of_the_network():
    seen = mc_outputs(TinyNetwork(2, 3), random_batch().image, GaussianNoise(), seeded_generator(), num_passes=3)
    assert seen.logits.shape == (3, 5, 3, 12, 10)
    assert seen.features.shape == (3, 5, 8, 12, 10)
    assert seen.sdf.shape == (3, 5, 2, 12, 10)
    assert len(seen.scales) == len(seen.decoders) == 2
    assert not torch.equal(seen.logits[0], seen.logits[1]), "each look has its own noise"


def test_uncertain_mse_discounts_disagreement_and_penalises_entropy():
    p, q, beta = probs_of_voxel(0.5, 0.5), probs_of_voxel(1.0, 0.0), 2.0
    want = 2 * 0.25 / (math.exp(beta * math.log(2)) + 1.0) + beta * math.log(2)
    assert float(uncertain_mse(p, q, beta=beta)) == pytest.approx(want, rel=1e-5)
    assert float(uncertain_mse(q, q, beta=beta)) == pytest.approx(0.0, abs=1e-6)


def test_entropy_weighted_mean_weights_by_exp_minus_entropy():
    even, sure = probs_of_voxel(0.5, 0.5), probs_of_voxel(1.0, 0.0)
    mean = entropy_weighted_mean(torch.stack([even, sure]))
    torch.testing.assert_close(mean, probs_of_voxel(0.5 / 3 + 2 / 3, 0.5 / 3))  # e^-ln 2 against e^0: 1 to 2


def test_cell_with_equal_class_fractions_does_not_depend_on_class_order():
    truth = onehot(torch.tensor([[[0, 1], [1, 0]]]), 2)
    for teacher, want in ((probs_of_voxel(0.4, 0.6), 1), (probs_of_voxel(0.6, 0.4), 0)):
        place = grid_means(truth + 1e-3 * teacher, grid=1).argmax(1)
        assert int(place) == want
