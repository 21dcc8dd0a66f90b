"""Rounding while learning is the rounding of the file that ships, and leaves no trace when it is taken off."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from edgemt.training.fake_quant import FakeQuantInput, calibrate, fake_quantize, fake_quantize_ste, remove_fake_quant


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ConvTranspose2d(8, 4, 2)
    )


def image(seed: int = 0) -> torch.Tensor:
    return torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def test_numbers_go_to_the_nearest_step_and_are_cut_off_at_the_ends() -> None:
    x = torch.tensor([-9.0, -0.26, 0.24, 0.26, 9.0])
    assert fake_quantize_ste(x, torch.tensor(0.5), low=-2.0, high=2.0).tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]


def test_the_gradient_passes_inside_the_range_and_stops_outside() -> None:
    x = torch.tensor([-9.0, 0.3, 9.0], requires_grad=True)
    fake_quantize_ste(x, torch.tensor(0.5), low=-2.0, high=2.0).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0.0, 1.0, 0.0]


def test_every_output_channel_of_a_weight_has_its_own_127_steps() -> None:
    net = fake_quantize(small())
    for layer, axis in ((net[0], 0), (net[3], 0), (net[4], 1)):
        weight = layer.weight.detach().movedim(axis, 0).flatten(1)  # type: ignore[operator, union-attr]
        steps = weight / (weight.abs().amax(1, keepdim=True) / 127)
        assert torch.allclose(steps, steps.round(), atol=1e-3)
        assert (steps.abs().amax(1) > 126.9).all()


def test_nonnegative_input_uses_unsigned_range() -> None:
    reader = FakeQuantInput().train()
    x = torch.linspace(0, 5.1, 1000).view(1, 1, 20, 50)
    steps = reader(x) / (5.1 / 255)
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert len(steps.round().unique()) == 256
    signed = FakeQuantInput().train()(x - 5.1)
    assert len(((signed) / (5.1 / 127)).round().unique()) == 128


def test_fake_quant_range_updates_only_in_training() -> None:
    reader = FakeQuantInput().train()
    frames = torch.stack([torch.full((1, 2, 2), 1.0), torch.full((1, 2, 2), 3.0)])
    reader(frames)
    assert reader.reach.tolist() == [2.0, 2.0]
    reader.eval()(frames * 100)
    assert reader.reach.tolist() == [2.0, 2.0]


def test_calibration_sets_ranges_and_moves_nothing_else() -> None:
    net = fake_quantize(small().train())
    before = {k: v.clone() for k, v in net.state_dict().items() if "reach" not in k}
    calibrate(net, [image(0), image(1)])
    assert net.training
    after = net.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert all(torch.isfinite(v).all() for k, v in after.items() if "reach" in k)


def test_a_rounded_network_stays_near_its_float_self_but_is_not_it() -> None:
    exact = small().eval()
    net = calibrate(fake_quantize(deepcopy(exact)), [image()]).eval()
    change = (net(image()) - exact(image())).square().mean() / exact(image()).var()
    assert 1e-7 < change < 1e-2


def test_batch_norms_keep_their_statistics_in_training_and_still_learn() -> None:
    net = calibrate(fake_quantize(small()), [image()]).train()
    before = net[1].running_mean.clone()  # type: ignore[union-attr, operator]
    net(image() * 9).square().mean().backward()
    assert torch.equal(net[1].running_mean, before)  # type: ignore[union-attr, arg-type]
    assert net[1].weight.grad.abs().sum() > 0  # type: ignore[union-attr, operator]


def test_a_copy_learns_apart_from_the_original() -> None:
    net = calibrate(fake_quantize(small()), [image()])
    twin = deepcopy(net).train()
    twin(image() * 50)
    assert not torch.equal(twin[0].reads_int8.reach, net[0].reads_int8.reach)  # type: ignore[union-attr]


def test_taken_off_it_leaves_the_network_that_was_there() -> None:
    exact = small().eval()
    net = remove_fake_quant(calibrate(fake_quantize(deepcopy(exact)), [image()]).eval())
    assert set(net.state_dict()) == set(exact.state_dict())
    assert torch.equal(net(image()), exact(image()))
    assert type(net[0]) is nn.Conv2d


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_every_weight_learns_through_the_rounding(kind: torch.dtype) -> None:
    net = calibrate(fake_quantize(small()), [image()]).train()
    with torch.autocast("cpu", kind, enabled=kind is not torch.float32):
        net(image()).float().square().mean().backward()
    gradients = [p.grad for p in net.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert all(g is not None and g.abs().sum() > 0 for g in (gradients[0], gradients[-1]))
