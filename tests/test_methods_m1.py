"""The comparison methods by hand: each loss against a small case, each published mistake planted again."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import teachers
from edgemt.contract import Batch, Output, Step
from edgemt.data.augment2d import AugmentOptions
from edgemt.data.options import VolumeOptions
from edgemt.data.slice_dataset import Stack, TwoStream
from edgemt.data.volume_dataset import VolumeStack, VolumeStream
from edgemt.learning.auxiliary_tasks import mask_from_sdf
from edgemt.learning.losses import cross_entropy, dice, dice_ce, onehot
from edgemt.learning.method import LossTerms
from edgemt.learning.perturbations.features import AttentionDrop, FeatureDropout, FeatureNoise
from edgemt.learning.perturbations.mixing import CutMixBox
from edgemt.learning.pseudo_labels import (
    largest_component,
    sharpen,
    signed_distance,
    signed_distance_on_device,
    squared_distance,
)
from edgemt.learning.roles import Memory, Networks, build_networks, set_modes
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.methods import METHODS, Discriminator
from edgemt.methods.bcp import copy_paste, mixed_region_loss
from edgemt.methods.ss_net import SSNet, class_centres, class_distance, sample_features
from edgemt.methods.temporal_ensembling import TemporalEnsembling, cell_means
from edgemt.model_card import Normalisation
from edgemt.testing.tiny_training import CHANNELS, TinyTrainer, random_batch
from edgemt.training.engine import Trainer
from edgemt.training.options import Schedule

MINE = ("bcp", "cct", "dtc", "ict", "mc_net", "mc_net_plus", "pi_model", "sassnet", "ss_net", "urpc", "vat")
MINE += ("temporal_ensembling",)
FULL = SigmoidRampUp(top=1.0, length=0.0)


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Given(nn.Module):
    """Says the same whatever it sees, with leaves that gradients can be asked of."""

    def __init__(self, logits: Tensor, *others: Tensor, sdf: Tensor | None = None) -> None:
        super().__init__()
        leaves = tuple(x.requires_grad_() for x in others)
        self.out = Output(logits.requires_grad_(), None, sdf, scales=leaves, decoders=leaves)

    def forward(self, x: Tensor, disturb_scales: object = None) -> Output:
        return self.out


def paid(method, network: nn.Module, batch: Batch, step: Step | None = None) -> LossTerms:
    _, terms = next(method.steps(Networks({"student": network}), batch, step or Step(1, 1, chance())))
    return terms


def logits_of(count: int, *, classes: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, classes, 12, 10, generator=chance(seed))


# --- noisy and earlier looks ---


def test_pi_model_compares_two_looks_that_differ_and_teaches_both():
    seen: list[Tensor] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Output:
            seen.append(x)
            return Output(x)

    b = random_batch(classes=2)
    terms = paid(replace(METHODS["pi_model"], ramp=FULL), Watched(), b)
    one, other = seen[0][2:].chunk(2)
    assert not torch.equal(one, other) and (one - other).abs().max() <= 0.4 + 1e-6
    want = (one.softmax(1) - other.softmax(1)).square().mean()
    torch.testing.assert_close(terms["consistency"], want)


def test_cells_hold_the_mean_of_the_voxels_that_lie_in_them():
    p = torch.rand(1, 2, 4, 4, generator=chance())
    means, voxels = cell_means(p, torch.eye(2, 3)[None], cells=4)
    assert means.shape == (1, 2, 4) and (voxels == 4).all()
    torch.testing.assert_close(means.view(1, 2, 2, 2), F.avg_pool2d(p, 2))
    half = torch.tensor([[[0.5, 0.0, 0.5], [0.0, 0.5, -0.5]]])  # the patch is the upper right quarter
    means, voxels = cell_means(p, half, cells=4)
    assert voxels[0, 0].tolist() == [0, 16, 0, 0]
    torch.testing.assert_close(means[0, :, 1], p[0].mean((1, 2)))
    beyond = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])  # its right half lies outside of the image
    assert cell_means(p, beyond, cells=4)[1][0, 0].tolist() == [0, 4, 0, 4]


def remembering(rows: int = 2, **options) -> tuple[TemporalEnsembling, Networks, Batch]:
    method = replace(METHODS["temporal_ensembling"], ramp=FULL, images=8, cells=4, **options)
    b = random_batch(classes=3, unlabelled=rows)
    nets = build_networks(method.roles(), lambda kind, init: Given(logits_of(2 + rows)))
    return method, nets, b


def test_the_ensemble_is_what_was_said_before_with_the_start_up_corrected():
    method, nets, b = remembering()
    told = []
    for k in range(3):
        logits = logits_of(4, seed=k)
        nets["student"] = Given(logits)
        (_, terms), *_ = list(method.steps(nets, b, Step(1, 1, chance())))
        told.append((cell_means(logits[2:].softmax(1), b.place[2:], cells=4)[0].detach(), terms["consistency"].item()))
    (first, none), (second, gap), (third, last) = told
    assert none == 0.0, "nothing was said before"
    assert gap == pytest.approx(float((second - first).square().mean()), rel=1e-4)
    target = (0.6 * 0.4 * first + 0.4 * second) / (1 - 0.6**2)
    assert last == pytest.approx(float((third - target).square().mean()), rel=1e-4)


def test_a_step_that_fails_leaves_the_ensemble_alone():
    for name in ("temporal_ensembling", "ss_net"):
        stage = TinyTrainer(METHODS[name])
        memory = next(stage.nets[who] for who in stage.of(Memory))
        turns = stage.optimiser_steps(random_batch())
        next(turns)
        turns.close()  # what the engine does after a loss that is not finite
        assert not memory.vectors.any() and not memory.filled.any()


def test_an_ensemble_without_room_or_place_says_what_to_do():
    method, nets, b = remembering()
    for wrong, other, said in (
        (method, replace(b, index=b.index + 5), "images: 8 is too few"),
        (replace(method, classes=2), b, "classes: 2 is too few"),
        (method, replace(b, index=None), "do not say which image"),
    ):
        with pytest.raises(ValueError, match=said):
            list(wrong.steps(nets, other, Step(1, 1, chance())))


def test_the_adversarial_push_hurts_more_than_a_random_one_of_its_length():
    torch.manual_seed(0)
    method = replace(METHODS["vat"], reach=3.0, probe=1.0)
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


def test_interpolation_compares_a_mixture_with_the_mixture_of_what_is_said():
    """A student and a teacher that say what they see agree at every mixture, and at none when only images are mixed."""

    class Linear(nn.Module):
        def forward(self, x: Tensor) -> Output:
            return Output(x.clamp_min(1e-6).log())

    b = random_batch(classes=2, strong=False)
    b = replace(b, image=b.image.softmax(1))
    nets = Networks({"student": Linear(), "teacher": Linear()})
    method = replace(METHODS["ict"], ramp=FULL)
    assert float(method.losses(nets, b, Step(1, 1, chance()))["consistency"]) < 1e-8
    assert METHODS["mean_teacher"].mix == "none" and method.target.noise.std == 0.0


# --- scales, decoders, features ---


def test_the_pyramid_is_the_released_formula():
    b = random_batch(labelled=1, unlabelled=2)
    scales = [logits_of(3, seed=k) for k in range(4)]
    terms = paid(replace(METHODS["urpc"], ramp=FULL), Given(*scales), b)
    p = [s[1:].softmax(1) for s in scales]
    middle = sum(p) / 4
    want = 0.0
    for one in p:
        doubt = (middle * (middle.log() - one.log())).sum(1, keepdim=True)
        weight = torch.exp(-doubt)
        want += ((middle - one) ** 2 * weight).mean() / (weight.mean() + 1e-8) + doubt.mean()
    torch.testing.assert_close(terms["consistency"], want / 4, rtol=1e-4, atol=1e-6)
    known = sum(dice_ce(s[:1], b.label) for s in scales) / 4
    torch.testing.assert_close(terms["supervised"], known)


def test_a_decoder_is_taught_by_sharpened_peers_and_never_teaches_through_them():
    """MC-Net's release lets the gradient of one decoder's loss into the other, through its sharpened target."""
    b, one, two = random_batch(), logits_of(5), logits_of(5, seed=1)
    terms = paid(replace(METHODS["mc_net"], ramp=FULL), Given(one, two), b)
    (slope,) = torch.autograd.grad(terms["mutual"], one)
    alone = one.detach().requires_grad_()
    q = sharpen(two.softmax(1), temperature=0.1)
    (want,) = torch.autograd.grad((alone.softmax(1) - q).square().mean(), alone)
    torch.testing.assert_close(slope, want)
    released = (one.softmax(1) - q).square().mean()
    attached = (two.softmax(1) - (one.softmax(1).log() / 0.1).softmax(1)).square().mean()
    (wrong,) = torch.autograd.grad(released + attached, one)
    assert not torch.allclose(slope, wrong, rtol=1e-2)
    torch.testing.assert_close(q.sum(1), torch.ones_like(q[:, 0])), "sharpened targets are probabilities"


def test_three_decoders_make_six_pairs():
    b, every = random_batch(), [logits_of(5, seed=k) for k in range(3)]
    terms = paid(replace(METHODS["mc_net_plus"], ramp=FULL), Given(*every), b)
    q = [sharpen(x.softmax(1), temperature=0.1) for x in every]
    want = sum((every[i].softmax(1) - q[j]).square().mean() for i in range(3) for j in range(3) if i != j)
    torch.testing.assert_close(terms["mutual"], want)


def test_cross_consistency_encodes_once_and_leaves_the_labelled_rows_clean():
    read: list[Tensor] = []

    class Reader(nn.Module):
        def forward(self, x: Tensor, disturb) -> Output:
            read.append(disturb(x))
            return Output(read[0])

    b = random_batch(classes=2)
    terms = paid(replace(METHODS["cct"], ramp=FULL), Reader(), b)
    (rows,) = read
    assert len(rows) == 5 + 3 * 3 and torch.equal(rows[:5], b.image)
    clean = b.unlabelled.softmax(1)
    want = sum((rows[5 + 3 * k : 8 + 3 * k].softmax(1) - clean).square().mean() for k in range(3)) / 3
    torch.testing.assert_close(terms["consistency"], want)


@pytest.mark.parametrize("size", [(8, 6), (6, 4, 4)])
def test_disturbed_features_are_what_they_say(size: tuple[int, ...]):
    x = torch.rand(4, 64, *size, generator=chance()) + 0.5
    noise = FeatureNoise(span=0.3)(x, chance()) / x
    assert noise.min() >= 0.7 and noise.max() <= 1.3 and torch.allclose(noise[0], noise[1], atol=1e-5)
    whole = FeatureDropout(rate=0.5)(x, chance()).flatten(2)
    gone = (whole == 0).all(2)
    assert torch.equal(gone, (whole == 0).any(2)) and 0.3 < gone.float().mean() < 0.7
    torch.testing.assert_close(whole[~gone], 2 * x.flatten(2)[~gone])
    assert 0.2 < float((FeatureDropout(rate=0.3, channels=False)(x, chance()) == 0).float().mean()) < 0.4
    dropped = AttentionDrop(low=0.8, high=0.8)(x, chance())
    mean = x.mean(1, keepdim=True)
    loud = (mean >= 0.8 * mean.flatten(1).amax(1).view(-1, 1, *[1] * len(size))).expand_as(x)
    assert (dropped[loud] == 0).all() and torch.equal(dropped[~loud], x[~loud])
    for way in (FeatureNoise(), FeatureDropout(), AttentionDrop()):
        assert torch.equal(way(x, chance()), way(x, chance()))


# --- distances ---


def test_the_mask_of_a_distance_is_a_step_at_zero_for_each_class():
    sdf = torch.tensor([-0.5, -0.01, 0.0, 0.01, 0.5]).view(1, 1, 5, 1)
    assert mask_from_sdf(sdf, steepness=1500.0).flatten().tolist() == pytest.approx([1, 1, 0.5, 0, 0], abs=1e-4)


def test_dual_task_consistency_is_nothing_where_both_tasks_tell_one_story():
    label = torch.randint(0, 3, (2, 12, 10), generator=chance())
    b = replace(random_batch(unlabelled=0), label=label)
    inside = onehot(label, 3)[:, 1:]
    agreed = Given(onehot(label, 3) * 40, sdf=1.0 - 2.0 * inside)
    method = replace(METHODS["dtc"], ramp=FULL)
    assert paid(method, agreed, b)["consistency"].item() < 1e-6
    # one class of two told the other way round: half of the foreground maps are wrong where it is
    wrong = (1.0 - 2.0 * inside) * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
    assert paid(method, Given(onehot(label, 3) * 40, sdf=wrong), b)["consistency"].item() == pytest.approx(
        0.5, abs=1e-4
    )


@pytest.mark.parametrize("size", [(13, 9), (9, 8, 7)])
def test_distances_taken_where_the_label_lies_are_the_same(size: tuple[int, ...]):
    label = torch.randint(0, 4, (3, *size), generator=chance()) * (torch.rand(3, *size, generator=chance(1)) < 0.2)
    label[1], label[2] = 2, 0  # one class everywhere, none anywhere
    exact, here = (f(label, classes=4) for f in (signed_distance, signed_distance_on_device))
    torch.testing.assert_close(here, exact)
    hit = label[:1, None] == 1
    assert torch.equal(squared_distance(hit), squared_distance(hit, voxels=1)), "in pieces as at once"


# --- SS-Net ---


def test_the_background_is_remembered_too():
    """The release filters background voxels before they are remembered, so that the memory of class 0 stays empty."""
    stage = TinyTrainer(METHODS["ss_net"], classes=3)
    for seed in range(3):
        stage.step(random_batch(seed=seed))
    assert (stage.nets.memory.filled[:3] > 0).all() and not stage.nets.memory.filled[3:].any()


def test_only_labelled_voxels_that_were_right_are_remembered():
    features = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).view(2, 3, 4, 4)
    where = torch.zeros(2, 4, 4)
    where[1, 2, 3] = where[0, 0, 0] = 1.0
    got = sample_features(features, where, torch.rand(2, 4, 4, generator=chance()), most=5)
    assert sorted(v.tolist() for v in got) == sorted([features[1, :, 2, 3].tolist(), features[0, :, 0, 0].tolist()])
    assert sample_features(features, torch.zeros(2, 4, 4), torch.rand(2, 4, 4), most=5).shape == (0, 3)
    assert sample_features(features, torch.ones(2, 4, 4), torch.rand(2, 4, 4), most=5).shape == (5, 3)


def test_features_are_drawn_to_every_vector_of_their_class_by_cosine():
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


def test_a_memory_that_is_too_small_says_what_to_raise():
    for memory in (Memory(32, 4, 16), Memory(32, 256, 2)):
        stage = TinyTrainer(SSNet(memory=memory), classes=3)
        with pytest.raises(ValueError, match="raise memory"):
            stage.step(random_batch())


# --- BCP ---


def test_both_ways_of_pasting_show_every_voxel_of_both_images_once():
    one, other = torch.zeros(3, 1, 12, 9, 6), torch.ones(3, 1, 12, 9, 6)
    block = METHODS["bcp"].box.sample(one, chance())
    assert [round(float(b.float().mean()), 3) for b in block] == [round((2 / 3) ** 3, 3)] * 3
    outward, inward = copy_paste(block, one, other).chunk(2)
    assert torch.equal(outward + inward, torch.ones_like(one)) and torch.equal(outward, block.float())


def test_the_loss_of_a_region_does_not_look_outside_of_it():
    """A former release for slices counted the background of the whole image in its masked Dice."""
    g = chance()
    outward, inward, label = logits_of(2), logits_of(2, seed=1), torch.randint(0, 3, (2, 12, 10), generator=g)
    weight = CutMixBox(low=2 / 3, high=2 / 3, chance=1.0).sample(outward, g).float()
    want = mixed_region_loss(outward, inward, label, weight)
    changed = torch.where(weight > 0, outward, 5 * torch.randn(outward.shape, generator=g))
    torch.testing.assert_close(mixed_region_loss(changed, inward, label, weight), want)
    torch.testing.assert_close(mixed_region_loss(outward, torch.where(weight > 0, 9.0, inward), label, weight), want)
    assert not torch.allclose(mixed_region_loss(torch.where(weight > 0, 9.0, outward), inward, label, weight), want)

    def whole(logits: Tensor) -> Tensor:
        return dice(logits.softmax(1), onehot(label, 3) * weight, background=True)

    assert not torch.allclose(whole(outward), whole(changed)), "the planted bug does look"


def test_the_first_stage_is_a_share_of_the_run_and_sees_labelled_images_only():
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
def test_the_ways_of_pasting_are_summed_once_the_average_labels_and_averaged_before(index, share, worth):
    """As released: 1 for a labelled region and 0.5 for the other, over two sums; the first stage has one input."""
    b, logits = random_batch(labelled=3, unlabelled=3), logits_of(6)
    nets = Networks({"student": Given(logits), "teacher": Given(logits_of(3, seed=5))})
    terms = METHODS["bcp"].losses(nets, b, Step(index, 100, chance()))
    weight = 1.0 - METHODS["bcp"].box.sample(b.labelled[:1], chance()).float().expand(3, -1, -1, -1)
    outward, inward = logits.chunk(2)

    def cost(x: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        return 0.5 * (
            cross_entropy(x, label, weight=weight)
            + dice(x.softmax(1), onehot(label, 3), weight=weight, background=True)
        )

    both = cost(outward, b.label, weight) + cost(inward, b.label, 1.0 - weight)
    torch.testing.assert_close(terms["supervised"], share * both)
    name = "pasted" if index else "supervised_pasted"
    said = largest_component(nets.teacher.out.logits.argmax(1), classes=3) if index else b.label.roll(1, 0)
    other = cost(outward, said, 1.0 - weight) + cost(inward, said, weight)
    torch.testing.assert_close(terms[name], worth * other)


def test_pseudo_labels_keep_their_largest_piece_alone():
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
    b, student = random_batch(classes=2), Given(logits_of(6, classes=2))
    got = [
        METHODS["bcp"].losses(
            Networks({"student": student, "teacher": ConstantTeacher(said)}), b, Step(1, 1, chance())
        )["pasted"]
        for said in (clean, speck)
    ]
    assert torch.equal(*got)


# --- where a row lies in its image ---


def test_slices_say_where_in_which_image_they_lie():
    """An image whose value is a coordinate shows, after any warp, the coordinate that `place` predicts."""
    side = 32
    line = ((torch.arange(side) + 0.5) / side * 255).round().to(torch.uint8)
    options = AugmentOptions(elastic=0.0, strong=False, labelled_intensity=0.0)
    for axis, image in enumerate((line.expand(side, side), line[:, None].expand(side, side))):
        stack = image[None, :, :, None].repeat(5, 1, 1, 1)
        label = torch.zeros(5, side, side, dtype=torch.uint8)
        raw = Normalisation((0.0,), (1.0,))
        stream = TwoStream(Stack(stack[:2], label[:2]), Stack(stack[2:], None), (2, 3), options, raw)
        b = stream.batch(3)
        assert sorted(b.index[:2].tolist()) == [0, 1] and sorted(b.index[2:].tolist()) == [2, 3, 4]
        grid = F.affine_grid(b.place, list(b.image.shape), align_corners=False)
        inside = (grid.abs() < 0.9).all(-1)
        told = (grid[..., axis] + 1) / 2
        assert inside.float().mean() > 0.5 and not torch.equal(b.place[0], b.place[1])
        assert float((b.image[:, 0] - told)[inside].abs().max()) < 0.01


@pytest.mark.parametrize("shape", [(20, 26, 14), (10, 30, 6)])
def test_patches_say_where_in_which_volume_they_lie(shape: tuple[int, int, int]):
    steps = {"patch": (16, 16, 8), "stride": (8, 8, 4), "report_stride": (8, 8, 4)}
    options = VolumeOptions(**steps, strong=False, labelled_intensity=0.0)
    for axis in range(3):
        line = ((torch.arange(shape[axis]) + 0.5) / shape[axis] * 255).round().to(torch.uint8)
        volume = line.view([-1 if k == axis else 1 for k in range(3)]).expand(shape).contiguous()
        labelled = VolumeStack((volume,) * 2, (torch.ones(shape, dtype=torch.uint8),) * 2)
        stream = VolumeStream(
            labelled, VolumeStack((volume,) * 6, None), (2, 6), options, Normalisation((0.0,), (1.0,))
        )
        b = stream.batch(1)
        assert sorted(b.index[2:].tolist()) == list(range(2, 8))
        grid = F.affine_grid(b.place, list(b.image.shape), align_corners=False)
        inside = (grid.abs() < 1).all(-1)
        told = (grid[..., 2 - axis] + 1) / 2  # `affine_grid` names the last axis first
        assert float((b.image[:, 0] - told)[inside].abs().max()) < 0.003
        assert (b.image[:, 0][~inside] == 0).all()


# --- with real networks, in the engine ---


@dataclass(frozen=True)
class World:
    name: str
    dims: int

    def build(self, kind: str, init: int) -> nn.Module:
        torch.manual_seed(init)
        if kind == "discriminator":
            return Discriminator(classes=3, channels=CHANNELS, dimensions=self.dims, width=4)
        small = {"filters": 2} if self.dims == 3 else {"widths": (4, 4, 8), "dropout": (0.1,) * 3}
        name = "vnet" if self.dims == 3 else "unet"
        return teachers.build(name, channels=CHANNELS, classes=3, heads=METHODS[self.name].heads, **small)

    def sample(self, index: int, device: torch.device) -> Batch:
        g, size = chance(index), (16,) * self.dims
        image = torch.randn(4, CHANNELS, *size, generator=g)
        place = torch.eye(self.dims, self.dims + 1).repeat(4, 1, 1)
        label = torch.randint(0, 3, (2, *size), generator=g)
        moved = (x.to(device) for x in (image, label, image[2:] * 1.1))
        return Batch(*moved, index=torch.arange(4), place=place.to(device))


@pytest.mark.parametrize("name", MINE)
@pytest.mark.parametrize(("dims", "precision"), [(2, "bf16-mixed"), (3, "32-true")])
def test_it_runs_in_the_engine_with_the_networks_of_the_house(name: str, dims: int, precision, tmp_path: Path):
    world = World(name, dims)
    schedule = Schedule(steps=4, labelled=2, unlabelled=2, precision=precision, warmup=1)
    method = replace(METHODS[name], **({"images": 8, "cells": 16} if name == "temporal_ensembling" else {}))
    run = Trainer(method, build=world.build, schedule=schedule, seed=0)
    for _ in range(3):
        terms = run.step(world.sample)
        assert terms and all(math.isfinite(float(v)) for v in terms.values())
    run.save(tmp_path / "c.safetensors", key="k")
    again = Trainer(method, build=world.build, schedule=schedule, seed=1)
    again.restore(tmp_path / "c.safetensors", key="k")
    assert all(torch.equal(a, b) for a, b in zip(run.players.buffers(), again.players.buffers(), strict=True))
    assert again.index == 3
