"""Pruning for latency follows what the clock says: on machines made up for the test, and once on each real runtime."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

import students
from deploy.pruning.cost import LAYERS, channels_of, depthwise, macs_of, spaces_of, widths_of
from deploy.pruning.latency_table import LatencyGrid, LayerShape, channel_grid, layer_of, measure_table
from deploy.pruning.layer_benchmark_graph import layers_graph
from deploy.pruning.layer_profiler import RuntimeLatencyBackend
from deploy.pruning.options import PruneOptions
from deploy.pruning.plan import Plan
from deploy.pruning.prune import prune
from edgemt.contract import Output

EXAMPLE = torch.zeros(1, 1, 32, 32)


class Plain(nn.Module):
    """Four convolutions in a row, then the classes."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 64, 48, 64, 48)
        self.layers = nn.Sequential(*(nn.Conv2d(i, o, 3, padding=1) for i, o in zip(widths, widths[1:], strict=False)))
        self.head = nn.Conv2d(48, 3, 1)

    def forward(self, x):
        return Output(self.head(self.layers(x)))


def plain() -> nn.Module:
    torch.manual_seed(0)
    return Plain()


class Pretended:
    """A runtime that computes channels in blocks, and takes `fixed` ms for what is no layer."""

    def __init__(self, *, block: int = 16, fixed: float = 0.0, noise: float = 0.0) -> None:
        self.block, self.fixed, self.noise = block, fixed, noise
        self.requested: list[LayerShape] = []
        self.draw = np.random.default_rng(0)

    def time(self, layer: LayerShape) -> float:
        blocks = math.ceil(layer.out_channels / self.block) * (
            1 if layer.groups > 1 else math.ceil(layer.in_channels / self.block)
        )
        return 1e-4 * blocks * math.prod(layer.spatial) * math.prod(layer.kernel)

    def layers(self, shapes):
        self.requested += shapes
        return [self.time(layer) for layer in shapes]

    def graph(self, network, example):
        spaces = spaces_of(network, example)
        return self.fixed + sum(
            self.time(layer_of(m, in_channels)) for m, at in spaces.items() for in_channels, _ in at
        )

    def time_interleaved(self, graphs):
        slow = 1 + self.noise * self.draw.random()
        return [slow * graph for graph in graphs]

    def describe(self):
        return {"runtime": "pretended", "precision": "int8", "threads": 1}


def by_latency(**choices) -> PruneOptions:
    return PruneOptions(target="latency", importance="magnitude", **choices)


def test_channels_fall_to_the_blocks_that_the_machine_computes_in():
    network = plain()
    prune(network, example=EXAMPLE, options=by_latency(share=0.45, round_to=8), backend=Pretended(block=16))
    widths = [m.out_channels for m in network.layers]
    assert all(width % 16 == 0 for width in widths) and sum(widths) < 224
    by_macs = plain()
    prune(by_macs, example=EXAMPLE, options=PruneOptions(share=0.45, round_to=8, importance="magnitude"))
    assert any(m.out_channels % 16 for m in by_macs.layers)


@pytest.mark.parametrize("fixed", [0.0, 4.0])
def test_the_share_that_goes_is_that_of_the_whole_network_as_measured(fixed):
    machine, network = Pretended(block=8, fixed=fixed, noise=0.3), plain()
    before = machine.graph(network, EXAMPLE)
    plan = prune(network, example=EXAMPLE, options=by_latency(share=0.4, round_to=8), backend=machine)
    assert 1 - machine.graph(network, EXAMPLE) / before == pytest.approx(0.4, abs=0.04)
    assert plan.latency["share"] == pytest.approx(1 - machine.graph(network, EXAMPLE) / before, abs=1e-3)
    assert plan.latency["runtime"] == "pretended" and plan.latency["tries"]


def test_more_than_can_go_is_refused_with_what_can_and_nothing_is_cut():
    network = plain()
    shapes = widths_of(network)
    with pytest.raises(
        ValueError, match=r"prune\.share = 0\.7: at most 0\.[1-4]\d? of the latency on openvino \(int8\)"
    ):
        prune(network, example=EXAMPLE, options=by_latency(share=0.7, round_to=8), backend=Pretended(fixed=80.0))
    assert widths_of(network) == shapes


def test_the_plan_keeps_the_times_through_json_and_an_older_one_reads_without():
    network = plain()
    plan = prune(network, example=EXAMPLE, options=by_latency(share=0.3, round_to=8), backend=Pretended(block=8))
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    older = {key: value for key, value in plan.to_dict().items() if key != "latency"}
    assert Plan.from_dict(older).latency == {}


@pytest.mark.parametrize("name", ["mobilenetv4_small", "mobilenetv3_small", "efficientnet_b0"])
def test_a_student_is_pruned_by_latency_whatever_its_blocks_are_made_of(name):
    torch.manual_seed(0)
    network, example = students.build(name, channels=1, classes=3), torch.zeros(1, 1, 64, 64)
    machine = Pretended(block=16)
    before = machine.graph(network, example)
    prune(network, example=example, options=by_latency(share=0.4, steps=1), backend=machine)
    assert 1 - machine.graph(network, example) / before == pytest.approx(0.4, abs=0.05)
    assert network.eval()(example).logits.shape == (1, 3, 64, 64)


def test_the_table_is_exact_where_it_was_measured_and_for_the_network_as_it_stands():
    network, machine = plain(), Pretended(block=8)
    table, total = measure_table(network, EXAMPLE, [], round_to=8, backend=machine)
    assert total == pytest.approx(machine.graph(network, EXAMPLE))
    cost = table.cost(network)
    assert cost(network.head, 48, 3) == pytest.approx(machine.time(layer_of(network.head, (32, 32))))


