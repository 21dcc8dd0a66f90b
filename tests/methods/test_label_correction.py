"""Label correction and confident learning."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from method_samples import ConstantTeacher, FixedProbabilities, at, probs_of_voxels

from edgemt.contract import Batch
from edgemt.learning import losses
from edgemt.learning.losses import onehot
from edgemt.learning.pseudo_labels import label_errors
from edgemt.learning.roles import Networks
from edgemt.methods import METHODS
from edgemt.methods.ac_mt import ConfidentLearningErrors
from edgemt.testing.tiny_training import TinyTrainer


def test_confident_learning_assigns_voxel_above_class_threshold():
    label = torch.tensor([[[0, 0, 0, 1, 1]]])
    p = probs_of_voxels((0.9, 0.1), (0.8, 0.2), (0.1, 0.9), (0.2, 0.8), (0.4, 0.6))
    # bars: class 0 at 0.6, class 1 at 0.7; the third voxel counts for class 1 against its label
    assert label_errors(label, p).flatten().tolist() == [False, False, True, False, False]
    flipped = label_errors(1 - label, p.flip(1))
    assert torch.equal(flipped, label_errors(label, p)), "foreground that is background and the reverse, alike"


def test_class_without_labels_gives_no_label_error():
    label = torch.zeros(1, 1, 3, dtype=torch.int64)
    p = probs_of_voxels((0.1, 0.9), (0.9, 0.1), (0.2, 0.8))
    assert not label_errors(label, p).any()
    assert ConfidentLearningErrors()(
        Networks({"teacher": ConstantTeacher(p[0])}), torch.zeros(1, 1, 1, 3), 1 - p, at(0.5)
    ).any()


def corrected(method, label, p, *, index):
    """The terms of a step of a hundred in which student and teacher say p of a labelled row and of another."""
    stage = TinyTrainer(method, classes=2, index=index)
    stage.nets["student"], stage.nets["teacher"] = FixedProbabilities(p.log()), FixedProbabilities(p.log())
    _, terms = next(stage.optimiser_steps(Batch(torch.zeros(2, 2, 1, label.shape[-1]), label)))
    return terms


def test_label_correction_corrects_foreground_and_background():
    """MTCL casts smoothed labels to integers, so only one of the two directions survives."""
    label = torch.tensor([[[0, 0, 0, 0, 1, 1, 1, 1]]])
    sure, not_sure = (0.97, 0.03), (0.03, 0.97)
    p = probs_of_voxels(sure, sure, sure, not_sure, not_sure, not_sure, not_sure, sure)
    terms = corrected(replace(METHODS["label_correction"], by_doubt=False), label, p, index=100)
    assert float(terms.notes["corrected"]) == pytest.approx(0.25)
    moved = torch.lerp(onehot(label, 2), onehot(p.argmax(1), 2), 0.8 * label_errors(label, p).float().unsqueeze(1))
    assert moved[0, 1, 0].tolist() == pytest.approx([0, 0, 0, 0.8, 1, 1, 1, 0.2])
    torch.testing.assert_close(terms["supervised"].detach(), losses.dice_ce(p.log(), moved))


def test_label_correction_ramps_up():
    label = torch.tensor([[[0, 0, 0, 1, 1, 1]]])
    p = probs_of_voxels((0.97, 0.03), (0.97, 0.03), (0.03, 0.97), (0.03, 0.97), (0.03, 0.97), (0.97, 0.03))
    plain = losses.dice_ce(p.log(), label)
    gaps = [plain - corrected(METHODS["label_correction"], label, p, index=i)["supervised"].detach() for i in (0, 100)]
    assert 0 < float(gaps[0]) < 0.02 * float(gaps[1])
