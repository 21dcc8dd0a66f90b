"""V-Net is that of the published results, in size and in work, and takes volumes of any shape."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import teachers
from teachers.vnet import VNet


def small(**asked: Any) -> VNet:
    torch.manual_seed(0)
    return VNet(**{"channels": 1, "classes": 2, "filters": 4, **asked})


def gmacs(network: nn.Module, *size: int) -> float:
    """Multiplications of the convolutions for one image, by shapes alone: the network is on the meta device."""
    done = 0

    def count(module: nn.Module, image: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        nonlocal done
        transposed = isinstance(module, nn.ConvTranspose3d)
        places = image[0].shape[2:] if transposed else out.shape[2:]
        done += math.prod(places) * math.prod(module.weight.shape)  # type: ignore[arg-type]

    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            module.register_forward_hook(count)
    network(torch.empty(1, 1, *size, device="meta"))
    return done / 1e9


@pytest.mark.parametrize(
    ("asked", "millions", "work"),
    [
        ({}, 9.45, 40.1),
        ({"heads": ("decoder2",)}, 12.35, 87.8),  # MC-Net
        ({"heads": ("decoder2", "decoder3")}, 15.25, 135.5),  # MC-Net+
    ],
)
def test_it_has_the_parameters_and_the_work_of_the_papers(asked: dict[str, Any], millions: float, work: float) -> None:
    with torch.device("meta"):
        network = teachers.build("vnet", channels=1, classes=2, **asked)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
    assert gmacs(network, 112, 112, 80) == pytest.approx(work, abs=0.5)


def test_channels_are_dropped_at_half_behind_the_deepest_block_and_before_the_head() -> None:
    network = small().train()
    seen: list[torch.Tensor] = []
    network.dropout.register_forward_hook(lambda module, image, out: seen.append(out))
    network(torch.randn(2, 1, 32, 32, 32))
    assert network.dropout.p == 0.5 and isinstance(network.dropout, nn.Dropout3d)
    assert [out.shape[1] for out in seen] == [64, 4]
    whole = seen[0].flatten(2).abs().amax(2) == 0
    assert 0.2 < whole.float().mean() < 0.8  # whole channels, not voxels


def test_training_passes_differ_and_evaluation_does_not() -> None:
    network, x = small(), torch.randn(1, 1, 32, 32, 16)
    assert not torch.equal(network(x).logits, network(x).logits)
    network.eval()
    assert torch.equal(network(x).logits, network(x).logits)


@pytest.mark.parametrize("size", [(17, 30, 20), (5, 16, 33)])
def test_a_volume_of_any_shape_is_continued_inside_and_cut_back(size: tuple[int, ...]) -> None:
    network, x = small(heads=teachers.HEADS).train(), torch.randn(2, 1, *size)
    out = network(x)
    maps = (out.logits, out.sdf, out.features, *out.scales, *out.decoders)
    assert all(m is not None and tuple(m.shape[2:]) == size for m in maps)
    network.eval()
    padding = [side for beyond in reversed([-s % 16 for s in size]) for side in (0, beyond)]
    by_hand = network(F.pad(x, padding, mode="replicate")).logits
    assert torch.equal(network(x).logits, by_hand[:, :, : size[0], : size[1], : size[2]])


@pytest.mark.parametrize(("dims", "size"), [(2, (32, 48)), (3, (16, 32, 16))])
def test_every_head_has_its_shape_and_its_gradient(dims: int, size: tuple[int, ...]) -> None:
    network = small(classes=3, heads=teachers.HEADS, dims=dims).train()
    out = network(torch.randn(2, 1, *size))
    assert out.sdf.shape == (2, 2, *size) and out.sdf.abs().max() <= 1
    assert out.features.shape == (2, 4, *size)
    assert [a.shape for a in out.scales] == [out.logits.shape] * 3
    assert [a.shape for a in out.decoders] == [out.logits.shape] * 2
    terms = (out.logits, out.sdf, out.features, *out.scales, *out.decoders)
    sum(m.square().mean() for m in terms).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_the_further_decoders_rest_outside_training() -> None:
    network = small(heads=("scales", "decoder2", "decoder3")).eval()
    out = network(torch.randn(1, 1, 16, 16, 16))
    assert out.scales == out.decoders == ()


def test_without_heads_it_gives_logits_alone() -> None:
    out = small()(torch.randn(1, 1, 32, 16, 16))
    assert out.sdf is None and out.features is None and out.scales == out.decoders == ()


@pytest.mark.parametrize("norm", ["group", "instance"])
def test_other_norms_do_not_mix_the_volumes_of_a_batch(norm: str) -> None:
    network = small(norm=norm, dropout=0.0).double().train()
    x = torch.randn(2, 1, 32, 32, 32, dtype=torch.double)
    torch.testing.assert_close(network(x).logits[:1], network(x[:1]).logits)
    assert not any(isinstance(m, nn.BatchNorm3d) for m in network.modules())


def test_the_layout_of_the_weights_changes_no_answer() -> None:
    network, x = small().eval(), torch.randn(1, 1, 32, 32, 16)
    before = network(x).logits
    after = network.to(memory_format=torch.channels_last_3d)(x).logits  # type: ignore[call-overload]
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"filters": 0}, "filters = 0"),
        ({"norm": "layer"}, "batch, group or instance"),
        ({"dims": 1}, "choose 2 or 3"),
    ],
)
def test_a_bad_option_is_named_in_one_line(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        small(**asked)
    assert "\n" not in str(caught.value)
