"""Model repositories are what the servers' own schemas take, and hold the graph that gives the golden masks."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from tiny_package import CHANNELS, CLASSES, SIZE, make_ship  # noqa: E402

from deploy.package.golden import golden_pairs  # noqa: E402
from deploy.package.package import Package  # noqa: E402
from deploy.runtimes.openvino_backend import core  # noqa: E402
from deploy.serving.model_repository import ServeOptions, export_to_server, model_name  # noqa: E402
from deploy.serving.monai_bundle import SCHEMA, bundle_metadata  # noqa: E402
from deploy.serving.triton_config import triton_config  # noqa: E402
from edgemt import cli  # noqa: E402

# OpenVINO Model Server's schema of an entry of model_config_list: field -> what it takes; no other field is allowed
OVMS = {
    "name": str, "base_path": str, "batch_size": (int, str), "model_version_policy": dict, "shape": (dict, str),
    "layout": (dict, str), "nireq": int, "target_device": str, "allow_cache": bool, "plugin_config": dict,
    "stateful": bool, "idle_sequence_cleanup": bool, "low_latency_transformation": bool, "max_sequence_number": int,
    "custom_loader_options": dict,
}  # fmt: skip
# MONAI's meta_schema_20240725: required keys of metadata.json and of a tensor
MONAI = {
    "schema": str, "version": str, "monai_version": str, "pytorch_version": str, "numpy_version": str,
    "required_packages_version": dict, "task": str, "description": str, "authors": str, "copyright": str,
    "network_data_format": dict,
}  # fmt: skip
MONAI_OPTIONAL = {"changelog": dict, "eval_metrics": dict, "intended_use": str}
TENSOR = {
    "type": str, "format": str, "num_channels": int, "spatial_shape": list, "dtype": str, "value_range": list,
}  # fmt: skip
TENSOR_OPTIONAL = {"is_patch_data": bool, "channel_def": dict, "modality": str}


@pytest.fixture(scope="module")
def ship(tmp_path_factory: pytest.TempPathFactory) -> Package:
    pytest.importorskip("openvino")
    return make_ship(tmp_path_factory.mktemp("serve") / "ship", openvino=True)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def model_config(text: str) -> Any:
    """The text as Triton's own message."""
    try:
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"tritonclient[grpc] is not installed: {error}")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize(
    ("runtime", "device", "int8"),
    [
        ("openvino", "cpu", True),
        ("onnxruntime", "cpu", False),
        ("onnxruntime", "gpu", False),
        ("onnxruntime", "gpu", True),
    ],
)
def test_triton_reads_the_configuration(runtime: str, device: str, int8: bool, warm: bool) -> None:
    text = triton_config(
        name='a "b"',
        runtime=runtime,
        file="model.xml",
        shape=(1, 96, 64, 3),
        int8=int8,
        device=device,
        instances=2,
        warm=warm,
    )
    config = model_config(text)
    assert (config.name, config.backend, config.max_batch_size) == ('a "b"', runtime, 0)
    assert config.default_model_filename == "model.xml"
    frame, mask = config.input[0], config.output[0]
    assert (frame.name, list(frame.dims), frame.data_type) == ("frame", [1, 96, 64, 3], 2)  # 2: TYPE_UINT8
    assert (mask.name, list(mask.dims), mask.data_type) == ("mask", [1, 96, 64], 2)
    group = config.instance_group[0]
    assert (group.count, group.Kind.Name(group.kind)) == (2, f"KIND_{device.upper()}")
    sample = config.model_warmup[0].inputs["frame"]
    assert list(sample.dims) == [1, 96, 64, 3]
    assert sample.WhichOneof("input_data_type") == ("input_data_file" if warm else "zero_data")
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert [a.name for a in accelerators] == (["tensorrt"] if device == "gpu" and int8 else [])
    assert set(config.parameters) == ({"PERFORMANCE_HINT", "NUM_STREAMS"} if runtime == "openvino" else set())


def test_triton_gets_the_graph_a_configuration_and_a_frame_to_wake_up_with(ship: Package, tmp_path: Path) -> None:
    model = export_to_server(ship, tmp_path, ServeOptions("triton"))
    assert model == tmp_path / "tiny"
    assert files(tmp_path) == {
        "tiny/1/model.xml", "tiny/1/model.bin", "tiny/config.pbtxt", "tiny/warmup/frame", "tiny/card.json",
    }  # fmt: skip
    assert (model / "1" / "model.xml").read_bytes() == ship.path("openvino/model.int8.xml").read_bytes()
    config = model_config((model / "config.pbtxt").read_text())
    assert config.name == model.name, "Triton wants the folder's name"
    assert [output.name for output in config.output] == ["mask"]


