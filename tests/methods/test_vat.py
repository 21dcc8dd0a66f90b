"""VAT: its perturbation."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from edgemt.learning.roles import set_modes
from edgemt.methods import METHODS
from edgemt.testing.tiny_training import TinyTrainer, random_batch


def test_vat_perturbation_changes_predictions_more_than_a_random_one():
    torch.manual_seed(0)
    method = replace(METHODS["vat"], epsilon=3.0, xi=1.0)
    stage = TinyTrainer(method, total=1, index=1)
    for module in stage.nets.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    b = random_batch()
    (_, terms), *_ = stage.optimiser_steps(b)
    set_modes(stage.nets, stage.roles)
    with torch.no_grad():
        calm = stage.nets.student(b.image).logits[2:].log_softmax(1)
        random = F.normalize(torch.randn(b.unlabelled.shape).flatten(1), dim=1).view_as(b.unlabelled) * 3.0
        pushed = stage.nets.student(b.unlabelled + random).logits.log_softmax(1)
        gentle = F.kl_div(pushed, calm, reduction="none", log_target=True).sum(1).mean()
        still = stage.nets.student(b.unlabelled).logits.log_softmax(1)
        batch_alone = F.kl_div(still, calm, reduction="none", log_target=True).sum(1).mean()
    assert terms["adversarial"].item() > float(gentle) > 0.0 and terms["adversarial"].item() > float(batch_alone)
