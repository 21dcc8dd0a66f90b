"""Views, selectors and corrections of the improved mean teachers, each against a case worked out by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contract_of_a_rule import check_masked_voxels_do_not_count
from scipy.fft import dctn
from torch import nn

from edgemt.contract import Batch, Output, Step
from edgemt.learning import losses
from edgemt.learning.ema import LossGatedEma
from edgemt.learning.losses import consistency_loss, onehot
from edgemt.learning.perturbations.intensity import GaussianNoise, apply_shadow, shadow_mask
from edgemt.learning.perturbations.mixing import PatchGrid
from edgemt.learning.perturbations.spatial import Affine, invert_affine, valid_region, warp
from edgemt.learning.pseudo_labels import label_errors, mc_outputs
from edgemt.learning.roles import Memory, Networks, Trainable, build_networks, update_averages
from edgemt.learning.targets import AdaptiveThreshold, AffineConsistent
from edgemt.methods import METHODS
from edgemt.methods.ac_mt import (
    ConfidentLearningErrors,
    EntropyThreshold,
    McUncertainty,
    PrototypeDisagreement,
    TopKEntropy,
)
from edgemt.methods.er_mt import neighbour_similarity, self_information
from edgemt.methods.frcnet import cosine_transform, frequency_loss, region_similarity
from edgemt.methods.patch_shuffle import class_balanced_sample
from edgemt.methods.self_similarity import neighbouring_patches
from edgemt.testing.check_losses import check_every_loss_has_gradient
from edgemt.testing.tiny_training import ConstantTeacher, TinyNetwork, TinyTrainer, random_batch

MINE = (
    *("ac_mt", "ac_mt_label_errors", "ac_mt_most_doubtful", "ac_mt_prototypes", "ac_mt_unstable"),
    *("adaptive_threshold", "affine_mt", "cople", "double_uncertainty", "er_mt", "feature_aggregation", "frcnet"),
    *("fussnet", "label_correction", "lg_er_mt", "ms_mt", "patch_shuffle", "patch_swap", "sco_ssl"),
    *("self_similarity", "tripled_uncertainty", "ug_mcl"),
)
SPACES = pytest.mark.parametrize("size", [(9, 6), (8, 6, 5)])


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def at(share: float) -> Step:
    return Step(round(100 * share), 100, chance())


def places(size: tuple[int, ...]) -> torch.Tensor:
    """[1, D, *space]: where each voxel lies, from -1 to 1."""
    return torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, n) for n in size], indexing="ij"))[None]


# --- views ---


@SPACES
def test_a_view_that_moves_nothing_is_the_image_even_where_products_are_rounded(size):
    x = some(2, 3, *size)
    still = Affine(degrees=0.0, zoom=0.0, shift=0.0).sample(x, chance())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = warp(still, x)
    torch.testing.assert_close(seen, x, rtol=1e-4, atol=1e-4)
    assert valid_region(still, x).all()


def test_a_quarter_turn_of_an_oblong_image_turns_voxels_and_not_shares():
    """A cross, as long as wide in voxels, is the same cross after a quarter turn though the image is not square."""
    x = torch.zeros(1, 1, 13, 9)
    x[:, :, 6, 2:7] = 1.0
    x[:, :, 4:9, 4] = 2.0
    quarter = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])
    half = torch.tensor([13.0, 9.0])
    quarter[:, :, :2] *= half / half[:, None]
    seen = warp(quarter, x)
    assert torch.allclose(seen[0, 0, 6, 2:7], torch.tensor([2.0, 2.0, 2.0, 2.0, 2.0]), atol=1e-4)
    assert torch.allclose(seen[0, 0, [4, 8], 4], torch.ones(2), atol=1e-4)
    drawn = Affine(degrees=90.0, zoom=0.0, shift=0.0).sample(x, chance())[:, :, :2]
    rigid = drawn * half[:, None] / half
    torch.testing.assert_close(rigid @ rigid.transpose(1, 2), torch.eye(2)[None])


@SPACES
def test_there_and_back_is_where_one_was(size):
    place = places(size).repeat(3, 1, *[1] * len(size))
    there = Affine(degrees=15.0, zoom=0.1, shift=0.1).sample(place, chance())
    back = invert_affine(there)
    inner = valid_region(there, place) & valid_region(back, place)
    inner &= (place.abs() < 0.5).all(1, keepdim=True)
    returned = warp(back, warp(there, place))
    assert inner.any()
    gap = ((returned - place).abs() * inner).amax()
    assert float(gap) < 1e-3, "coordinates are linear, so linear interpolation keeps them"


@SPACES
def test_an_affine_view_puts_back_what_a_pointwise_teacher_says(size):
    """A teacher that looks at single voxels says the same of a turned view, turned back, where it is trusted."""

    class Pointwise(nn.Module):
        def forward(self, x):
            return Output(torch.cat([x, -x], 1))

    slope = places(tuple(3 * n for n in size)).sum(1, keepdim=True).repeat(2, 1, *[1] * len(size))
    p, weight = AffineConsistent(noise=GaussianNoise(std=0.0))(Pointwise(), slope, at(0.5))
    want = torch.cat([slope, -slope], 1).softmax(1)
    assert 0.5 < float(weight.mean()) < 1.0
    gap = float((weight * (p - want).abs()).amax())
    not_put_back = warp(Affine().sample(slope, at(0.5).generator), want)
    assert gap < 0.05, "half a voxel at the rim"
    assert float((weight * (not_put_back - want).abs()).amax()) > 4 * gap
    torch.testing.assert_close(p.sum(1), torch.ones_like(p[:, 0]))


@SPACES
def test_shuffled_cells_are_the_same_cells_and_an_order_can_be_undone(size):
    cells, x = PatchGrid(side=3), some(2, 4, *size)
    order = cells.order(x, chance())
    moved = cells.shuffle(order, x)
    assert not torch.equal(moved, x)
    assert torch.equal(moved.flatten(2).sort(2).values, x.flatten(2).sort(2).values)
    assert torch.equal(cells.shuffle(order.argsort(1), moved), x)
    assert torch.equal(cells.shuffle(order, x[:, :1]), moved[:, :1]), "image and target move alike"


def test_a_shuffled_cell_stays_whole_and_the_rim_stays_in_place():
    x = torch.arange(25.0).view(1, 1, 5, 5)
    swapped = PatchGrid(side=2).shuffle(torch.tensor([[3, 1, 2, 0]]), x)
    assert swapped[0, 0, :2, :2].tolist() == [[12.0, 13.0], [17.0, 18.0]]
    assert swapped[0, 0, 2:4, 2:4].tolist() == [[0.0, 1.0], [5.0, 6.0]]
    assert torch.equal(swapped[..., 4, :], x[..., 4, :])


@SPACES
def test_half_of_the_cells_are_picked_in_every_image(size):
    picked = PatchGrid(side=4).sample(some(5, 2, *size), chance())
    assert picked.shape == (5, 1, *size)
    assert (picked.float().mean((1, *range(2, picked.ndim))) - 0.5).abs().max() < 0.2


def test_darkness_is_half_a_cosine_between_black_and_grey():
    image = torch.tensor([0.0, 1.0, 30.5, 60.0, 255.0]).view(1, 1, 1, 5)
    want = [0.0, 0.0, 0.5, 1.0, 1.0]
    assert torch.allclose(shadow_mask(image).flatten(), torch.tensor(want), atol=1e-6)
    assert torch.allclose(shadow_mask(image * 0.02 - 3).flatten(), torch.tensor(want), atol=1e-4), (
        "levels know the range"
    )
    assert torch.allclose(apply_shadow(image * 0.02 - 3, torch.zeros(1, 1, 1, 5)), torch.tensor(-3.0)), (
        "black, not grey"
    )


# --- losses ---


def test_noise_robust_dice_is_its_formula_and_lies_between_mae_and_dice():
    p, q = torch.tensor([0.8, 0.3]).view(1, 1, 1, 2), torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    for power in (1.0, 1.5, 2.0):
        want = (0.2**power + 0.3**power) / (1.1 + 1.0)
        assert float(losses.noise_robust_dice(p, q, gamma=power)) == pytest.approx(want, rel=1e-4)
    p = p.clone().requires_grad_()
    losses.noise_robust_dice(p, p.detach()).backward()
    assert torch.isfinite(p.grad).all(), "a perfect voxel has a finite slope"


def test_a_wrong_label_costs_less_with_a_lower_power():
    q = onehot(torch.tensor([[[1, 1, 1, 0]]]), 2)
    right = onehot(torch.tensor([[[1, 1, 0, 0]]]), 2) * 0.96 + 0.02  # the third label is wrong
    shares = []
    for power in (1.0, 2.0):
        p = right.clone().requires_grad_()
        losses.noise_robust_dice(p, q, gamma=power).backward()
        slope = p.grad.abs().sum(1).flatten()
        shares.append(float(slope[2] / slope.sum()))
    assert shares[0] < shares[1]


def test_focal_and_overlap_are_their_formulas():
    logits = torch.tensor([[0.0, 2.0], [1.0, 0.0]]).T.reshape(1, 2, 1, 2)
    label = torch.tensor([[[1, 0]]])
    truth = logits.softmax(1).gather(1, label.unsqueeze(1)).flatten()
    want = ((1 - truth) ** 2 * -truth.log()).mean()
    torch.testing.assert_close(losses.focal(logits, label), want)
    p = torch.tensor([0.5, 0.9, 0.1]).view(1, 1, 1, 3)
    p = torch.cat([1 - p, p], 1)
    q = onehot(torch.tensor([[[1, 1, 0]]]), 2)
    assert float(losses.soft_iou_loss(p, q)) == pytest.approx(1 - 1.4 / (0.5 + 1 + 0.9 + 1 + 0.1 - 1.4), abs=1e-4)
    other = torch.where(torch.tensor([True, True, False]), p, 1 - p)
    weight = torch.tensor([1.0, 1.0, 0.0]).view(1, 1, 1, 3)
    assert torch.equal(losses.soft_iou_loss(p, q, weight=weight), losses.soft_iou_loss(other, q, weight=weight))


def test_pixel_contrast_by_hand():
    anchor, key = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    label = torch.tensor([0, 1, 0])
    alike = F.normalize(anchor, dim=1) @ F.normalize(key, dim=1).T / 0.5
    share = alike.softmax(1)
    zeros = [-(share[i, 0].log() + share[i, 2].log()) / 2 for i in (0, 2)]
    want = (zeros[0] + zeros[1] - share[1, 1].log()) / 3
    torch.testing.assert_close(losses.pixel_contrast(anchor, key, label, temperature=0.5), want)


@SPACES
def test_the_cosine_transform_is_scipys(size):
    x = some(2, 3, *size)
    want = dctn(x.numpy(), axes=tuple(range(2, x.ndim)), norm="ortho")
    np.testing.assert_allclose(cosine_transform(x).numpy(), want, atol=1e-4)


def test_a_gap_of_frequencies_tells_bands_apart_where_plain_distances_cannot():
    """A constant shift lies in the low band alone; the same energy in fine detail costs more, its band having less."""
    theirs = F.interpolate(some(1, 2, 4, 4), size=(16, 16), mode="bilinear") + 1.0
    fine = torch.ones(16, 16)
    fine[::2] = -1.0
    coarse_gap = frequency_loss(theirs + 0.3, theirs, side=16, low=0.25)
    fine_gap = frequency_loss(theirs + 0.3 * fine, theirs, side=16, low=0.25)
    assert float(frequency_loss(theirs, theirs, side=16, low=0.25)) == 0.0
    assert float(fine_gap) > 5 * float(coarse_gap)


@SPACES
def test_regions_are_alike_as_their_mean_features_are(size):
    alike = region_similarity(some(2, 5, *size), 2)
    assert alike.shape == (2, 2 ** len(size), 2 ** len(size))
    torch.testing.assert_close(alike.diagonal(dim1=1, dim2=2), torch.ones(2, 2 ** len(size)))
    one = torch.ones(1, 3, *size)
    torch.testing.assert_close(region_similarity(one, 2), torch.ones(1, 2 ** len(size), 2 ** len(size)))


@pytest.mark.parametrize(("size", "directions"), [((4, 3), 4), ((4, 3, 3), 13)])
def test_each_pair_of_neighbours_is_compared_once(size, directions):
    p = some(1, 3, *size).softmax(1)
    maps = neighbour_similarity(p, 1)
    assert len(maps) == directions
    pairs = {}
    places = list(np.ndindex(*size))
    for i, a in enumerate(places):
        for b in places[i + 1 :]:
            if max(abs(x - y) for x, y in zip(a, b, strict=True)) == 1:
                pairs[a, b] = float((p[(0, slice(None), *a)] * p[(0, slice(None), *b)]).sum())
    found = sorted(float(v) for m in maps for v in m.flatten())
    np.testing.assert_allclose(found, sorted(pairs.values()), atol=1e-6)


def test_information_has_a_finite_slope_where_a_class_is_impossible():
    p = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
    self_information(p).sum().backward()
    assert torch.isfinite(p.grad).all()


def test_voxels_are_drawn_evenly_over_classes_and_never_twice():
    label = torch.cat([torch.zeros(4000), torch.ones(40)]).long()
    drawn = class_balanced_sample(label, chance(), classes=2, count=60)
    assert len(drawn.unique()) == 60
    assert 18 <= int(label[drawn].sum()) <= 40


# --- selectors ---


def one_voxel(*rows: tuple[float, ...]) -> torch.Tensor:
    """Probabilities [1, C, 1, n], a tuple a voxel."""
    return torch.tensor(rows).T[None, :, None]


class Told(Networks):
    """Players of whom nothing is asked."""


def test_the_doubtful_are_under_a_rising_bar_that_knows_the_number_of_classes():
    said = one_voxel((1 / 3, 1 / 3, 1 / 3), (0.6, 0.3, 0.1), (0.98, 0.01, 0.01))
    bar = float(losses.entropy(said)[0, 0, 0, 1]) / math.log(3)
    assert 0.75 < bar < 0.95
    image = torch.zeros(1, 1, 1, 3)
    assert EntropyThreshold()(Told(), image, said, at(0.0)).flatten().tolist() == [True, True, False]
    assert EntropyThreshold()(Told(), image, said, at(1.0)).flatten().tolist() == [True, False, False]


def test_the_most_doubtful_are_a_share_of_each_image_however_sure_it_is():
    said = (some(3, 2, 5, 4) * torch.tensor([0.1, 1.0, 20.0]).view(3, 1, 1, 1)).softmax(1)
    chosen = TopKEntropy(share=0.25)(Told(), some(3, 1, 5, 4), said, at(0.5))
    assert chosen.flatten(1).sum(1).tolist() == [5, 5, 5]
    with pytest.raises(ValueError, match="share: 0.0"):
        TopKEntropy(share=0.0)


def test_the_unstable_are_those_whose_looks_disagree():
    class Wavering(nn.Module):
        """Sure of the first voxel; of the second, sure of another class at each look."""

        def forward(self, x):
            turn = torch.arange(len(x)) % 2
            p = torch.tensor([[[0.99, 0.99], [0.01, 0.01]], [[0.99, 0.01], [0.01, 0.99]]])[turn]
            return Output(p.log().unsqueeze(2))

    players = Networks({"student": Wavering()})
    said = one_voxel((0.99, 0.01), (0.99, 0.01))
    assert McUncertainty(passes=4)(players, torch.zeros(1, 1, 1, 2), said, at(0.5)).flatten().tolist() == [False, True]


def test_confident_learning_counts_a_voxel_for_the_class_whose_bar_it_reaches():
    label = torch.tensor([[[0, 0, 0, 1, 1]]])
    p = one_voxel((0.9, 0.1), (0.8, 0.2), (0.1, 0.9), (0.2, 0.8), (0.4, 0.6))
    # bars: class 0 at 0.6, class 1 at 0.7; the third voxel counts for class 1 against its label
    assert label_errors(label, p).flatten().tolist() == [False, False, True, False, False]
    flipped = label_errors(1 - label, p.flip(1))
    assert torch.equal(flipped, label_errors(label, p)), "foreground that is background and the reverse, alike"


def test_a_class_that_no_label_has_is_nobodys_error():
    label = torch.zeros(1, 1, 3, dtype=torch.int64)
    p = one_voxel((0.1, 0.9), (0.9, 0.1), (0.2, 0.8))
    assert not label_errors(label, p).any()
    assert ConfidentLearningErrors()(
        Networks({"teacher": ConstantTeacher(p[0])}), torch.zeros(1, 1, 1, 3), 1 - p, at(0.5)
    ).any()


class Shows(nn.Module):
    """Says given probabilities, shows given features, and wavers at given voxels."""

    def __init__(self, p, features, waver):
        super().__init__()
        self.p, self.features, self.waver = p, features, waver

    def forward(self, x):
        turn = (torch.arange(len(x)) % 2).view(-1, 1, 1, 1).float()
        logits = self.p.log() + turn * self.waver * (self.p.flip(1).log() - self.p.log())
        return Output(logits, self.features.expand(len(x), -1, -1, -1))


def test_prototypes_leave_wavering_voxels_out_of_every_class():
    """The last voxel looks like nothing else; the release calls it background and drags that prototype along."""
    p = one_voxel((0.9, 0.1), (0.9, 0.1), (0.1, 0.9), (0.1, 0.9), (0.95, 0.05))
    features = torch.tensor([[0.0, 0.0, 1.0, 1.0, 9.0]]).view(1, 1, 1, 5)
    waver = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0])
    players = Networks({"teacher": Shows(p, features, waver)})
    said = one_voxel((0.9, 0.1), (0.1, 0.9), (0.1, 0.9), (0.9, 0.1), (0.1, 0.9))
    found = PrototypeDisagreement()(players, torch.zeros(1, 1, 1, 5), said, at(0.5))
    assert found.flatten().tolist() == [False, True, False, True, False]


def test_an_adaptive_bar_passes_the_surer_half_of_each_class_first_and_all_but_outliers_last():
    p = one_voxel((0.99, 0.01), (0.95, 0.05), (0.6, 0.4), (0.4, 0.6), (0.3, 0.7))
    rule = AdaptiveThreshold(noise=GaussianNoise(std=0.0))
    weights = [
        rule(ConstantTeacher(p[0]), torch.zeros(1, 1, 1, 5), at(t)).weight.flatten().tolist() for t in (0.0, 1.0)
    ]
    assert weights[0] == [1, 1, 0, 0, 1], "a doubtful class has a bar of its own"
    assert weights[1] == [1, 1, 1, 1, 1]


# --- averages that watch the loss ---


def watched(pushed: list[float], share: float = 0.1) -> float:
    """How far a zero average moves to a one student, after these losses."""
    roles = {
        "student": Trainable(),
        "teacher": LossGatedEma(decay=0.5, warmup=False, share=share),
        "record": Memory(size=4, features=1, classes=1),
    }
    players = build_networks(roles, lambda kind, init: nn.Linear(1, 1, bias=False))
    players.student.weight.data.fill_(1.0)
    players.teacher.weight.data.fill_(0.0)
    for value in pushed:
        players.record.push(torch.tensor([[value]]), label=0)
    update_averages(players, roles, Step(0, 10))
    return float(players.teacher.weight.detach())


def test_a_wary_average_takes_little_from_a_step_whose_loss_stands_out():
    assert watched([]) == watched([1.0]) == watched([1.0, 1.1, 0.9, 1.0]) == pytest.approx(0.5)
    assert watched([1.0, 1.1, 0.9, 5.0]) == pytest.approx(0.05)
    assert watched([9.0, 1.0, 1.1, 0.9, 5.0]) == pytest.approx(0.05), "what was pushed out does not count"
    assert watched([1.0, math.nan, 1.1, 5.0], share=0.2) == pytest.approx(0.1), (
        "a loss that was no number is passed over"
    )
    assert watched([5.0, 1.0, 1.1, 0.9]) == pytest.approx(0.5), "only the last one is judged"
    with pytest.raises(ValueError, match="share: 0.0"):
        LossGatedEma(share=0.0)


# --- methods ---


@pytest.mark.parametrize("name", MINE)
def test_half_precision_gives_finite_losses_and_slopes(name):
    stage = TinyTrainer(METHODS[name], dims=3, classes=2, total=1, index=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, terms = next(stage.optimiser_steps(random_batch(dims=3, classes=2)))
        torch.stack([t.float() for t in terms.values()]).sum().backward()
    grads = [p.grad for p in stage.nets.student.parameters() if p.grad is not None]
    assert all(torch.isfinite(t) for t in terms.values())
    assert grads and all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("name", MINE)
def test_inspired_methods_say_so_first(name):
    method = METHODS[name]
    for part in (method, getattr(method, "target", None)):
        if getattr(part, "inspired", False):
            assert (type(part).__doc__ or "").startswith("Inspired by")


def test_looks_show_all_that_a_network_says():
    seen = mc_outputs(TinyNetwork(2, 3), random_batch().image, GaussianNoise(), chance(), num_passes=3)
    assert seen.logits.shape == (3, 5, 3, 12, 10)
    assert seen.features.shape == (3, 5, 8, 12, 10)
    assert seen.sdf.shape == (3, 5, 2, 12, 10)
    assert len(seen.scales) == len(seen.decoders) == 2
    assert not torch.equal(seen.logits[0], seen.logits[1]), "each look has its own noise"


class Fixed(nn.Module):
    """Gives these logits, row by row and over again, whatever it sees; a weight makes them trainable."""

    def __init__(self, logits):
        super().__init__()
        self.scale, self.logits = nn.Parameter(torch.ones(1)), logits

    def forward(self, x):
        return Output(self.scale * self.logits[torch.arange(len(x)) % len(self.logits)])


def corrected(method, label, p, *, index):
    """The terms of a step of a hundred in which student and teacher say p of a labelled row and of another."""
    stage = TinyTrainer(method, classes=2, index=index)
    stage.nets["student"], stage.nets["teacher"] = Fixed(p.log()), Fixed(p.log())
    _, terms = next(stage.optimiser_steps(Batch(torch.zeros(2, 2, 1, label.shape[-1]), label)))
    return terms


def test_errors_of_foreground_and_of_background_are_both_corrected():
    """MTCL casts smoothed labels to integers, so only one of the two directions survives."""
    label = torch.tensor([[[0, 0, 0, 0, 1, 1, 1, 1]]])
    sure, not_sure = (0.97, 0.03), (0.03, 0.97)
    p = one_voxel(sure, sure, sure, not_sure, not_sure, not_sure, not_sure, sure)
    terms = corrected(replace(METHODS["label_correction"], by_doubt=False), label, p, index=100)
    assert float(terms.notes["corrected"]) == pytest.approx(0.25)
    moved = torch.lerp(onehot(label, 2), onehot(p.argmax(1), 2), 0.8 * label_errors(label, p).float().unsqueeze(1))
    assert moved[0, 1, 0].tolist() == pytest.approx([0, 0, 0, 0.8, 1, 1, 1, 0.2])
    torch.testing.assert_close(terms["supervised"].detach(), losses.dice_ce(p.log(), moved))


def test_a_correction_begins_gently():
    label = torch.tensor([[[0, 0, 0, 1, 1, 1]]])
    p = one_voxel((0.97, 0.03), (0.97, 0.03), (0.03, 0.97), (0.03, 0.97), (0.03, 0.97), (0.97, 0.03))
    plain = losses.dice_ce(p.log(), label)
    gaps = [plain - corrected(METHODS["label_correction"], label, p, index=i)["supervised"].detach() for i in (0, 100)]
    assert 0 < float(gaps[0]) < 0.02 * float(gaps[1])


def test_heads_that_agree_give_labels_and_the_others_only_a_teachers_word():
    stage = TinyTrainer(METHODS["fussnet"], total=1, index=1)
    teacher = stage.nets["teacher"]
    for head in teacher.decoders:  # nearly the main decoder, so that they agree at many voxels
        for mine, main in zip(head.parameters(), teacher.head.parameters(), strict=True):
            mine.data = torch.lerp(main, mine, 0.5)
    _, terms = next(stage.optimiser_steps(random_batch()))
    assert 0.1 < float(terms.notes["accepted"]) < 0.9
    assert set(terms) == {"supervised", "pseudo", "consistency"}


def test_a_student_pays_a_better_teacher_only():
    """COPLE: where the student is nearer to the label everywhere, nothing is asked of it."""
    stage = TinyTrainer(METHODS["cople"], classes=2, total=1, index=1)
    b = random_batch(classes=2)
    right = (onehot(b.label, 2) * 8 - 4).repeat(3, 1, 1, 1)[:5]
    stage.nets["student"], stage.nets["teacher"] = Fixed(right), Fixed(-right)
    _, terms = next(stage.optimiser_steps(b))
    assert not terms["consistency"].any()
    stage.nets["student"], stage.nets["teacher"] = Fixed(-right), Fixed(right)
    _, terms = next(stage.optimiser_steps(b))
    assert float(terms["consistency"].detach()) > 0.05


def test_shadows_come_from_the_row_before_and_the_row_after():
    seen = {}

    class Watches(nn.Module):
        def __init__(self, who):
            super().__init__()
            self.who, self.scale = who, nn.Parameter(torch.ones(1))

        def forward(self, x, disturb=None):
            seen[self.who] = x
            assert (disturb is not None) == (self.who == "student")
            if disturb is not None:
                seen["maps"] = disturb(torch.ones(len(x), 4, *[n // 2 for n in x.shape[2:]]))
            return Output(self.scale * x[:, :2])

    method = replace(METHODS["sco_ssl"], affine=Affine(0.0, 0.0, 0.0))
    stage = TinyTrainer(method, classes=2, total=1, index=1)
    stage.nets["student"], stage.nets["teacher"] = Watches("student"), Watches("teacher")
    b = random_batch(classes=2, labelled=1, unlabelled=2)
    next(stage.optimiser_steps(b))
    dark = shadow_mask(b.image)
    torch.testing.assert_close(seen["student"], apply_shadow(b.image, dark[[1, 2, 0]]))
    torch.testing.assert_close(seen["teacher"], apply_shadow(b.image, dark[[2, 0, 1]]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen["maps"][:, 0], F.interpolate(dark[[1, 2, 0]], size=(6, 5))[:, 0])


def test_a_swapped_patch_brings_its_label():
    """A student that says what it sees agrees with labels and teacher alike, wherever the patches come from."""

    class Echo(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return Output(self.scale * x)

    stage = TinyTrainer(replace(METHODS["patch_swap"], noise=GaussianNoise(std=0.0)), classes=2, total=1, index=1)
    stage.nets["student"] = stage.nets["teacher"] = Echo()
    b = random_batch(classes=2)
    sure = torch.sign(b.image[:, :1]) * 6
    image = torch.cat([-sure, sure], 1)
    _, terms = next(stage.optimiser_steps(replace(b, image=image, label=(sure[: b.count, 0] > 0).long())))
    assert float(terms["consistency"].detach()) < 1e-6
    _, terms = next(stage.optimiser_steps(replace(b, image=image, label=(sure[: b.count, 0] < 0).long())))
    assert float(terms["consistency"].detach()) > 0.02


def test_shuffled_images_and_targets_meet():
    class Echo(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return Output(self.scale * x, self.scale * x)

    stage = TinyTrainer(replace(METHODS["patch_shuffle"], noise=GaussianNoise(std=0.0)), classes=2, total=1, index=1)
    stage.nets["student"] = stage.nets["teacher"] = Echo()
    _, terms = next(stage.optimiser_steps(random_batch(classes=2)))
    assert float(terms["consistency"].detach()) < 1e-10


def test_near_patches_are_neighbours_and_not_oneself():
    close = neighbouring_patches(torch.zeros(1, 1, 3, 3), radius=1.5)
    assert close.sum(1).tolist() == [3, 5, 3, 5, 8, 5, 3, 5, 3]
    assert not close.diagonal().any()


# --- bugs found in published code, planted again ---


def test_a_loss_of_no_grad_outputs_is_caught_here_too():
    """ASE-Net's bug in a method of several terms: each term is asked for its gradient, not their sum."""

    @dataclass(frozen=True)
    class NoGradient(type(METHODS["double_uncertainty"])):
        def losses_with_unlabelled(self, nets, batch, step):
            terms = super().losses_with_unlabelled(nets, batch, step)
            terms["features"] = terms["features"].detach()
            return terms

    with pytest.raises(AssertionError, match="features: has no gradient"):
        check_every_loss_has_gradient(NoGradient())


@pytest.mark.parametrize("classes", [2, 4])
def test_a_bar_of_mutual_tasks_knows_the_number_of_classes(classes):
    """UA-MT and UG-MCL write ln 2: with four classes, much would be refused even when everything should pass."""
    stage = TinyTrainer(METHODS["ug_mcl"], classes=classes, total=1, index=1)
    _, terms = next(stage.optimiser_steps(random_batch(classes=classes)))
    assert float(terms.notes["accepted"]) == 1.0


def test_loser_logits_times_zero_are_caught_and_ours_are_out_of_the_mean():
    """CDS: voxels that were not chosen must not count, in AC-MT's mean either."""
    check_masked_voxels_do_not_count(consistency_loss)
    said = one_voxel((0.5, 0.5), (0.999, 0.001))
    target = one_voxel((0.7, 0.3), (0.001, 0.999))
    chosen = EntropyThreshold()(Told(), torch.zeros(1, 1, 1, 2), said, at(0.5)).float()
    torch.testing.assert_close(losses.weighted_mean(losses.mse(said, target), chosen), torch.tensor(0.04))
