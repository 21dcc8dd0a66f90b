"""AC-MT: which voxels its selectors choose."""

from __future__ import annotations

import math

import pytest
import torch
from method_samples import NoNetworks, at, probs_of_voxels, random_tensor
from torch import nn

from edgemt.contract import Output
from edgemt.learning import losses
from edgemt.learning.roles import Networks
from edgemt.methods.ac_mt import EntropyThreshold, McUncertainty, PrototypeDisagreement, TopKEntropy


def test_entropy_threshold_rises_and_depends_on_number_of_classes():
    student_probs = probs_of_voxels((1 / 3, 1 / 3, 1 / 3), (0.6, 0.3, 0.1), (0.98, 0.01, 0.01))
    threshold = float(losses.entropy(student_probs)[0, 0, 0, 1]) / math.log(3)
    assert 0.75 < threshold < 0.95
    image = torch.zeros(1, 1, 1, 3)
    assert EntropyThreshold()(NoNetworks(), image, student_probs, at(0.0)).flatten().tolist() == [True, True, False]
    assert EntropyThreshold()(NoNetworks(), image, student_probs, at(1.0)).flatten().tolist() == [True, False, False]


def test_top_k_entropy_selects_a_fraction_of_each_image():
    student_probs = (random_tensor(3, 2, 5, 4) * torch.tensor([0.1, 1.0, 20.0]).view(3, 1, 1, 1)).softmax(1)
    chosen = TopKEntropy(share=0.25)(NoNetworks(), random_tensor(3, 1, 5, 4), student_probs, at(0.5))
    assert chosen.flatten(1).sum(1).tolist() == [5, 5, 5]
    with pytest.raises(ValueError, match="share: 0.0"):
        TopKEntropy(share=0.0)


def test_mc_uncertainty_selects_voxels_whose_passes_disagree():
    class Wavering(nn.Module):
        """Sure of the first voxel; of the second, sure of another class at each look."""

        def forward(self, x):
            turn = torch.arange(len(x)) % 2
            p = torch.tensor([[[0.99, 0.99], [0.01, 0.01]], [[0.99, 0.01], [0.01, 0.99]]])[turn]
            return Output(p.log().unsqueeze(2))

    players = Networks({"student": Wavering()})
    student_probs = probs_of_voxels((0.99, 0.01), (0.99, 0.01))
    assert McUncertainty(passes=4)(players, torch.zeros(1, 1, 1, 2), student_probs, at(0.5)).flatten().tolist() == [
        False,
        True,
    ]


class Shows(nn.Module):
    """Says given probabilities, shows given features, and wavers at given voxels."""

    def __init__(self, p, features, waver):
        super().__init__()
        self.p, self.features, self.waver = p, features, waver

    def forward(self, x):
        turn = (torch.arange(len(x)) % 2).view(-1, 1, 1, 1).float()
        logits = self.p.log() + turn * self.waver * (self.p.flip(1).log() - self.p.log())
        return Output(logits, self.features.expand(len(x), -1, -1, -1))


def test_prototypes_leave_out_unreliable_voxels():
    """The last voxel looks like nothing else; the release calls it background and drags that prototype along."""
    p = probs_of_voxels((0.9, 0.1), (0.9, 0.1), (0.1, 0.9), (0.1, 0.9), (0.95, 0.05))
    features = torch.tensor([[0.0, 0.0, 1.0, 1.0, 9.0]]).view(1, 1, 1, 5)
    waver = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0])
    players = Networks({"teacher": Shows(p, features, waver)})
    student_probs = probs_of_voxels((0.9, 0.1), (0.1, 0.9), (0.1, 0.9), (0.9, 0.1), (0.1, 0.9))
    found = PrototypeDisagreement()(players, torch.zeros(1, 1, 1, 5), student_probs, at(0.5))
    assert found.flatten().tolist() == [False, True, False, True, False]