def test_a_moment_of_noise_does_not_make_a_smaller_layer_slower():
    class Disturbed(Pretended):
        def layers(self, shapes):
            return [
                ms * (9 if (a.in_channels, a.out_channels) == (64, 48) else 1)
                for a, ms in zip(shapes, super().layers(shapes), strict=True)
            ]

    network = plain()
    from deploy.pruning.dependency_groups import groups_of

    options = by_latency(round_to=8)
    _, groups = groups_of(network, EXAMPLE, options, original_widths=widths_of(network))
    machine = Disturbed(block=16)
    table, _ = measure_table(network, EXAMPLE, groups, round_to=8, backend=machine)
    grid = table.grids["layers.1"][0]
    assert (np.diff(grid.ms, axis=0) >= 0).all() and (np.diff(grid.ms, axis=1) >= 0).all()


def test_counts_to_measure_span_the_width_and_are_few():
    assert channel_grid(48, 16, round_to=8) == (16, 24, 32, 40, 48)
    assert channel_grid(3, 3, round_to=8) == (3,)
    many = channel_grid(1280, 320, round_to=16)
    assert len(many) <= 7 and many[0] == 320 and many[-1] == 1280 and all(n % 16 == 0 for n in many)


def test_between_two_counts_the_time_is_interpolated():
    grid = LatencyGrid((16, 32), (16, 32), np.array([[1.0, 3.0], [2.0, 6.0]]))
    assert grid(16, 24) == 2.0 and grid(24, 32) == 4.5


def test_a_depthwise_layer_stays_depthwise_at_other_widths():
    layer = layer_of(nn.Conv2d(32, 32, 3, padding=1, groups=32), (8, 8)).at(16, 16)
    assert (layer.in_channels, layer.out_channels, layer.groups) == (16, 16, 16)


LAYERS_OF_ALL_KINDS = [
    (nn.Conv2d(32, 48, 1), (12, 12)),
    (nn.Conv2d(1, 16, 3, stride=2, padding=1), (13, 13)),
    (nn.Conv2d(32, 32, 5, padding=2, groups=32), (12, 12)),
    (Conv2dSame(32, 32, 5, stride=2, groups=32), (4, 4)),  # a map smaller than the kernel
    (Conv2dSame(32, 32, 3, stride=2, groups=32), (13, 12)),
    (nn.ConvTranspose2d(32, 16, 2, stride=2), (6, 6)),
    (nn.Linear(32, 16), (10,)),
    (nn.Conv3d(16, 16, 3, padding=1), (6, 6, 6)),
]


@pytest.mark.parametrize("int8", [True, False])
def test_the_graph_of_layers_has_the_shapes_that_torch_gives(int8):
    onnx = pytest.importorskip("onnx")
    layers = [layer_of(module, space) for module, space in LAYERS_OF_ALL_KINDS]
    model, names = layers_graph(layers, int8=int8)
    read = onnx.load_from_string(model)
    onnx.checker.check_model(read, full_check=True)
    for (module, space), name, given in zip(LAYERS_OF_ALL_KINDS, names, read.graph.output, strict=True):
        in_channels = channels_of(module)[0]
        image = (
            torch.zeros(1, *space, in_channels)
            if isinstance(module, nn.Linear)
            else torch.zeros(1, in_channels, *space)
        )
        assert [dim.dim_value for dim in given.type.tensor_type.shape.dim] == list(module(image).shape), name


@pytest.mark.parametrize("precision", ["int8", "float"])
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_every_kind_of_layer_gets_a_time_on_a_real_runtime(runtime, precision):
    pytest.importorskip(runtime)
    shapes = [layer_of(module, space) for module, space in LAYERS_OF_ALL_KINDS if not depthwise(module)]
    shapes += [LayerShape("Conv", 256, 256, (32, 32), (3, 3), (1, 1), (1, 1), (1, 1))]
    times = RuntimeLatencyBackend(runtime=runtime, precision=precision, threads=1).layers(shapes)
    assert len(times) == len(shapes) and all(math.isfinite(ms) and ms >= 0 for ms in times) and times[-1] > 0


@pytest.mark.parametrize("precision", ["int8", "float"])
def test_the_whole_network_is_timed_as_it_ships_beside_the_unpruned_one(precision):
    pytest.importorskip("openvino")
    network = plain().eval()
    machine = RuntimeLatencyBackend(precision=precision, threads=1)
    graph = machine.graph(network, EXAMPLE)
    assert ("int8" in graph.precision) == (precision == "int8")
    assert (
        all(ms > 0 for ms in machine.time_interleaved([graph, graph]))
        and len(machine.time_interleaved([graph, graph])) == 2
    )


def test_a_runtime_without_a_profile_and_a_3d_network_are_named():
    with pytest.raises(ValueError, match=r"prune\.runtime = 'tensorrt': layer times can be had of openvino and"):
        RuntimeLatencyBackend(runtime="tensorrt")
    with pytest.raises(ValueError, match="a 3-D network does not ship"):
        RuntimeLatencyBackend().graph(nn.Conv3d(1, 2, 1), torch.zeros(1, 1, 4, 4, 4))


def test_macs_are_those_of_the_layers_that_the_example_passes():
    network = plain()
    cost = macs_of(network, EXAMPLE)
    total = sum(cost(m, *channels_of(m)) for m in network.modules() if isinstance(m, LAYERS))
    assert total == 1024 * (9 * (64 + 64 * 48 + 48 * 64 + 64 * 48) + 48 * 3)
