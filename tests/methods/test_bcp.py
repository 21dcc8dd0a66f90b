"""BCP: copy-paste, its two stages and losses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from method_samples import ConstantOutput, random_logits, seeded_generator
from torch import Tensor, nn

from edgemt.contract import Output, Step
from edgemt.learning.losses import cross_entropy, dice, onehot
from edgemt.learning.perturbations.mixing import CutMixBox
from edgemt.learning.pseudo_labels import largest_component
from edgemt.learning.roles import Networks
from edgemt.methods import METHODS
from edgemt.methods.bcp import copy_paste, mixed_region_loss
from edgemt.testing.tiny_training import TinyTrainer, random_batch


def test_copy_paste_shows_every_voxel_of_both_images_once():
    one, other = torch.zeros(3, 1, 12, 9, 6), torch.ones(3, 1, 12, 9, 6)
    block = METHODS["bcp"].box.sample(one, seeded_generator())
    assert [round(float(b.float().mean()), 3) for b in block] == [round((2 / 3) ** 3, 3)] * 3
    outward, inward = copy_paste(block, one, other).chunk(2)
    assert torch.equal(outward + inward, torch.ones_like(one)) and torch.equal(outward, block.float())


def test_mixed_region_loss_ignores_voxels_outside_its_region():
    """A former release for slices counted the background of the whole image in its masked Dice."""
    g = seeded_generator()
    outward, inward, label = random_logits(2), random_logits(2, seed=1), torch.randint(0, 3, (2, 12, 10), generator=g)
    weight = CutMixBox(low=2 / 3, high=2 / 3, chance=1.0).sample(outward, g).float()
    want = mixed_region_loss(outward, inward, label, weight)
    changed = torch.where(weight > 0, outward, 5 * torch.randn(outward.shape, generator=g))
    torch.testing.assert_close(mixed_region_loss(changed, inward, label, weight), want)
    torch.testing.assert_close(mixed_region_loss(outward, torch.where(weight > 0, 9.0, inward), label, weight), want)
    assert not torch.allclose(mixed_region_loss(torch.where(weight > 0, 9.0, outward), inward, label, weight), want)

    def whole(logits: Tensor) -> Tensor:
        return dice(logits.softmax(1), onehot(label, 3) * weight, background=True)

    assert not torch.allclose(whole(outward), whole(changed)), "the planted bug does look"


def test_bcp_pretraining_is_a_fraction_of_the_run_and_uses_labelled_images_only():
    stage = TinyTrainer(replace(METHODS["bcp"], pretrain=0.12), total=100)
    weights = list(stage.nets.student.parameters())
    slopes = {}
    for index in (11, 12):
        for bright in (1.0, 2.0):
            stage.index, b = index, random_batch()
            b = replace(b, image=torch.cat([b.labelled, bright * b.unlabelled]))
            (_, terms), *_ = stage.optimiser_steps(b)
            assert ("pasted" in terms) == (index == 12)
            slopes[index, bright] = torch.autograd.grad(sum(terms.values()), weights, allow_unused=True)
    same = {
        i: all(torch.equal(a, b) for a, b in zip(slopes[i, 1.0], slopes[i, 2.0], strict=True) if a is not None)
        for i in (11, 12)
    }
    assert same == {11: True, 12: False}


@pytest.mark.parametrize(("index", "share", "worth"), [(0, 0.5, 0.5), (50, 1.0, 0.5)])
def test_bcp_losses_are_averaged_in_pretraining_and_summed_after(index, share, worth):
    """As released: 1 for a labelled region and 0.5 for the other, over two sums; the first stage has one input."""
    b, logits = random_batch(labelled=3, unlabelled=3), random_logits(6)
    nets = Networks({"student": ConstantOutput(logits), "teacher": ConstantOutput(random_logits(3, seed=5))})
    terms = METHODS["bcp"].losses(nets, b, Step(index, 100, seeded_generator()))
    weight = 1.0 - METHODS["bcp"].box.sample(b.labelled[:1], seeded_generator()).float().expand(3, -1, -1, -1)
    outward, inward = logits.chunk(2)

    def cost(x: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        return 0.5 * (
            cross_entropy(x, label, weight=weight)
            + dice(x.softmax(1), onehot(label, 3), weight=weight, background=True)
        )

    both = cost(outward, b.label, weight) + cost(inward, b.label, 1.0 - weight)
    torch.testing.assert_close(terms["supervised"], share * both)
    name = "pasted" if index else "supervised_pasted"
    pseudo_label = largest_component(nets.teacher.out.logits.argmax(1), classes=3) if index else b.label.roll(1, 0)
    other = cost(outward, pseudo_label, 1.0 - weight) + cost(inward, pseudo_label, weight)
    torch.testing.assert_close(terms[name], worth * other)


def test_pseudo_labels_are_reduced_to_the_largest_component():
    """A teacher's second, smaller piece teaches nothing: the loss is that of a teacher without it."""

    class ConstantTeacher(nn.Module):
        def __init__(self, label: Tensor) -> None:
            super().__init__()
            self.logits = 20 * onehot(label, 2)

        def forward(self, x: Tensor) -> Output:
            return Output(self.logits.expand(len(x), *self.logits.shape[1:]))

    clean = torch.zeros(1, 12, 10, dtype=torch.int64)
    clean[:, 1:6, 1:6] = 1
    speck = clean.clone()
    speck[:, 9:11, 8] = 1
    b, student = random_batch(classes=2), ConstantOutput(random_logits(6, classes=2))
    got = [
        METHODS["bcp"].losses(
            Networks({"student": student, "teacher": ConstantTeacher(pseudo_label)}), b, Step(1, 1, seeded_generator())
        )["pasted"]
        for pseudo_label in (clean, speck)
    ]
    assert torch.equal(*got)
