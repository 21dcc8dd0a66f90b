"""One INT8 file that ONNX Runtime, OpenVINO and NVIDIA's parser all take, made from unlabelled frames."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from nvidia_parser import accepted_by_nvidia_parser
from torch import nn

import students
from deploy import export
from deploy.export import DeployableModel, export_onnx, export_openvino
from deploy.quantization.int8 import excluded_nodes, quantize
from deploy.runtimes.openvino_backend import core
from edgemt.contract import Output
from edgemt.model_card import Normalisation

pytest.importorskip("nncf")
SIZE = (64, 64)


def frames(count: int) -> list[np.ndarray]:
    noise = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(noise, size=SIZE, mode="bilinear")
    return [frame[None] for frame in (smooth * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()]


class Two(nn.Module):
    """Two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        return Output(self.head(torch.relu(self.first(x))))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tiny") / "model.onnx"
    return export_onnx(Two(), path, size=SIZE, channels=3, normalise=Normalisation())


@pytest.fixture(scope="module")
def student() -> nn.Module:
    """A real student whose batch statistics are in order."""
    torch.manual_seed(0)
    network = students.build("mobilenetv4_small", channels=3, classes=3).train()
    with torch.no_grad():
        for _ in range(4):
            network(torch.randn(4, 3, *SIZE))
    return network.eval()


@pytest.fixture(scope="module")
def pair(student, tmp_path_factory):
    """The float graph of a real student, and its INT8 copy."""
    folder = tmp_path_factory.mktemp("pair")
    path = export_onnx(student, folder / "model.onnx", size=SIZE, channels=3, normalise=Normalisation())
    return path, quantize(path, folder / "model.int8.onnx", calibration=frames(8))


@pytest.fixture(scope="module")
def per_image(tmp_path_factory):
    """The same of two convolutions behind a normalisation by the frame itself."""
    folder = tmp_path_factory.mktemp("per_image")
    torch.manual_seed(0)
    normalise = Normalisation(per_image=True)
    path = export_onnx(Two(), folder / "model.onnx", size=SIZE, channels=3, normalise=normalise)
    return path, quantize(path, folder / "model.int8.onnx", calibration=frames(8))


BOTH = pytest.mark.parametrize("which", ["pair", "per_image"])


def onnxruntime_masks(path, images) -> np.ndarray:
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"frame": image})[0] for image in images])


def openvino_model(path):
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return core().compile_model(str(path), "CPU", options)


def test_the_float_graph_of_a_real_student_gives_the_masks_of_torch_and_nvidia_takes_it(pair, student):
    images = frames(2)
    deployable = DeployableModel(student, normalise=Normalisation(), channels=3).eval()
    with torch.no_grad():
        expected = deployable(torch.from_numpy(np.concatenate(images)))
    assert (onnxruntime_masks(pair[0], images) == expected.numpy()).mean() > 0.995
    assert accepted_by_nvidia_parser(pair[0]) in ([], None)


@BOTH
def test_both_runtimes_give_nearly_the_mask_of_the_float_graph(which, request):
    pair = request.getfixturevalue(which)
    exact, small = pair
    images = frames(4)
    expected = onnxruntime_masks(exact, images)
    model = openvino_model(small)
    for masks in (onnxruntime_masks(small, images), np.concatenate([model(i)["mask"] for i in images])):
        assert masks.dtype == np.uint8 and masks.shape == expected.shape
        assert (masks == expected).mean() > 0.9


def test_the_file_is_less_than_half_as_large(pair):
    assert pair[1].stat().st_size < 0.5 * pair[0].stat().st_size


@BOTH
def test_nvidia_builds_an_engine_from_it(which, request):
    pair = request.getfixturevalue(which)
    assert accepted_by_nvidia_parser(pair[1], build=True) in ([], None)


def test_openvino_runs_every_convolution_in_eight_bits(pair, tmp_path):
    for path in (pair[1], export_openvino(pair[1], tmp_path / "m.xml")):
        nodes = [n.rt_info for n in openvino_model(path).get_runtime_model().get_ops()]
        kinds = Counter(str(n["runtimePrecision"].value) for n in nodes if str(n["layerType"].value) == "Convolution")
        whole = kinds["u8"] + kinds["i8"]
        assert whole > 40 and sum(kinds.values()) - whole <= 1  # the fixed upsampling of the mask stays in float


