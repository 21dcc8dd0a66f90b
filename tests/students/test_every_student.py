"""Every student and every decoder runs through the same contract."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import students
from students.decoder import DECODERS
from students.mask import mask_kernel, upsampled_argmax, upsampling_kernels

TINY = "test_efficientnet"  # stands in for an encoder where the decoder is the subject


def student(name: str = TINY, **asked: Any) -> nn.Module:
    torch.manual_seed(0)
    return students.build(name, **{"channels": 3, "classes": 2, **asked})


def grads(network: nn.Module) -> list[torch.Tensor]:
    return [p.grad for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", students.names())
def test_every_named_student_learns_at_two_sizes_and_can_be_traced_for_pruning(name: str) -> None:
    import torch_pruning as tp

    network = student(name, channels=1, classes=4).train()
    for size in ((64, 64), (32, 96)):
        logits = network(torch.randn(2, 1, *size)).logits
        assert logits.shape == (2, 4, *size) and torch.isfinite(logits).all()
        network.zero_grad()
        logits.square().mean().backward()
        assert len(grads(network)) == len(list(network.parameters()))
        assert all(torch.isfinite(g).all() for g in grads(network))
    network.eval()
    x = torch.randn(1, 1, 64, 64)
    graph = tp.DependencyGraph().build_dependency(network, example_inputs=x, output_transform=lambda out: out.logits)
    roots = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.groups == 1 and m is not network.head]
    for conv in (roots[0], roots[len(roots) // 2], roots[-1]):
        group = graph.get_pruning_group(conv, tp.prune_conv_out_channels, idxs=[0, 1])
        assert graph.check_pruning_group(group)
        group.prune()
    assert network(x).logits.shape == (1, 4, 64, 64)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("encoder", [TINY, "test_convnext", "test_mambaout"])
def test_every_decoder_learns_on_every_kind_of_pyramid(decoder: str, encoder: str) -> None:
    network = student(encoder, decoder=decoder, classes=4, heads=students.HEADS).train()
    for size in ((64, 96), (72, 40)):
        out = network(torch.randn(2, 3, *size))
        assert out.logits.shape == (2, 4, *size)
        assert out.sdf.shape == (2, 3, *size) and out.sdf.abs().max() <= 1
        assert out.features.shape[0] == 2 and out.features.shape[2:] == size
        assert out.scales and len(out.decoders) == 2
        assert all(a.shape == out.logits.shape for a in (*out.scales, *out.decoders))
        network.zero_grad()
        assert out.uncertainty.shape == (2, 1, *size)
        maps = (out.logits, out.sdf, out.features, out.uncertainty, *out.scales, *out.decoders)
        sum(t.square().mean() for t in maps).backward()
        assert all(torch.isfinite(g).all() for g in grads(network))
        assert all(p.grad is not None for n, p in network.named_parameters() if not n.startswith("pyramid"))


@pytest.mark.parametrize("decoder", DECODERS)
def test_weights_survive_safetensors_and_eval_is_deterministic(decoder: str, tmp_path: Path) -> None:
    first = student(decoder=decoder).train()
    first(torch.randn(2, 3, 64, 64))  # moves the batch-norm statistics away from a fresh network's
    save_file({k: v.contiguous() for k, v in first.state_dict().items()}, tmp_path / "w.safetensors")
    torch.manual_seed(1)
    second = students.build(TINY, channels=3, classes=2, decoder=decoder)
    second.load_state_dict(load_file(tmp_path / "w.safetensors"))
    first.eval(), second.eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(first(x).logits, first(x).logits)
        assert torch.equal(first(x).logits, second(x).logits)


@pytest.mark.parametrize("decoder", DECODERS)
def test_channels_last_changes_nothing_but_rounding(decoder: str) -> None:
    network = student(decoder=decoder).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        plain = network(x).logits
        last = network.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last)).logits
    torch.testing.assert_close(plain, last, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_quick_mask_is_the_argmax_of_the_logits(decoder: str) -> None:
    network = student(decoder=decoder, classes=4).eval()
    for size in ((64, 96), (72, 40)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            logits, mask = network(x).logits, network.mask(x)
        first, second = logits.topk(2, dim=1).values.unbind(1)
        clear = first - second > 1e-5 * first.abs().max()
        assert mask.dtype == torch.uint8 and clear.float().mean() > 0.9
        assert torch.equal(mask[clear].long(), logits.argmax(1)[clear])


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
def test_phases_are_bilinear_upsampling(factor: int) -> None:
    x = torch.randn(1, 1, 5, 7, dtype=torch.float64)
    whole = nn.functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    padded = nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    ours = nn.functional.pixel_shuffle(nn.functional.conv2d(padded, upsampling_kernels(factor).double()), factor)
    torch.testing.assert_close(ours, whole, rtol=1e-6, atol=1e-6)
    two = torch.cat((x, torch.zeros_like(x)), dim=1)
    size = (5 * factor, 7 * factor)
    assert torch.equal(
        upsampled_argmax(two, upsampling_kernels(factor).repeat(2, 1, 1, 1), size)[0] == 0, whole[0, 0] >= 0
    )


def test_a_pruned_student_exports_and_the_file_agrees() -> None:
    ort = pytest.importorskip("onnxruntime")
    import torch_pruning as tp

    class Graph(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.network(x).logits, self.network.mask(x)

    network = student().eval()
    x = torch.randn(1, 3, 64, 64)
    graph = tp.DependencyGraph().build_dependency(network, example_inputs=x, output_transform=lambda out: out.logits)
    for lateral in network.decoder.lateral:
        graph.get_pruning_group(lateral[0], tp.prune_conv_out_channels, idxs=[0, 1, 2]).prune()
    buffer = io.BytesIO()
    program = torch.onnx.export(Graph(network).eval(), (x,), dynamo=True, external_data=False, verbose=False)
    program.save(buffer)
    session = ort.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    logits, mask = map(torch.from_numpy, session.run(None, {session.get_inputs()[0].name: x.numpy()}))
    with torch.no_grad():
        wanted_logits, wanted_mask = Graph(network)(x)
    torch.testing.assert_close(logits, wanted_logits, rtol=1e-3, atol=1e-4)
    assert (mask == wanted_mask).float().mean() > 0.999


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("mobilenetv4_smal", {}, "nearest: mobilenetv4_small"),
        (TINY, {"decoder": "dens"}, "nearest: dense"),
        (TINY, {"heads": ("sfd",)}, "nearest: sdf"),
        (TINY, {"classes": 1}, "at least 2"),
        (TINY, {"pretrained": "maybe"}, "if-available"),
        ("test_vit", {}, "strides"),
    ],
)
def test_a_bad_request_is_named_in_one_line(name: str, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        student(name, **asked)
    assert "\n" not in str(caught.value)


def test_missing_pretrained_weights_are_one_line_or_an_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    student(pretrained="if-available")
    assert [r.getMessage().count("\n") for r in caplog.records] == [0]
    assert "from scratch" in caplog.text
    with pytest.raises(ValueError, match="'always'"):
        student(pretrained="always")


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_the_quick_mask_is_the_argmax_of_the_upsampled_logits(classes: int) -> None:
    logits = torch.randn(2, classes, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    size = (20, 28)
    whole = nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    assert torch.equal(upsampled_argmax(logits, mask_kernel(4, classes), size), whole.argmax(1).to(torch.uint8))


def test_two_classes_cost_one_map_a_phase() -> None:
    assert mask_kernel(4, 2).shape == (16, 2, 3, 3)
    assert mask_kernel(4, 3).shape == (48, 1, 3, 3)
