"""Attention blocks of teachers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import teachers
from teachers.attention import AttentionGate, DualAttention, DynamicConv, SkipAttention, SqueezeExcite

KINDS = ("dual", "gate", "se", "dynamic")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "size"), [("unet", (32, 48)), ("vnet", (20, 16, 33))])
def test_attention_weights_of_teachers_get_gradients(kind, name, size):
    small = {"widths": (4, 8, 8, 16, 16)} if name == "unet" else {"filters": 4}
    torch.manual_seed(0)
    network = teachers.build(name, channels=1, classes=3, attention=kind, **small).train()
    for weight in network.attend.parameters():
        if not weight.detach().any():
            nn.init.constant_(weight, 0.1)  # what begins at 0 shuts off what lies before it
    out = network(torch.randn(2, 1, *size))
    assert out.logits.shape == (2, 3, *size)
    out.logits.square().mean().backward()
    assert all(
        p.grad is not None and p.grad.any() and torch.isfinite(p.grad).all() for p in network.attend.parameters()
    )


@pytest.mark.parametrize("name", ["unet", "vnet"])
def test_teacher_without_attention_has_no_extra_weights(name):
    plain, gated = (teachers.build(name, channels=1, classes=2, attention=kind) for kind in ("none", "gate"))
    further = set(gated.state_dict()) - set(plain.state_dict())
    assert further and all(key.startswith("attend.") for key in further)
    assert set(plain.state_dict()) <= set(gated.state_dict())


@pytest.mark.parametrize("name", ["unet", "vnet"])
def test_unknown_attention_is_an_error_of_one_line(name):
    with pytest.raises(ValueError, match=f"{name}: attention = 'duel': choose none, dual, gate, se, dynamic"):
        teachers.build(name, channels=1, classes=2, attention="duel")


@pytest.mark.parametrize("part", [DualAttention, DynamicConv])
@pytest.mark.parametrize("dims", [2, 3])
def test_zero_weighted_attention_starts_as_identity(part, dims):
    x = torch.randn(2, 8, *(6, 4, 5)[:dims])
    torch.testing.assert_close(part(8, dims=dims)(x), x)


def test_attention_gate_is_a_map_above_zero():
    torch.manual_seed(0)
    skip, deep = torch.rand(1, 4, 8, 8) + 0.1, torch.randn(1, 8, 4, 4)
    share = AttentionGate(4, 8, dims=2)(skip, deep) / skip
    assert (share > 1).all() and (share < 2).all()
    torch.testing.assert_close(share, share[:, :1].expand_as(share))  # one answer a voxel, for all channels


def test_squeeze_excite_scales_channels_and_starts_near_identity():
    torch.manual_seed(0)
    part, x = SqueezeExcite(8, dims=3), torch.randn(2, 8, 6, 6, 6)
    with torch.no_grad():
        assert float((part(x) - x).abs().mean()) < 0.3 * float(x.abs().mean())


def test_dynamic_convolution_has_a_kernel_for_each_image():
    torch.manual_seed(0)
    part, x = DynamicConv(8, dims=2).double(), torch.randn(3, 8, 6, 6).double()
    nn.init.constant_(part.scale, 1.0)
    torch.testing.assert_close(part(x)[1:2], part(x[1:2]))


def test_dual_attention_mixes_similar_places():
    """Attention over places mixes far voxels in; without its weight a voxel hears nobody."""
    torch.manual_seed(0)
    part, x = DualAttention(8, dims=2), torch.randn(1, 8, 4, 4)
    far = x.clone()
    far[..., -1, -1] += 3.0
    assert torch.equal(part(x)[..., 0, 0], part(far)[..., 0, 0])
    nn.init.constant_(part.places, 1.0)
    assert not torch.allclose(part(x)[..., 0, 0], part(far)[..., 0, 0])


def test_attention_gates_depend_on_the_coarser_map():
    torch.manual_seed(0)
    attend = SkipAttention("gate", (4, 8, 16), dims=2)
    maps = [torch.rand(1, 4, 16, 16), torch.rand(1, 8, 8, 8), torch.rand(1, 16, 4, 4)]
    out = attend(maps)
    assert [o.shape for o in out] == [m.shape for m in maps] and torch.equal(out[-1], maps[-1])
    moved = attend([maps[0], maps[1], maps[2] + 1.0])
    assert not torch.allclose(out[1], moved[1]) and not torch.allclose(out[0], moved[0])
