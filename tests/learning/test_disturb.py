"""Disturbed features: the seam between encoder and decoder that several methods use."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import students
import teachers
from edgemt.testing.tiny_training import CHANNELS, TinyNetwork

OPTIONS = {"channels": CHANNELS, "classes": 3, "heads": ("disturb",)}
NETWORKS = {
    "unet": lambda: teachers.build("unet", **OPTIONS, widths=(4, 8, 8), dropout=(0.1,) * 3),
    "unet3d": lambda: teachers.build("unet3d", **OPTIONS, widths=(2, 4), dropout=(0.1,) * 2),
    "vnet": lambda: teachers.build("vnet", **OPTIONS, filters=2),
    "student": lambda: students.build("test_efficientnet", **OPTIONS),
    "the stage's own": lambda: TinyNetwork(2, 3),
}
every = pytest.mark.parametrize("name", NETWORKS)


def built(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    size = (16, 16, 16) if name in ("unet3d", "vnet") else (32, 32)
    return NETWORKS[name](), torch.randn(2, CHANNELS, *size)


@every
@pytest.mark.parametrize("learning", [True, False])
def test_features_left_alone_change_nothing(name: str, learning: bool) -> None:
    network, x = built(name)
    network.train(learning)
    outputs = []
    for disturb in (None, lambda m: m):
        torch.manual_seed(1)
        outputs.append(network(x, disturb=disturb).logits)
    assert torch.equal(*outputs)


@every
def test_every_encoder_map_passes_through_and_reaches_the_logits(name: str) -> None:
    network, x = built(name)
    network.eval()
    seen: list[Tensor] = []
    clean = network(x, disturb=lambda m: seen.append(m) or m).logits
    assert seen and all(m.shape[0] == 2 for m in seen)
    for place in range(len(seen)):
        count = iter(range(len(seen)))
        other = network(x, disturb=lambda m: m + 5 * torch.randn_like(m) if next(count) == place else m).logits  # noqa: B023
        assert not torch.equal(other, clean), f"map {place} is not read"


@every
def test_the_decoder_can_read_several_versions_of_what_was_encoded_once(name: str) -> None:
    network, x = built(name)
    network.eval()
    logits = network(x, disturb=lambda m: torch.cat([m, 2 * m])).logits
    assert logits.shape == (4, 3, *x.shape[2:])
    torch.testing.assert_close(logits[:2], network(x).logits)
    torch.testing.assert_close(logits[2:], network(x, disturb=lambda m: 2 * m).logits)


@pytest.mark.parametrize("name", ["smp/Unet", "monai/BasicUNet", "monai3d/DynUNet"])
def test_a_network_of_a_library_refuses_the_head_in_one_line(name: str) -> None:
    with pytest.raises(ValueError, match="head 'disturb' is not available .* use (unet|vnet)") as caught:
        teachers.build(name, channels=1, classes=2, heads=("disturb",))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["unet", "unet3d", "vnet"])
def test_further_decoders_and_coarser_scales_are_heads_of_training(name: str) -> None:
    small = {"filters": 2} if name == "vnet" else {"widths": (4, 4, 8), "dropout": (0.0,) * 3}
    x = torch.randn(2, 1, *((16, 16, 16) if teachers.dims(name) == 3 else (32, 32)))
    for heads, count in ((("decoder2",), 1), (("decoder2", "decoder3"), 2), (("scales",), 3 if name == "vnet" else 1)):
        network = teachers.build(name, channels=1, classes=3, heads=heads, **small).train()
        out = network(x)
        others = (*out.scales, *out.decoders)
        assert [a.shape for a in others] == [out.logits.shape] * count
        assert bool(out.scales) == ("scales" in heads)
        sum(a.square().mean() for a in (out.logits, *others)).backward()
        assert all(p.grad is not None and p.grad.any() for p in network.parameters() if p.ndim > 1)
        if "scales" not in heads:
            assert network.eval()(x).decoders == ()
