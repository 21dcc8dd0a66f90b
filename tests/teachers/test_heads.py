"""A head has one meaning on every network: "scales" are coarser levels, "decoder2/3" full-size decoders."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import students
import teachers
from edgemt.contract import Batch, Step
from edgemt.learning.roles import build_networks, set_modes
from edgemt.methods import METHODS

CLASSES = 5  # no other layer of these networks has as many outputs
NETWORKS: dict[str, Callable[[tuple[str, ...]], nn.Module]] = {
    "unet": lambda heads: teachers.build(
        "unet", channels=1, classes=CLASSES, heads=heads, widths=(4, 6, 8, 8), dropout=(0.1,) * 4
    ),
    "vnet": lambda heads: teachers.build("vnet", channels=1, classes=CLASSES, heads=heads, filters=2, dims=2),
    "student": lambda heads: students.build("test_efficientnet", channels=1, classes=CLASSES, heads=heads),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def built(name: str, heads: tuple[str, ...]) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name](heads).train()


def resolutions(network: nn.Module) -> list[int]:
    """Heights of the maps that the class layers read in one forward pass of 64 x 64 images, the main one first."""
    heights: list[int] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels == CLASSES:
            module.register_forward_hook(lambda _, inputs, __: heights.append(inputs[0].shape[-2]))
    network(torch.randn(2, 1, 64, 64))
    return heights


@every_network
@pytest.mark.parametrize("method", ["ms_mt", "feature_aggregation", "urpc"])
def test_a_method_of_scales_reads_coarser_maps_and_no_further_decoder(name: str, method: str) -> None:
    heights = resolutions(built(name, METHODS[method].heads))
    finest = heights.pop(0)
    assert heights and all(height < finest for height in heights), (finest, heights)
    assert len(set(heights)) == len(heights)


@every_network
@pytest.mark.parametrize(("method", "further"), [("fussnet", 2), ("mc_net", 1), ("mc_net_plus", 2), ("cmmt", 1)])
def test_a_method_of_decoders_reads_full_size_decoders_and_no_coarser_map(name: str, method: str, further: int) -> None:
    heights = resolutions(built(name, METHODS[method].heads))
    assert len(heights) == 1 + further
    assert len(set(heights)) == 1


@every_network
def test_the_heads_of_every_method_train_on_it(name: str) -> None:
    for heads in sorted({method.heads for method in METHODS.values()}):
        out = built(name, heads)(torch.randn(2, 1, 32, 32))
        assert (out.sdf is not None) == ("sdf" in heads) and (out.features is not None) == ("features" in heads)
        assert bool(out.scales) == ("scales" in heads)
        assert len(out.decoders) == len({"decoder2", "decoder3"} & set(heads))
        maps = (out.logits, *out.scales, *out.decoders)
        assert all(m.shape == (2, CLASSES, 32, 32) for m in maps)
        assert len({float(m.detach().std()) for m in maps}) == len(maps)


@pytest.mark.parametrize("method", ["ms_mt", "feature_aggregation", "fussnet", "urpc", "mc_net", "cmmt"])
def test_a_network_without_the_outputs_that_a_method_compares_is_refused_in_one_line(method: str) -> None:
    chosen = METHODS[method]
    nets = build_networks(chosen.roles(), lambda kind, init: built("unet", ("sdf",)))
    set_modes(nets, chosen.roles())
    batch = Batch(torch.randn(4, 1, 32, 32), torch.randint(0, CLASSES, (2, 32, 32)))
    with pytest.raises(ValueError, match="heads: the network gives no (coarser scales|further decoders)") as caught:
        next(chosen.steps(nets, batch, Step(1, 1, torch.Generator().manual_seed(0))))
    assert "\n" not in str(caught.value)


def test_a_student_with_a_further_decoder_can_be_pruned_and_still_trains() -> None:
    from deploy.pruning.options import PruneOptions
    from deploy.pruning.prune import prune

    network = built("student", ("decoder2",)).eval()
    prune(network, example=torch.randn(1, 1, 64, 64), options=PruneOptions(share=0.2, importance="magnitude"))
    out = network.train()(torch.randn(2, 1, 64, 64))
    assert len(out.decoders) == 1
    (out.logits.square().mean() + out.decoders[0].square().mean()).backward()
    assert all(p.grad is not None for p in network.parameters())