@BOTH
def test_normalisation_and_argmax_stay_in_float(which, request):
    pair = request.getfixturevalue(which)
    exact, small = (onnx.load(path) for path in pair)
    alone = {node.name: node for node in exact.graph.node if node.name in excluded_nodes(exact)}
    kinds = {node.op_type for node in alone.values()}
    assert {"Cast", "Transpose"} <= kinds and kinds & {"ArgMax", "Greater"}
    assert not {"Resize", "Relu"} & kinds
    # the first step of the choice takes what the layers made: argmax, or the fixed upsampling of a quick mask
    choice = {name for name, node in alone.items() if node.op_type in ("ArgMax", "Conv")}
    assert len(choice) == 1
    assert all(alone[n].op_type == "ArgMax" or alone[n].input[1].endswith("phases") for n in choice)
    made_by = {output: node for node in small.graph.node for output in node.output}
    for node in small.graph.node:
        if node.name in alone and node.name not in choice:
            assert all(made_by[name].op_type != "DequantizeLinear" for name in node.input if name in made_by)


def test_every_scale_is_symmetric_and_every_activation_has_one(pair):
    graph = onnx.load(pair[1]).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    quantizers = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantizers) > 40
    for node in quantizers:
        assert not constants[node.input[2]].any(), node.name
        if node.input[0] not in constants:
            assert constants[node.input[1]].size == 1, node.name


def test_the_same_frames_give_the_same_file(tiny, tmp_path):
    files = [quantize(tiny, tmp_path / f"{i}.onnx", calibration=iter(frames(4))) for i in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_no_more_frames_are_drawn_than_asked_for(tiny, tmp_path):
    drawn = []

    def endless():
        while True:
            drawn.append(1)
            yield frames(1)[0]

    quantize(tiny, tmp_path / "m.onnx", calibration=endless(), frames=3)
    assert len(drawn) == 3


def test_no_calibration_frames_is_one_line(tiny, tmp_path):
    with pytest.raises(ValueError, match="no calibration frames"):
        quantize(tiny, tmp_path / "m.onnx", calibration=[])
    with pytest.raises(ValueError, match=r"quantize\.frames = 0"):
        quantize(tiny, tmp_path / "m.onnx", calibration=frames(1), frames=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [np.zeros((1, 64, 64, 1), np.uint8), np.zeros((1, 64, 64, 3), np.float32)])
def test_a_frame_of_another_shape_or_type_is_named(wrong, tiny, tmp_path):
    with pytest.raises(ValueError, match=r"takes uint8 frames \(1, 64, 64, 3\)"):
        quantize(tiny, tmp_path / "m.onnx", calibration=[wrong])


def test_a_file_that_is_no_graph_is_named(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"m\.onnx: not a valid ONNX model"):
        quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", calibration=frames(1))


def test_a_failure_half_way_leaves_no_file(tiny, tmp_path, monkeypatch):
    def fail(path, **_):
        assert path.is_file()  # the graph is written, and checked before it gets its name
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "check", fail)
    with pytest.raises(ValueError, match=r"q\.onnx.*no space left"):
        quantize(tiny, tmp_path / "q.onnx", calibration=frames(1))
    assert not list(tmp_path.iterdir())


def test_quantizing_says_nothing(tiny, tmp_path, capfd):
    quantize(tiny, tmp_path / "m.onnx", calibration=frames(1))
    assert capfd.readouterr() == ("", "")


def test_nvidias_parser_says_why_it_refuses(tmp_path):
    """A transposed uint8 frame is what it cannot take: the reason why ours is cast first."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Transpose", ["frame"], ["mask"], perm=[0, 3, 1, 2], name="turn")],
        "refused",
        [value("frame", onnx.TensorProto.UINT8, [1, 8, 8, 3])],
        [value("mask", onnx.TensorProto.UINT8, [1, 3, 8, 8])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    onnx.save(model, tmp_path / "m.onnx")
    problems = accepted_by_nvidia_parser(tmp_path / "m.onnx")
    if problems is None:
        pytest.skip("TensorRT for RTX is not installed")
    assert problems and any("turn" in problem for problem in problems)
