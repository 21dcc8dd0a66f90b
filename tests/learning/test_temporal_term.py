"""The term against flicker: the pseudo-motion, the distance, and the term in a method."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from method_samples import SPACES, random_tensor, seeded_generator
from torch import nn

from edgemt.artefacts.stage_folder import key_of, plain
from edgemt.contract import Output
from edgemt.learning.perturbations.motion import PseudoMotion, inside, warp_by
from edgemt.learning.temporal_term import jaccard_distance, temporal_loss
from edgemt.methods import METHODS
from edgemt.testing.method_checks import CHECKS
from edgemt.testing.tiny_training import TinyTrainer, random_batch

STILL = PseudoMotion(degrees=0, zoom=0, shift=0, elastic=0, exposure=0, blur=0, noise=0)


class Pointwise(nn.Module):
    """An equivariant network: the class of a voxel depends on that voxel alone."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = (nn.Conv3d if dims == 3 else nn.Conv2d)(3, 3, 1)

    def forward(self, x: torch.Tensor) -> Output:
        return Output(4 * self.conv(x))


class ShiftBy(PseudoMotion):
    """A motion by whole voxels, the same for all images."""

    def sample(self, image, generator):
        step = 2 / torch.tensor(image.shape[2:], dtype=torch.float32)
        return STILL.sample(image, generator) + 2 * step


@SPACES
def test_warp_by_whole_voxels_is_exact_and_marks_what_left_the_image(size):
    x = random_tensor(2, 3, *size)
    grid = ShiftBy().sample(x, None)
    seen, valid = warp_by(grid, x), inside(grid, x.shape[2:])
    inner = (slice(None), slice(None), *[slice(0, side - 2) for side in size])
    moved = (slice(None), slice(None), *[slice(2, side) for side in size])
    torch.testing.assert_close(seen[inner], x[moved], rtol=1e-4, atol=1e-5)
    assert valid[inner].all() and int(valid.sum()) == valid[inner].numel()


@SPACES
def test_pseudo_motion_of_width_zero_changes_nothing(size):
    x = random_tensor(2, 3, *size)
    torch.testing.assert_close(warp_by(STILL.sample(x, seeded_generator()), x), x, rtol=1e-4, atol=1e-5)
    assert torch.equal(STILL.change(x, seeded_generator()), x)


@SPACES
def test_pseudo_motion_moves_and_changes_every_image_by_its_own_amount(size):
    x = random_tensor(1, 3, *size).repeat(2, 1, *[1] * len(size))
    grid = PseudoMotion().sample(x, seeded_generator())
    assert not torch.allclose(grid[0], grid[1], atol=1e-3)
    bent = PseudoMotion(degrees=0, zoom=0, shift=0).sample(x, seeded_generator()) - STILL.sample(x, None)
    assert 0 < float(bent.std()) < 0.04
    changed = PseudoMotion().change(x, seeded_generator())
    assert changed.shape == x.shape and not torch.allclose(changed[0], changed[1], atol=1e-2)


def test_jaccard_distance_of_masks_is_one_minus_iou_of_the_valid_region():
    p, q = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    p[:, 1, :2], q[:, 1, 1:3] = 1, 1  # 8 and 8 pixels, 4 of them shared
    valid = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    assert float(jaccard_distance(p, q, valid)) == pytest.approx(1 - 4 / 12)
    valid[..., 2] = False
    assert float(jaccard_distance(p, q, valid)) == pytest.approx(1 - 3 / 9)
    soft = torch.rand(1, 2, 4, 4, generator=seeded_generator())
    assert float(jaccard_distance(soft, soft, valid)) == 0.0
    assert float(jaccard_distance(p, soft, valid)) == float(jaccard_distance(soft, p, valid)) > 0


@SPACES
def test_temporal_loss_is_zero_for_an_equivariant_network_and_not_for_another(size):
    x, network = random_tensor(2, 3, *size), Pointwise(len(size))
    motion = ShiftBy(exposure=0, blur=0, noise=0)
    assert temporal_loss(network, x, network(x).logits, motion=motion, generator=None) < 1e-4
    other = 3 * network(x).logits.flip(2)  # predictions that stay where they are while the image moves
    assert temporal_loss(network, x, other, motion=motion, generator=None) > 0.1


def test_temporal_loss_has_a_gradient_from_both_frames():
    x, network = random_tensor(2, 3, 12, 10), Pointwise(2)
    logits = network(x).logits.detach().requires_grad_()
    temporal_loss(network, x, logits, motion=PseudoMotion(), generator=seeded_generator()).backward()
    assert logits.grad is not None and float(logits.grad.abs().sum()) > 0
    assert float(network.conv.weight.grad.abs().sum()) > 0


def test_distillation_with_the_term_is_a_method_and_lowers_it():
    light = 0.1  # the images of the checks are noise
    method = replace(METHODS["two_stream_distillation"], teacher_source="bank", temporal=light)
    for check in CHECKS:
        if check.applies_to(method):
            check.run(method, dims=2, classes=3)
    trainer = TinyTrainer(replace(method, supervised_weight=0.0, kl=0.0, mix="none", temporal=1.0), rate=0.5)
    values = [trainer.step(random_batch())["temporal"] for _ in range(40)]
    assert sum(values[-5:]) < 0.8 * sum(values[:5])
    assert "temporal" not in TinyTrainer(replace(method, temporal=0.0)).step(random_batch())


def test_the_term_switched_off_leaves_the_keys_of_older_runs_as_they_were():
    method = METHODS["two_stream_distillation"]
    assert key_of(method) == "0e57e19fd4293b4cf591e9a6da3948098404588a16ee409ffe69dc5e7bfe1486"
    on = replace(method, temporal=0.5)
    assert key_of(on) != key_of(method) and plain(on)["temporal"] == 0.5
    assert "motion" in plain(replace(on, motion=PseudoMotion(degrees=5)))


def test_a_negative_weight_or_width_is_refused():
    with pytest.raises(ValueError, match="temporal: -1"):
        replace(METHODS["distillation"], temporal=-1)
    with pytest.raises(ValueError, match=r"motion.blur: -0\.5"):
        PseudoMotion(blur=-0.5)
