"""One file from raw frame to mask: the same answer everywhere, nothing outside, nothing half written."""

from __future__ import annotations

import errno
import logging

import numpy as np
import onnx
import pytest
import torch
from nvidia_parser import accepted_by_nvidia_parser
from torch import nn

from deploy import export
from deploy.export import DeployableModel, check, export_onnx, export_openvino
from deploy.runtimes.openvino_backend import core
from edgemt.contract import Output
from edgemt.model_card import Normalisation

SIZE = (64, 96)
NORMALISE = Normalisation(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


class Blobs(nn.Module):
    """A tiny network whose three classes all occur."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        y = self.head(torch.relu(self.norm(self.conv(x))))
        return Output(nn.functional.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False))


def blobs(channels: int = 3) -> nn.Module:
    torch.manual_seed(3)
    return Blobs(channels).eval()


def frames(count: int, channels: int = 3) -> np.ndarray:
    """Smooth colours, uint8 [count, H, W, K]."""
    noise = torch.rand(count, channels, 4, 6, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(noise, size=SIZE, mode="bilinear")
    return (smooth * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def onnxruntime_masks(path, images: np.ndarray) -> np.ndarray:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["mask"], {"frame": image[None]})[0] for image in images])


def openvino_masks(path, images: np.ndarray) -> np.ndarray:
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = core().compile_model(str(path), "CPU", options)
    return np.concatenate([model({"frame": image[None]})["mask"] for image in images])


def torch_masks(network: nn.Module, images: np.ndarray, normalise: Normalisation) -> np.ndarray:
    shippable = DeployableModel(network, normalise=normalise, channels=images.shape[-1]).eval()
    with torch.no_grad():
        return shippable(torch.from_numpy(images)).numpy()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return export_onnx(blobs(), path, size=SIZE, channels=3, normalise=NORMALISE)


@pytest.mark.parametrize(("channels", "per_image"), [(1, True), (3, False)])
def test_every_runtime_gives_the_mask_of_torch(channels, per_image, tmp_path):
    network, images = blobs(channels), frames(3, channels)
    normalise = Normalisation(per_image=per_image)
    path = export_onnx(network, tmp_path / "m.onnx", size=SIZE, channels=channels, normalise=normalise)
    expected = torch_masks(network, images, normalise)
    assert len(np.unique(expected)) > 1 and expected.dtype == np.uint8 and expected.shape == (3, *SIZE)
    for masks in (onnxruntime_masks(path, images), openvino_masks(path, images)):
        assert masks.dtype == np.uint8 and (masks == expected).mean() > 0.999
    assert accepted_by_nvidia_parser(path, build=True) in ([], None)


def test_overlapping_classes_are_bits_in_every_runtime(tmp_path):
    network, images = blobs(), frames(3)
    network.overlapping = True
    with torch.inference_mode():
        x = DeployableModel(network, normalise=NORMALISE, channels=3).normalised(torch.from_numpy(images))
        network.head.bias -= network(x).logits.mean((0, 2, 3))
        logits = network(x).logits
    wanted = ((logits > 0) * torch.tensor([1, 2, 4]).view(1, 3, 1, 1)).sum(1).numpy()
    path = export_onnx(network, tmp_path / "model.onnx", size=SIZE, channels=3, normalise=NORMALISE)
    assert len(np.unique(wanted)) > 3 and accepted_by_nvidia_parser(path) in ([], None)
    assert (onnxruntime_masks(path, images) == wanted).mean() > 0.999
    assert (openvino_masks(export_openvino(path, tmp_path / "model.xml"), images) == wanted).mean() > 0.999


def test_normalisation_in_the_graph_is_that_of_the_contract():
    images = torch.from_numpy(frames(2))
    x = images.permute(0, 3, 1, 2) / 255
    fixed = DeployableModel(nn.Identity(), normalise=NORMALISE, channels=3).normalised(images)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (NORMALISE.mean, NORMALISE.std))
    assert torch.allclose(fixed, (x - mean) / std, atol=1e-5)
    own = DeployableModel(nn.Identity(), normalise=Normalisation(per_image=True), channels=3).normalised(images)
    assert torch.allclose(own.mean((2, 3)), torch.zeros(2, 3), atol=1e-4)
    assert torch.allclose(own.std((2, 3), correction=0), torch.ones(2, 3), atol=1e-3)


def test_a_black_frame_is_finite_under_normalisation_by_the_frame_itself():
    black = torch.zeros(1, *SIZE, 3, dtype=torch.uint8)
    assert (
        DeployableModel(nn.Identity(), normalise=Normalisation(per_image=True), channels=3)
        .normalised(black)
        .isfinite()
        .all()
    )


@pytest.mark.parametrize(
    "bad", [Normalisation(mean=(0.1, 0.2)), Normalisation(std=(0.1, 0.2)), Normalisation(std=(0.0,))]
)
def test_a_normalisation_that_does_not_fit_is_named(bad):
    with pytest.raises(ValueError, match=r"normalise\.(mean|std)"):
        DeployableModel(nn.Identity(), normalise=bad, channels=3)


def test_the_file_stands_alone_and_tells_nothing_of_our_folders(exported):
    assert [file.name for file in exported.parent.iterdir()] == ["model.onnx"]
    model = onnx.load(exported)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert not any(node.metadata_props for node in model.graph.node)
    assert b".py" not in exported.read_bytes()
    assert [(v.name, v.type.tensor_type.elem_type) for v in (*model.graph.input, *model.graph.output)] == [
        ("frame", onnx.TensorProto.UINT8),
        ("mask", onnx.TensorProto.UINT8),
    ]


def test_exporting_twice_gives_the_same_bytes(exported, tmp_path):
    again = export_onnx(blobs(), tmp_path / "m.onnx", size=SIZE, channels=3, normalise=NORMALISE)
    assert again.read_bytes() == exported.read_bytes()


@pytest.mark.parametrize("opset", [18, 21])
def test_older_and_newer_opsets_run_alike(opset, exported, tmp_path):
    path = export_onnx(blobs(), tmp_path / "m.onnx", size=SIZE, channels=3, normalise=NORMALISE, opset=opset)
    assert onnx.load(path).opset_import[0].version == opset
    assert np.array_equal(onnxruntime_masks(path, frames(2)), onnxruntime_masks(exported, frames(2)))


def test_an_opset_no_runtime_promises_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"export\.opset = 9: choose one of 18"):
        export_onnx(blobs(), tmp_path / "m.onnx", size=SIZE, channels=3, normalise=NORMALISE, opset=9)


def test_the_network_is_left_in_its_mode_and_with_its_weights(tmp_path):
    network = blobs().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    export_onnx(network, tmp_path / "m.onnx", size=SIZE, channels=3, normalise=NORMALISE)
    assert network.training and all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_network_that_cannot_be_exported_is_one_line_and_no_file(tmp_path):
    class Moody(nn.Module):
        def forward(self, x):
            return Output(x if x.sum().item() > 0 else -x)

    with pytest.raises(ValueError, match="cannot be exported") as caught:
        export_onnx(Moody(), tmp_path / "m.onnx", size=SIZE, channels=3, normalise=NORMALISE)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")

    def full(self, data):
        with open(self, "wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", full)
    with pytest.raises(ValueError, match=r"m\.onnx.*no space left"):
        export_onnx(blobs(), path, size=SIZE, channels=3, normalise=NORMALISE)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_openvino_files_come_in_pairs_and_run(exported, tmp_path):
    whole = export_openvino(exported, tmp_path / "whole" / "m.xml")
    half = export_openvino(exported, tmp_path / "half" / "m.xml", weights="float16")
    assert sorted(f.name for f in half.parent.iterdir()) == ["m.bin", "m.xml"]
    assert half.with_suffix(".bin").stat().st_size < whole.with_suffix(".bin").stat().st_size
    images = frames(2)
    expected = onnxruntime_masks(exported, images)
    assert (openvino_masks(whole, images) == expected).mean() > 0.999
    assert (openvino_masks(half, images) == expected).mean() > 0.99


def test_an_openvino_export_that_fails_leaves_the_old_pair(exported, tmp_path, monkeypatch):
    ov = pytest.importorskip("openvino")
    path = export_openvino(exported, tmp_path / "m.xml")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(model, target, **options):
        target.write_text("<half")
        raise RuntimeError("write failed: No space left on device")

    monkeypatch.setattr(ov, "save_model", full)
    with pytest.raises(ValueError, match=r"m\.xml: cannot be written \(no space left"):
        export_openvino(exported, path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_name_openvino_cannot_use_and_a_graph_it_cannot_read_are_named(exported, tmp_path):
    with pytest.raises(ValueError, match=r"m\.ir: an OpenVINO model must be called \.xml"):
        export_openvino(exported, tmp_path / "m.ir")
    (tmp_path / "broken.onnx").write_bytes(exported.read_bytes()[:500])
    root = logging.getLogger()
    before = root.level, root.filters[:], root.handlers[:]
    with pytest.raises(ValueError, match=r"broken\.onnx: OpenVINO cannot read it"):
        export_openvino(tmp_path / "broken.onnx", tmp_path / "m.xml")
    assert (root.level, root.filters, root.handlers) == before
    assert [file.name for file in tmp_path.iterdir()] == ["broken.onnx"]


def test_checking_refuses_side_files_foreign_operators_and_cut_files(exported, tmp_path):
    model = onnx.load(exported)
    onnx.save(model, tmp_path / "side.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(ValueError, match=r"side\.onnx: keeps weights in a side file"):
        check(tmp_path / "side.onnx")
    model = onnx.load(exported)
    model.graph.node[0].domain = "com.vendor"
    model.opset_import.add(domain="com.vendor", version=1)
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match=r"foreign\.onnx: .*com\.vendor"):
        check(tmp_path / "foreign.onnx")
    (tmp_path / "cut.onnx").write_bytes(exported.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.onnx: not a valid ONNX model"):
        check(tmp_path / "cut.onnx")
    with pytest.raises(ValueError, match=r"none\.onnx"):
        check(tmp_path / "none.onnx")


def test_log_levels_are_given_back():
    import logging

    logging.getLogger("torch.onnx").setLevel(logging.INFO)
    with export.silence():
        assert logging.getLogger("torch.onnx").level == logging.ERROR
    assert logging.getLogger("torch.onnx").level == logging.INFO
    logging.getLogger("torch.onnx").setLevel(logging.NOTSET)
