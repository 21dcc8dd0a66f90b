"""Half precision: the layers' own types change, the frame, its normalisation and the choice of the classes do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from nvidia_parser import accepted_by_nvidia_parser
from torch import nn

import students
from deploy.export import export_onnx
from deploy.quantization.float16 import to_float16
from deploy.quantization.int8 import excluded_nodes, name_nodes
from edgemt.contract import Output
from edgemt.model_card import Normalisation

SIZE = (64, 64)


def pictures(count: int = 4) -> list[np.ndarray]:
    noise = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(noise, size=SIZE, mode="bilinear")
    return [frame[None] for frame in (smooth * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()]


def masks(path: Path) -> np.ndarray:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"frame": frame})[0] for frame in pictures()])


@pytest.fixture(scope="module", params=["mobilenetv4_small", "test_efficientnet"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A float graph, the second with squeeze-excitation and SiLU, and its copy in half precision."""
    folder = tmp_path_factory.mktemp("half")
    torch.manual_seed(0)
    network = students.build(request.param, channels=3, classes=3).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(4, 3, *SIZE))
    normalise = Normalisation(per_image=request.param == "mobilenetv4_small")
    path = export_onnx(network, folder / "model.onnx", size=SIZE, channels=3, normalise=normalise)
    return path, to_float16(path, folder / "model.fp16.onnx")


def test_the_masks_are_those_of_the_float_graph(pair: tuple[Path, Path]) -> None:
    exact, half = (masks(path) for path in pair)
    assert half.dtype == np.uint8 and len(np.unique(exact)) > 1
    assert (exact == half).mean() > 0.995


def test_the_file_is_little_more_than_half_as_large(pair: tuple[Path, Path]) -> None:
    assert pair[1].stat().st_size < 0.6 * pair[0].stat().st_size


def test_nvidia_builds_an_engine_from_it(pair: tuple[Path, Path]) -> None:
    assert accepted_by_nvidia_parser(pair[1], build=True) in ([], None)


def test_layers_read_half_precision_and_the_choice_reads_float(pair: tuple[Path, Path]) -> None:
    exact, model = onnx.load(pair[0]), onnx.shape_inference.infer_shapes(onnx.load(pair[1]))
    name_nodes(exact)
    alone = excluded_nodes(exact)
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.input)}
    kinds |= {t.name: t.data_type for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Add", "Relu", "Sigmoid"):
            wanted = onnx.TensorProto.FLOAT if node.name in alone else onnx.TensorProto.FLOAT16
            assert {kinds[name] for name in node.input} == {wanted}, node.name


def test_the_same_graph_gives_the_same_file(pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert to_float16(pair[0], tmp_path / "again.onnx").read_bytes() == pair[1].read_bytes()


def test_a_weight_that_half_precision_cannot_hold_is_named(tmp_path: Path) -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, 3, 1)
            nn.init.constant_(self.head.weight, 1e6)

        def forward(self, x: torch.Tensor) -> Output:
            return Output(self.head(x))

    path = export_onnx(Large(), tmp_path / "m.onnx", size=SIZE, channels=3, normalise=Normalisation())
    with pytest.raises(ValueError, match=r"head\.weight holds 1e\+06, half precision ends at 65504"):
        to_float16(path, tmp_path / "half.onnx")
    assert not (tmp_path / "half.onnx").exists()
