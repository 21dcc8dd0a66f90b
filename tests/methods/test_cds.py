"""CDS: voxels of the more confident student."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from method_samples import ConstantTeacher, NoNetworks, at, probs_of_voxels
from target_rule_checks import check_masked_voxels_do_not_count

from edgemt.learning import losses
from edgemt.learning.losses import consistency_loss, cross_entropy
from edgemt.learning.method import LossTerms
from edgemt.learning.pseudo_labels import predict_probabilities
from edgemt.methods.ac_mt import EntropyThreshold
from edgemt.methods.cds import CDS
from edgemt.testing.tiny_training import TinyTrainer, random_batch


def test_masked_consistency_leaves_masked_voxels_out_of_the_mean():
    """CDS: voxels that were not chosen must not count, in AC-MT's mean either."""
    check_masked_voxels_do_not_count(consistency_loss)
    target_probs = probs_of_voxels((0.5, 0.5), (0.999, 0.001))
    target = probs_of_voxels((0.7, 0.3), (0.001, 0.999))
    chosen = EntropyThreshold()(NoNetworks(), torch.zeros(1, 1, 1, 2), target_probs, at(0.5)).float()
    torch.testing.assert_close(losses.weighted_mean(losses.mse(target_probs, target), chosen), torch.tensor(0.04))


@dataclass(frozen=True)
class LoserTimesZero(CDS):
    """CDS as released: the loser's logits times 0 are an even guess that stays in the mean."""

    def losses(self, nets, batch, step):
        terms = super().losses(nets, batch, step)
        logits = {who: nets[who](batch.image).logits[batch.count :] for who in ("student", "peer")}
        label = predict_probabilities(nets.teacher, batch.unlabelled).argmax(1)
        sure = {who: target_probs.softmax(1).amax(1, keepdim=True) for who, target_probs in logits.items()}
        won = (sure["student"] > sure["peer"]).float()
        return LossTerms(**{**terms, "pseudo_student": cross_entropy(won * logits["student"], label)})


@pytest.mark.parametrize(("rule", "counts"), [(CDS, False), (LoserTimesZero, True)])
def test_cds_leaves_voxels_of_the_other_student_out_of_the_mean(rule, counts):
    """The student wins the left half and says there what the teacher says; what it lost costs it nothing."""
    stage = TinyTrainer(replace(rule(), noise=replace(rule().noise, std=0.0)), classes=2, total=1, index=1)
    half = torch.zeros(2, 8, 8)
    half[0, :, :4], half[0, :, 4:] = 1 - 1e-7, 0.6
    half[1] = 1 - half[0]
    stage.nets["student"], stage.nets["teacher"] = ConstantTeacher(half), ConstantTeacher(half)
    stage.nets["peer"] = ConstantTeacher(torch.tensor([0.9, 0.1]).view(2, 1, 1).expand(2, 8, 8))
    b = random_batch(classes=2)
    b = replace(b, image=b.image[..., :8, :8], label=b.label[:, :8, :8])
    _, paid = next(stage.optimiser_steps(b))
    cost = float(paid["pseudo_student"])
    assert cost == pytest.approx(0.5 * math.log(2), rel=1e-3) if counts else cost < 1e-5