@pytest.mark.parametrize("device", ["cpu", "gpu"])  # an IR, an ONNX file
def test_servers_get_the_uncertainty_output_where_the_graph_has_it(device: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    both = make_ship(tmp_path / "ship", openvino=device == "cpu", uncertainty=True)
    model = export_to_server(both, tmp_path, ServeOptions("triton", device=device))  # type: ignore[arg-type]
    config = model_config((model / "config.pbtxt").read_text())
    assert {output.name: list(output.dims) for output in config.output} == {
        "mask": [1, *SIZE],
        "uncertainty": [1, *SIZE],
    }
    assert {output.data_type for output in config.output} == {2}
    outputs = bundle_metadata(both)["network_data_format"]["outputs"]
    assert set(outputs) == {"mask", "uncertainty"} and set(TENSOR) <= set(outputs["uncertainty"])


@pytest.mark.parametrize("server", ["triton", "ovms"])
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_what_the_server_loads_turns_the_warm_up_frame_into_the_golden_mask(
    ship: Package, server: str, device: str, tmp_path: Path
) -> None:
    model = export_to_server(ship, tmp_path, ServeOptions(server, device=device))  # type: ignore[arg-type]
    graph = next(path for path in (model / "1").iterdir() if path.suffix != ".bin")
    pair = golden_pairs(ship)[0]
    frame = pair.frame
    if server == "triton":
        frame = np.frombuffer((model / "warmup" / "frame").read_bytes(), np.uint8).reshape(1, *SIZE, CHANNELS)
    if graph.suffix == ".onnx":
        ort = pytest.importorskip("onnxruntime")
        session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
        (mask,) = session.run(["mask"], {"frame": frame})
    else:
        compiled = core().compile_model(graph, "CPU")
        mask = compiled({"frame": frame})["mask"]
    assert mask.dtype == np.uint8
    assert np.array_equal(mask[0], pair.mask)


def test_the_openvino_server_lists_the_model_as_its_schema_wants(ship: Package, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_config_list": [{"config": {"name": "other", "base_path": "/models/other"}}], "monitoring": {}}'
    )
    export_to_server(ship, tmp_path, ServeOptions("ovms", instances=2, device="npu", name="organ"))
    export_to_server(ship, tmp_path, ServeOptions("ovms", instances=2, name="organ"))
    config = json.loads((tmp_path / "config.json").read_text())
    assert set(config) == {"model_config_list", "monitoring"}
    entries = [entry["config"] for entry in config["model_config_list"]]
    assert [entry["name"] for entry in entries] == ["other", "organ"]
    for entry in entries:
        assert {"name", "base_path"} <= set(entry)
        assert all(isinstance(value, OVMS[field]) for field, value in entry.items())  # type: ignore[arg-type]
    ours = entries[1]
    assert all(isinstance(value, (str, int, float, bool)) for value in ours["plugin_config"].values())
    assert ours["model_version_policy"] == {"latest": {"num_versions": 1}}
    assert (tmp_path / ours["base_path"] / "1" / "model.xml").is_file()
    assert ours["target_device"] == "CPU"


def test_a_bundle_says_what_monai_asks_for(ship: Package, tmp_path: Path) -> None:
    bundle = export_to_server(ship, tmp_path, ServeOptions("monai"))
    assert {"configs/metadata.json", "docs/README.md", "models/model.onnx"} <= files(bundle)
    described = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert described == bundle_metadata(ship)
    assert described["schema"] == SCHEMA
    assert set(MONAI) <= set(described) <= set(MONAI) | set(MONAI_OPTIONAL)
    assert all(isinstance(value, {**MONAI, **MONAI_OPTIONAL}[key]) for key, value in described.items())
    tensors = described["network_data_format"]
    frame, mask = tensors["inputs"]["frame"], tensors["outputs"]["mask"]
    for tensor in (frame, mask):
        assert set(TENSOR) <= set(tensor) <= set(TENSOR) | set(TENSOR_OPTIONAL)
        assert all(isinstance(value, {**TENSOR, **TENSOR_OPTIONAL}[key]) for key, value in tensor.items())
    assert (frame["num_channels"], frame["spatial_shape"]) == (CHANNELS, list(SIZE))
    assert list(mask["channel_def"].values()) == list(CLASSES)


def test_another_ship_of_the_same_face_becomes_the_next_version(ship: Package, tmp_path: Path) -> None:
    for _ in range(2):
        export_to_server(ship, tmp_path, ServeOptions("triton"))
    assert "tiny/2/model.xml" not in files(tmp_path), "the same graph is no new version"
    export_to_server(ship, tmp_path, ServeOptions("triton", file="fp32"))
    assert (tmp_path / "tiny/2/model.xml").read_bytes() == ship.path("openvino/model.xml").read_bytes()
    assert (tmp_path / "tiny/1/model.xml").read_bytes() == ship.path("openvino/model.int8.xml").read_bytes()
    with pytest.raises(ValueError, match=r"tiny/2: holds model\.bin, model\.xml, another backend's"):
        export_to_server(ship, tmp_path, ServeOptions("triton", device="gpu"))


def test_a_name_that_means_another_model_is_refused(ship: Package, tmp_path: Path) -> None:
    other = make_ship(tmp_path / "grey", channels=1, channel_order="grey")
    export_to_server(ship, tmp_path / "models", ServeOptions("triton"))
    before = files(tmp_path / "models")
    with pytest.raises(ValueError, match="channels was 3, this ship has 1"):
        export_to_server(other, tmp_path / "models", ServeOptions("triton"))
    (tmp_path / "models" / "mine").mkdir()
    with pytest.raises(ValueError, match=r"models/mine: exists and has no card"):
        export_to_server(ship, tmp_path / "models", ServeOptions("triton", name="mine"))
    assert files(tmp_path / "models") == before


def test_a_ship_without_ir_is_served_as_onnx(tmp_path: Path) -> None:
    bare = make_ship(tmp_path / "ship")
    model = export_to_server(bare, tmp_path / "t", ServeOptions("triton"))
    assert "1/model.onnx" in files(model)
    assert 'default_model_filename: "model.onnx"' in (model / "config.pbtxt").read_text()
    with pytest.raises(ValueError, match=r"no file 'model\.fp16\.onnx' on the card"):
        export_to_server(bare, tmp_path / "h", ServeOptions("triton", file="fp16"))
    assert "1/model.onnx" in files(export_to_server(bare, tmp_path / "o", ServeOptions("ovms")))


def test_a_full_disk_leaves_no_half_version(ship: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_to_server(ship, tmp_path, ServeOptions("triton"))
    before = files(tmp_path)

    def full(target: Path, data: bytes) -> None:
        target.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(ValueError, match=r"model\.xml: no space left on the disk"):
            export_to_server(ship, tmp_path, ServeOptions("triton", file="fp32"))
    assert files(tmp_path) == before
    assert "2/model.xml" in files(export_to_server(ship, tmp_path, ServeOptions("triton", file="fp32")))


def test_a_run_killed_half_way_is_not_seen_and_not_in_the_way(ship: Package, tmp_path: Path) -> None:
    left = tmp_path / ".tiny.part" / "1"
    left.mkdir(parents=True)
    (left / "model.xml").write_text("<half")
    model = export_to_server(ship, tmp_path, ServeOptions("triton"))
    assert (model / "1" / "model.xml").read_bytes() == ship.path("openvino/model.int8.xml").read_bytes()
    assert not (tmp_path / ".tiny.part").exists()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"server": "torchserve"}, "unknown server 'torchserve'"),
        ({"server": "triton", "device": "npu"}, "triton runs a ship on cpu or gpu"),
        ({"server": "ovms", "instances": 0}, "serve.instances = 0"),
    ],
)
def test_an_option_that_cannot_be_is_named(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ServeOptions(**wrong)


def test_a_model_name_is_fit_for_a_folder_and_an_address() -> None:
    assert model_name("Polyps, 2nd try/é") == "Polyps--2nd-try"
    with pytest.raises(ValueError, match="serve.name"):
        model_name("../..")


def test_the_command_takes_a_ship_and_names_the_repository(
    ship: Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["export", str(ship.folder), "--serve", "ovms", "--out", str(tmp_path)])
    assert capsys.readouterr().out.strip() == str(tmp_path / "tiny")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["export", str(ship.folder)])
    assert stopped.value.code == 2
    assert "add --serve" in capsys.readouterr().err
