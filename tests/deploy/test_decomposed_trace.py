"""The exporter need not trace a network twice, and writes the same graph, but for names of values and nodes."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

import students
from deploy import decomposed_trace, export
from edgemt.contract import Output
from edgemt.model_card import Normalisation

SIZE = (64, 64)


class Layers(nn.Module):
    """Each operator that is replaced, the composite ones that stay, and a layer that works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(4, 3, 1)
        self.act, self.mix = nn.ReLU6(inplace=True), nn.Linear(4, 4)
        self.norm.running_mean.uniform_(-1, 1)

    def forward(self, x):
        left, right = self.act(self.norm(self.first(x.to(torch.float32)))).chunk(2, 1)
        left = nn.functional.pad(left, (1, 1, 1, 1), mode="replicate")[..., 1:-1, 1:-1]
        mixed = self.mix((left * right).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        mixed = torch.where(mixed > 0.5, 1.0, mixed)
        mixed = mixed.reshape(1, 2, -1).transpose(1, 2).reshape(mixed.shape)  # the strides allow the first view alone
        return Output(nn.functional.interpolate(self.head(mixed), size=x.shape[-2:], mode="bilinear"))


class Flat(nn.Module):
    """Flattened axes, which the decomposition writes otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return Output(self.head(x.flatten(2).reshape(x.shape)))


def exported(network: nn.Module, path) -> onnx.ModelProto:
    made = export.export_onnx(network, path, size=SIZE, channels=3, normalise=Normalisation())
    return onnx.load(made)


def without_names(model: onnx.ModelProto) -> bytes:
    """The graph with its nodes, values and constants numbered; names of weights, inputs and outputs stay."""
    graph, number = model.graph, dict[str, str]()
    kept = {value.name for values in (graph.input, graph.output) for value in values} | {"", "scale", "shift"}

    def plain(name: str) -> str:
        return name if name in kept or name.startswith("network.") else number.setdefault(name, f"value{len(number)}")

    for k, node in enumerate(graph.node):
        node.name = str(k)
        node.input[:], node.output[:] = [*map(plain, node.input)], [*map(plain, node.output)]
    tensors = sorted(graph.initializer, key=lambda tensor: plain(tensor.name))
    del graph.value_info[:], graph.initializer[:]
    graph.initializer.extend(tensors)
    for tensor in graph.initializer:
        tensor.name = plain(tensor.name)
    return model.SerializeToString(deterministic=True)


@pytest.fixture
def both(tmp_path, monkeypatch):
    """both(network) -> the graph of a trace that is not traced again, and the exporter's own."""

    def both(network: nn.Module) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        with monkeypatch.context() as patch:
            patch.setattr(ExportedProgram, "run_decompositions", lambda *_, **__: pytest.fail("traced again"))
            once = exported(network, tmp_path / "once.onnx")
        monkeypatch.setattr(export, "traced", lambda module, frame: module)
        return once, exported(network, tmp_path / "twice.onnx")

    return both


def test_every_replaced_operator_gives_the_graph_of_the_exporter(both) -> None:
    torch.manual_seed(0)
    once, twice = both(Layers().eval())
    assert without_names(once) == without_names(twice)


SLOW = pytest.mark.slow  # the same operators; the default student and the one of the tests of whole runs are fast
FAST = ("test_efficientnet",)
NAMES = [name if name in FAST else pytest.param(name, marks=SLOW) for name in (*FAST, *students.STUDENTS)]


@pytest.mark.parametrize("name", NAMES)
def test_a_student_is_traced_once_and_its_graph_is_that_of_the_exporter(name: str, both) -> None:
    torch.manual_seed(0)
    once, twice = both(students.build(name, channels=3, classes=3).eval())
    assert without_names(once) == without_names(twice)


def test_a_network_with_another_operator_is_decomposed_by_the_exporter(tmp_path, monkeypatch) -> None:
    real, again = ExportedProgram.run_decompositions, []
    monkeypatch.setattr(
        ExportedProgram, "run_decompositions", lambda *given, **options: again.append(1) or real(*given, **options)
    )
    network = Flat().eval()
    once = exported(network, tmp_path / "once.onnx")
    assert again
    monkeypatch.setattr(export, "traced", lambda module, frame: module)
    assert without_names(once) == without_names(exported(network, tmp_path / "twice.onnx"))


def test_a_module_that_cannot_be_traced_is_left_to_the_exporter() -> None:
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    module = Branch()
    assert decomposed_trace.traced(module, torch.ones(1, 2)) is module
