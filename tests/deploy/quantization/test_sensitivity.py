"""The layer that eight bits hurt is found from unlabelled frames, and mended by leaving it in float."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from deploy.export import export_onnx
from deploy.quantization.int8 import quantize
from deploy.quantization.sensitivity import layer_sensitivities
from edgemt.contract import Output
from edgemt.model_card import Normalisation

pytest.importorskip("nncf")
pytest.importorskip("onnxruntime")
SIZE = (32, 32)


class Five(nn.Module):
    """Five convolutions, two of them around an addition; one channel before `bad` is planted."""

    def __init__(self, *, by: float, bad: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleList([nn.Conv2d(3, 8, 3, padding=1), *(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))])
        self.head = nn.Conv2d(8, 3, 1)
        with torch.no_grad():
            before, after = self.layers[bad - 1], self.layers[bad]
            before.weight[2] *= by  # type: ignore[index]
            before.bias[2] *= by  # type: ignore[index]
            after.weight[:, 2] /= by  # type: ignore[index]

    def forward(self, x: torch.Tensor) -> Output:
        for number, layer in enumerate(self.layers):
            y = torch.relu(layer(x))
            x = x + y if number == 3 else y
        return Output(self.head(x))


def frames(count: int = 6) -> list[np.ndarray]:
    noise = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(noise, size=SIZE, mode="bilinear")
    return [frame[None] for frame in (smooth * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()]


Graphs = Callable[..., tuple[Path, Path]]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    """graphs(by=, bad=) -> the float graph and its INT8 copy, made once for each choice."""

    @cache
    def made(*, by: float, bad: int) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp("graphs")
        path = export_onnx(Five(by=by, bad=bad), folder / "m.onnx", size=SIZE, channels=3, normalise=Normalisation())
        return path, quantize(path, folder / "m.int8.onnx", calibration=frames())

    return made


def weight_of(path: Path, name: str) -> str:
    return next(node.input[1] for node in onnx.load(path).graph.node if node.name == name)


@pytest.mark.parametrize("bad", [1, 2])
def test_the_planted_layer_is_the_worst_by_far(bad: int, graphs: Graphs) -> None:
    exact, small = graphs(by=1000.0, bad=bad)
    found = layer_sensitivities(exact, small, frames=frames())
    assert weight_of(exact, found[0].layer) == f"network.layers.{bad}.weight"
    assert found[0].output_noise > 5 * found[1].output_noise and found[0].changed_fraction > found[1].changed_fraction


def test_every_layer_is_looked_at_and_the_worst_comes_first(graphs: Graphs) -> None:
    exact, small = graphs(by=1.0, bad=2)
    found = layer_sensitivities(exact, small, frames=frames())
    kinds = [layer.kind for layer in found]
    assert kinds.count("Conv") == 5 and "Add" in kinds
    assert [layer.output_noise for layer in found] == sorted((layer.output_noise for layer in found), reverse=True)
    assert all(0 < layer.output_noise < 0.05 for layer in found if layer.kind == "Conv")


def test_left_in_float_the_worst_layer_reads_no_quantized_tensor_and_the_masks_come_back(
    graphs: Graphs, tmp_path: Path
) -> None:
    import onnxruntime as ort

    exact, small = graphs(by=1000.0, bad=2)
    worst = layer_sensitivities(exact, small, frames=frames())[0].layer
    mixed = quantize(exact, tmp_path / "mixed.onnx", calibration=frames(), keep=[worst])
    graph = onnx.load(mixed).graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    node = next(node for node in graph.node if node.name == worst)
    assert all(made_by.get(name) != "DequantizeLinear" for name in node.input)
    assert sum(n.op_type == "Conv" and made_by.get(n.input[1]) == "DequantizeLinear" for n in graph.node) == 4
    result = {}
    for path in (exact, small, mixed):
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        result[path] = np.concatenate([session.run(None, {"frame": frame})[0] for frame in frames()])
    broken, mended = ((result[path] != result[exact]).mean() for path in (small, mixed))
    assert mended < 0.25 * broken


def test_a_layer_that_no_node_is_called_is_named(graphs: Graphs, tmp_path: Path) -> None:
    exact, _ = graphs(by=1.0, bad=2)
    with pytest.raises(ValueError, match="keep names nowhere, and no node has that name"):
        quantize(exact, tmp_path / "q.onnx", calibration=frames(), keep=["nowhere"])


def test_without_frames_nothing_can_be_told(graphs: Graphs) -> None:
    exact, small = graphs(by=1.0, bad=2)
    with pytest.raises(ValueError, match="no frames"):
        layer_sensitivities(exact, small, frames=[])
