"""Every row of the table of teachers runs through the same contract."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import teachers

# Small versions of the rows: the contract is the subject, the size is not.
SMALL: dict[str, dict[str, Any]] = {
    "unet": {"widths": (4, 8, 8, 16, 16)},
    "monai/AttentionUnet": {"widths": (4, 8, 8)},
    "monai/BasicUNet": {"widths": (4, 4, 8, 8, 16, 4)},
    "monai/BasicUNetPlusPlus": {"widths": (4, 4, 8, 8, 16, 4)},
    "monai/UNet": {"widths": (4, 8, 8)},
    "monai/SegResNet": {"init_filters": 8},
    "smp/Segformer": {"encoder": "mit_b0"},
    "vnet": {"filters": 2},
    "unet3d": {"widths": (2, 4, 4, 8, 8)},
    "monai3d/AttentionUnet": {"widths": (2, 4, 4)},
    "monai3d/BasicUNet": {"widths": (2, 2, 4, 4, 8, 2)},
    "monai3d/DynUNet": {"widths": (2, 4, 4)},
    "monai3d/UNet": {"widths": (2, 4, 4)},
    "monai3d/SegResNet": {"filters": 8},
}
ENCODER = {"encoder": "tu-test_resnet"}
# Two for each number of axes; the second is no multiple of what the networks halve to.
SIZES = {2: ((64, 64), (70, 96)), 3: ((32, 32, 32), (36, 33, 20))}


def options(name: str) -> dict[str, Any]:
    return {"channels": 3, "classes": 2, **SMALL.get(name, ENCODER if name.startswith("smp/") else {})}


def small(name: str, **asked: Any) -> nn.Module:
    torch.manual_seed(0)
    return teachers.build(name, **{**options(name), **asked})


def image(name: str, *, channels: int = 3, which: int = 0) -> torch.Tensor:
    return torch.randn(2, channels, *SIZES[teachers.dims(name)][which])


def learn(network: nn.Module, x: torch.Tensor, *, classes: int) -> None:
    """Logits are finite and have the size of the input, and gradients are finite."""
    logits = network.train()(x).logits
    assert logits.shape == (2, classes, *x.shape[2:])
    logits.square().mean().backward()
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    assert torch.isfinite(logits).all() and all(torch.isfinite(g).all() for g in grads)
    assert sum(float(g.abs().sum()) for g in grads) > 0


@pytest.mark.parametrize("name", teachers.names())
def test_every_teacher_learns_at_two_sizes_and_its_weights_survive_safetensors(name: str, tmp_path: Path) -> None:
    learn(small(name, channels=1, classes=4), image(name, channels=1, which=1), classes=4)
    first = small(name)
    learn(first, image(name), classes=2)  # moves the batch-norm statistics away from a fresh network's
    save_file({k: v.contiguous().clone() for k, v in first.state_dict().items()}, tmp_path / "w.safetensors")
    torch.manual_seed(1)
    second = teachers.build(name, **options(name))
    second.load_state_dict(load_file(tmp_path / "w.safetensors"))
    first.eval(), second.eval()
    x = image(name)[:1]
    with torch.no_grad():
        assert torch.equal(first(x).logits, first(x).logits)
        assert torch.equal(first(x).logits, second(x).logits)


@pytest.mark.parametrize(("dims", "size"), [(2, (48, 80)), (3, (16, 16, 32))])
def test_the_unet_has_every_head_in_two_and_three_axes(dims: int, size: tuple[int, ...]) -> None:
    network = small("unet", classes=4, heads=teachers.HEADS, dims=dims)
    out = network(torch.randn(2, 3, *size))
    assert out.sdf.shape == (2, 3, *size) and out.sdf.abs().max() <= 1
    assert out.features.shape == (2, 4, *size)
    assert [a.shape for a in out.scales] == [out.logits.shape] * 3
    assert [a.shape for a in out.decoders] == [out.logits.shape] * 2


def test_without_heads_the_unet_gives_logits_alone() -> None:
    out = small("unet")(torch.randn(1, 3, 32, 32))
    assert out.sdf is None and out.features is None and out.scales == out.decoders == ()


def test_the_unet_is_that_of_the_benchmarks() -> None:
    network = teachers.build("unet", channels=1, classes=4)
    released, cancelled_biases = 1_813_764, 2 * (16 + 32 + 64 + 128) * 2 + 2 * 256
    assert sum(p.numel() for p in network.parameters()) == released - cancelled_biases
    rates = [m.p for m in network.modules() if isinstance(m, nn.Dropout) and m.p > 0]
    assert rates == [0.05, 0.1, 0.2, 0.3, 0.5]


def test_dropout_makes_training_passes_differ() -> None:
    network = small("unet").train()
    x = torch.randn(2, 3, 32, 32)
    assert not torch.equal(network(x).logits, network(x).logits)


@pytest.mark.parametrize("name", ["unet", "unet3d"])
@pytest.mark.parametrize("norm", ["group", "instance"])
def test_the_unet_takes_a_norm_that_leaves_batches_apart(name: str, norm: str) -> None:
    network, x = small(name, norm=norm, dropout=(0.0,) * 5).double().train(), image(name).double()
    torch.testing.assert_close(network(x).logits[:1], network(x[:1]).logits)


@pytest.mark.parametrize("name", ["monai3d/VNet", "monai3d/BasicUNetPlusPlus"])
def test_further_networks_of_monai_take_volumes_of_any_shape(name: str) -> None:
    with torch.device("meta"):
        network = teachers.build(name, channels=1, classes=3).eval()
    assert network(torch.empty(1, 1, 40, 33, 50, device="meta")).logits.shape == (1, 3, 40, 33, 50)


def test_a_transformer_of_monai_takes_volumes_of_any_shape() -> None:
    pytest.importorskip("einops")
    tiny = {"filters": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 2}
    network = teachers.build("monai3d/SwinUNETR", channels=1, classes=3, **tiny).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 1, 32, 20, 33)).logits.shape == (1, 3, 32, 20, 33)


def test_what_a_network_of_monai_lacks_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from monai.networks import nets
    from monai.utils import OptionalImportError

    def lacking(**options: object) -> nn.Module:
        raise OptionalImportError("from einops import rearrange (No module named 'einops').\n\nFor details ...")

    monkeypatch.setattr(nets, "SwinUNETR", lacking)
    with pytest.raises(ValueError, match="monai3d/SwinUNETR: .*No module named 'einops'") as caught:
        teachers.build("monai3d/SwinUNETR", channels=1, classes=2)
    assert "\n" not in str(caught.value)


def test_a_grouped_norm_of_monai_is_asked_for_by_the_same_word() -> None:
    network = small("monai3d/DynUNet", widths=(8, 8, 16), norm="group")
    assert any(isinstance(m, nn.GroupNorm) for m in network.modules())


def test_the_axes_of_every_teacher_are_known_without_torch() -> None:
    code = (
        "import sys, teachers; further = ('smp/PSPNet', 'monai3d/VNet'); "
        "print([n for n in (*teachers.names(), *further) if teachers.dims(n) == 3]); "
        "assert 'torch' not in sys.modules"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "vnet" in said and "monai3d/VNet" in said and "smp" not in said and "'unet'" not in said


@pytest.mark.parametrize("up", ["bilinear", "transposed"])
def test_both_ways_up_take_odd_sizes(up: str) -> None:
    assert small("unet", up=up)(torch.randn(1, 3, 33, 47)).logits.shape == (1, 2, 33, 47)


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("unett", {}, "nearest: unet"),
        ("smp/Unets", {}, "nearest: smp/Unet"),
        ("monai/BasicUnets", {}, "nearest: monai/BasicUNet"),
        ("monai/FlexibleUNet", {"heads": ("sdf",)}, "head 'sdf'"),
        ("vnet", {"heads": ("sfd",)}, "offers: sdf, features, scales"),
        ("monai3d/DynUNet", {"heads": ("sdf",)}, "use vnet"),
        ("monai3d/VNets", {}, "nearest: monai3d/VNet"),
        ("monai3d/VNet", {"filters": 8}, "filters cannot be set"),
        ("monai/SegResNet", {"norm": "batch"}, "norm cannot be set"),
        ("vnet", {"widths": (8, 16)}, "'widths'"),
        ("unet3d", {"norm": "layer"}, "batch, group or instance"),
        ("unet", {"heads": ("sfd",)}, "offers: sdf, features, scales"),
        ("unet", {"classes": 1}, "at least 2"),
        ("unet", {"widths": (8, 16)}, "one a level"),
        ("monai/SegResNet", {"widths": (8, 16)}, "widths cannot be set"),
        ("unet", {"up": "nearest"}, "bilinear or transposed"),
        ("unet", {"width": 8}, "'width'"),
        ("smp/Unet", {"encoder": "resnet43"}, "nearest: resnet34"),
        ("smp/Unet", {"pretrained": "maybe"}, "if-available"),
    ],
)
def test_a_bad_request_is_named_in_one_line(name: str, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        teachers.build(name, **{"channels": 3, "classes": 2, **asked})
    assert "\n" not in str(caught.value)


def test_an_image_smaller_than_the_deepest_stride_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        small("unet")(torch.randn(1, 3, 8, 64))


def test_missing_pretrained_weights_are_one_line_or_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    small("smp/Unet", pretrained="if-available")
    assert [r.getMessage().count("\n") for r in caplog.records] == [0]
    assert "from scratch" in caplog.text
    with pytest.raises(ValueError, match="'always'"):
        small("smp/Unet", pretrained="always")
