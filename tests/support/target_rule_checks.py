"""What every distance and confidence rule must keep, as functions that raise AssertionError."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from method_samples import ConstantTeacher
from torch import Tensor

from edgemt.contract import Step
from edgemt.learning.losses import consistency_loss, onehot


def check_masked_voxels_do_not_count(far=consistency_loss) -> None:
    """What has no weight is not in the mean, and what the student says there changes nothing."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, generator=g)
    q = onehot(torch.randint(0, 3, (2, 8, 8), generator=g), 3)
    weight = torch.zeros(2, 1, 8, 8)
    weight[:, :, :3] = 1.0
    other = torch.where(weight.bool(), logits, torch.randn(2, 3, 8, 8, generator=g) * 5)
    for kind in ("mse", "kl", "ce", "dice", "dice_ce"):
        masked = far(kind, logits, q, weight=weight)
        torch.testing.assert_close(far(kind, other, q, weight=weight), masked, msg=f"{kind}: looks behind the mask")
        alone = far(kind, logits[:, :, :3], q[:, :, :3])
        torch.testing.assert_close(masked, alone, msg=f"{kind}: masked voxels are in the mean")


def check_the_bar_knows_the_number_of_classes(rule, *, classes: int) -> None:
    """At the end of the run everything passes; at the start an even guess does not and a fair one does."""
    even = torch.full((classes,), 1.0 / classes)
    fair = F.normalize(torch.tensor([1.0] + [0.25 / (classes - 1)] * (classes - 1)), p=1, dim=0)
    image = torch.zeros(2, 1, 4, 4)

    def accepted(p: Tensor, index: int) -> float:
        step = Step(index, 100, torch.Generator().manual_seed(0))
        _, weight = rule(ConstantTeacher(p.view(-1, 1, 1).expand(classes, 4, 4)), image, step)
        return float(weight.mean())

    assert accepted(fair, 100) == 1.0, "at the end something is still refused"
    assert accepted(even * 0.9 + fair * 0.1, 100) == 1.0, "at the end something is still refused"
    assert accepted(even, 0) == 0.0, "an even guess was believed"
    assert accepted(fair, 0) == 1.0, "a fair guess was refused"
