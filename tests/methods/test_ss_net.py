"""SS-Net: its memory and the class distance."""

from __future__ import annotations

import pytest
import torch
from method_samples import seeded_generator

from edgemt.learning.losses import onehot
from edgemt.learning.roles import Memory
from edgemt.methods import METHODS
from edgemt.methods.ss_net import SSNet, class_centres, class_distance, sample_features
from edgemt.testing.tiny_training import TinyTrainer, random_batch


def test_ss_net_remembers_background_features():
    """The release filters background voxels before they are remembered, so that the memory of class 0 stays empty."""
    stage = TinyTrainer(METHODS["ss_net"], classes=3)
    for seed in range(3):
        stage.step(random_batch(seed=seed))
    assert (stage.nets.memory.filled[:3] > 0).all() and not stage.nets.memory.filled[3:].any()


def test_ss_net_remembers_correct_labelled_voxels_only():
    features = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).view(2, 3, 4, 4)
    where = torch.zeros(2, 4, 4)
    where[1, 2, 3] = where[0, 0, 0] = 1.0
    got = sample_features(features, where, torch.rand(2, 4, 4, generator=seeded_generator()), most=5)
    assert sorted(v.tolist() for v in got) == sorted([features[1, :, 2, 3].tolist(), features[0, :, 0, 0].tolist()])
    assert sample_features(features, torch.zeros(2, 4, 4), torch.rand(2, 4, 4), most=5).shape == (0, 3)
    assert sample_features(features, torch.ones(2, 4, 4), torch.rand(2, 4, 4), most=5).shape == (5, 3)


def test_class_distance_is_mean_cosine_distance_to_stored_vectors():
    memory = torch.zeros(3, 4, 8)
    memory[0, :2, :2] = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    found = [torch.zeros(0, 2), torch.tensor([[3.0, 4.0]]), torch.zeros(0, 2)]
    centre, known = class_centres(memory, found)
    assert known.tolist() == [True, True, False]
    torch.testing.assert_close(centre[:2], torch.tensor([[0.5, 0.5], [0.6, 0.8]]))
    features = torch.tensor([[1.0, 0.0], [0.0, 5.0]]).view(1, 2, 1, 2)  # two voxels: (1, 0) and (0, 5)
    classes = onehot(torch.tensor([[[0, 1]]]), 3)
    by_hand = ((1 - 0.5) + (1 - 0.8)) / 2
    assert float(class_distance(features, classes, centre, known)) == pytest.approx(by_hand)


def test_memory_that_is_too_small_names_the_field_to_raise():
    for memory in (Memory(32, 4, 16), Memory(32, 256, 2)):
        stage = TinyTrainer(SSNet(memory=memory), classes=3)
        with pytest.raises(ValueError, match="raise memory"):
            stage.step(random_batch())
