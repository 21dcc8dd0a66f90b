"""The second head of a student: it leaves the masks alone, and its map is the root of a probability in eight bits."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import students
from deploy.pruning import prune
from deploy.pruning.options import PruneOptions


def student(*heads: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return students.build("test_efficientnet", channels=3, classes=2, heads=heads, **options)  # type: ignore[arg-type]


def test_the_trunk_begins_and_learns_as_without_the_head() -> None:
    plain, network, x = student(), student("uncertainty"), torch.randn(2, 3, 64, 64)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value)
    out = network.train()(x)
    assert out.uncertainty.shape == (2, 1, 64, 64)
    out.uncertainty.square().mean().backward()
    moved = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None}
    assert moved == {"uncertainty"}
    assert plain(x).uncertainty is None


@pytest.mark.parametrize(("size", "resolution"), [(64, 1.0), (128, 0.75), (96, 0.75)])
def test_the_map_is_the_upsampled_root_of_the_probability(size: int, resolution: float) -> None:
    network, x = student("uncertainty", resolution=resolution), torch.randn(2, 3, size, size)
    nn.init.normal_(network.uncertainty[-1].weight, std=3.0)
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 1.0
    network.train()(x)  # so that the statistics are those of `x`, and the map is no constant
    network.eval()
    with torch.inference_mode():
        mask, values = network.mask_and_uncertainty(x)
        assert torch.equal(mask, network.mask(x))
        finest = network.decoder(network.pyramid(network._smaller(x)))[-1]
        root = network.uncertainty(finest).sigmoid().sqrt()
        wanted = F.interpolate(root, size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    assert values.dtype == torch.uint8 and values.shape == mask.shape
    assert int(values.max()) - int(values.min()) > 20
    assert (values.float() - 255 * wanted).abs().max() <= 0.51


@pytest.mark.parametrize(("size", "resolution", "classes"), [(64, 1.0, 2), (64, 1.0, 4), (96, 0.75, 2), (100, 0.75, 3)])
def test_the_softmax_map_is_that_of_the_full_logits(size: int, resolution: float, classes: int) -> None:
    torch.manual_seed(0)
    network = students.build("test_efficientnet", channels=3, classes=classes, resolution=resolution)
    nn.init.normal_(network.head.weight, std=3.0)
    x = torch.randn(2, 3, size, size)
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 1.0
    network.train()(x)
    network.eval()
    with torch.inference_mode():
        mask, values = network.mask_and_softmax(x)
        assert torch.equal(mask, network.mask(x))
        finest = network.decoder(network.pyramid(network._smaller(x)))[-1]
        logits = F.interpolate(network.head(finest), size=(size, size), mode="bilinear", align_corners=False)
        unsure = 1 - logits.softmax(1).amax(1)
    assert values.dtype == torch.uint8 and values.shape == mask.shape
    assert int(values.max()) - int(values.min()) > 100
    assert (values.float() - 255 * unsure.clamp_min(0).sqrt()).abs().max() <= 0.6


def test_pruning_keeps_the_one_channel_of_the_head_and_follows_its_input() -> None:
    network, x = student("uncertainty").eval(), torch.randn(1, 3, 64, 64)
    plan = prune.prune(network, example=x, options=PruneOptions(share=0.3, target="macs", importance="magnitude"))
    assert plan.macs[1] < plan.macs[0]
    out = network(x)
    assert out.uncertainty.shape == (1, 1, 64, 64) and out.logits.shape == (1, 2, 64, 64)
    assert network.uncertainty[-1].out_channels == 1


def test_a_student_without_the_head_has_no_map() -> None:
    with pytest.raises(ValueError, match="student.method.uncertainty 1"):
        student().eval().mask_and_uncertainty(torch.randn(1, 3, 64, 64))
