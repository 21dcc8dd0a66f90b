"""The optional second output of a graph: the same map on every runtime, in float and in INT8; graphs without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nvidia_parser import accepted_by_nvidia_parser

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

import students  # noqa: E402
from deploy.export import DeployableModel, drop_uncertainty, export_onnx, export_openvino  # noqa: E402
from deploy.quantization.float16 import to_float16  # noqa: E402
from deploy.quantization.int8 import excluded_nodes, name_nodes  # noqa: E402
from deploy.runtimes.load import runner  # noqa: E402
from edgemt.model_card import Normalisation  # noqa: E402

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
NORMALISE = Normalisation()


@pytest.fixture(scope="module", params=["head", "softmax"])
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """model.onnx and model.xml with the output, plain.onnx without, expected.npz from torch."""
    out, source = tmp_path_factory.mktemp("graphs"), request.param
    torch.manual_seed(0)
    heads = ("uncertainty",) if source == "head" else ()
    network = students.build("test_efficientnet", channels=3, classes=2, heads=heads)
    torch.nn.init.normal_(network.uncertainty[-1].weight if heads else network.head.weight, std=3.0)
    for norm in (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.momentum = 1.0
    network.train()(torch.from_numpy(FRAMES).permute(0, 3, 1, 2) / 64 - 2)  # the statistics of these frames
    network.eval()
    export_onnx(network, out / "model.onnx", size=(64, 64), channels=3, normalise=NORMALISE, uncertainty=source)
    export_openvino(out / "model.onnx", out / "model.xml")
    to_float16(out / "model.onnx", out / "model.fp16.onnx")
    (out / "plain.onnx").write_bytes((out / "model.onnx").read_bytes())
    drop_uncertainty(out / "plain.onnx")
    whole = DeployableModel(network, normalise=NORMALISE, channels=3, uncertainty=source)
    with torch.inference_mode():
        mask, values = whole(torch.from_numpy(FRAMES))
    np.savez(out / "expected.npz", mask=mask.numpy(), uncertainty=values.numpy())
    return out


@pytest.mark.parametrize(
    ("file", "runtime", "levels"),
    [("model.onnx", "onnxruntime", 1), ("model.xml", "openvino", 1), ("model.fp16.onnx", "onnxruntime", 4)],
)
def test_every_runtime_gives_the_map_of_torch(folder: Path, file: str, runtime: str, levels: int) -> None:
    expected = np.load(folder / "expected.npz")
    made = runner(folder / file, runtime=runtime, precision="f32")
    masks, maps = made.with_uncertainty(FRAMES)
    assert made.has_uncertainty and maps.dtype == np.uint8 and np.ptp(expected["uncertainty"]) > 50
    assert np.abs(maps.astype(int) - expected["uncertainty"]).max() <= levels
    assert (masks == expected["mask"]).mean() > 0.999 and (masks == made(FRAMES)).all()
    assert (np.concatenate(list(made.infer_many(FRAMES[i : i + 1] for i in range(3)))) == masks).all()


def test_nvidias_parser_takes_the_graph(folder: Path) -> None:
    objections = accepted_by_nvidia_parser(folder / "model.onnx")
    if objections is None:
        pytest.skip("TensorRT for RTX is not installed")
    assert objections == []


def test_a_map_of_an_earlier_frame_is_not_overwritten(folder: Path) -> None:
    for file, runtime in (("model.onnx", "onnxruntime"), ("model.xml", "openvino")):
        made = runner(folder / file, runtime=runtime)
        first = made.with_uncertainty(FRAMES[:1])[1]
        before = first.copy()
        made.with_uncertainty(FRAMES[1:2])
        assert (first == before).all()


def test_without_the_output_the_masks_are_the_same_and_the_map_is_refused(folder: Path) -> None:
    plain, whole = (runner(folder / name, runtime="onnxruntime") for name in ("plain.onnx", "model.onnx"))
    assert not plain.has_uncertainty and (plain(FRAMES) == whole(FRAMES)).all()
    assert (folder / "plain.onnx").stat().st_size < (folder / "model.onnx").stat().st_size
    with pytest.raises(ValueError, match="plain.onnx: has no output .uncertainty.; export the run again"):
        plain.with_uncertainty(FRAMES)


def test_nothing_between_the_last_layer_of_the_head_and_the_map_is_quantized(folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model, plain = (onnx.load(str(folder / name)) for name in ("model.onnx", "plain.onnx"))
    for graph in (model, plain):
        name_nodes(graph)
    kinds = {node.name: node.op_type for node in model.graph.node}
    excluded = {kinds[name] for name in excluded_nodes(model)}
    assert {"Sigmoid", "Sqrt", "Mul"} <= excluded
    own = {node.name for node in plain.graph.node}
    added = (excluded_nodes(model) & own) - excluded_nodes(plain)  # the masks are quantized as without the output
    assert excluded_nodes(plain) <= excluded_nodes(model) and {kinds[name] for name in added} <= {"Pad"}
