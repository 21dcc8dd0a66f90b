"""Engines and their keys, built for real where NVIDIA's builder is installed, run on a pretended GPU or a real one."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

from fake_gpu import CAPABILITY, NAME, Engine, Library, TensorRT  # noqa: E402
from tiny_package import expected, frame, graph, make_ship  # noqa: E402

from deploy.package.golden import self_test  # noqa: E402
from deploy.package.package import Package  # noqa: E402
from deploy.runtimes import (
    cuda_driver,
    tensorrt_build,  # noqa: E402
)
from deploy.runtimes.cache_seal import read_sealed  # noqa: E402
from deploy.runtimes.load import runner  # noqa: E402
from deploy.runtimes.registry import available  # noqa: E402
from deploy.runtimes.tensorrt_api import layer_precisions  # noqa: E402
from deploy.runtimes.tensorrt_build import BuildOptions, build, build_package  # noqa: E402
from deploy.runtimes.tensorrt_engine_cache import EngineKey, EngineNotBuiltError, find_engine, open_engine, write_engine  # noqa: E402

KEY = EngineKey("a" * 64, "tensorrt", "10.3.0", NAME, "8.7", "CUDA 12.6", {"precision": "tf32"})


@pytest.fixture
def ship(tmp_path: Path) -> Package:
    return make_ship(tmp_path / "ship")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEMT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tensorrt"


Pretend = Callable[..., tuple[Library, TensorRT]]


@pytest.fixture(scope="module", autouse=True)
def earlier_objects() -> None:
    """What earlier tests imported is not searched again after each of these."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretend]:
    """Call it to get a machine with a pretended GPU and TensorRT."""

    def made(*, version: str = "10.3.0", fails: int = 0, **library: object) -> tuple[Library, TensorRT]:
        device = Library(**library)  # type: ignore[arg-type]
        trt = TensorRT(device, version=version, fails=fails)
        driver = cuda_driver.Cuda(device)
        monkeypatch.setattr(cuda_driver, "cuda", lambda: driver)
        monkeypatch.setitem(sys.modules, "tensorrt", trt)  # type: ignore[arg-type]
        return device, trt

    yield made
    gc.collect()


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> cuda_driver.Cuda:
        raise ValueError("no NVIDIA driver on this machine")

    monkeypatch.setattr(cuda_driver, "cuda", absent)


def one_line(error: pytest.ExceptionInfo[ValueError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for piece in words:
        assert piece in text, text


def frames(count: int) -> list[np.ndarray]:
    return [frame(seed)[None] for seed in range(count)]


# the builder itself, without a GPU


@pytest.mark.parametrize("file", ["fp32", "int8"])
def test_nvidias_builder_makes_an_engine_of_both_graphs_without_a_gpu(ship: Package, no_gpu: None, file: str) -> None:
    pytest.importorskip("tensorrt_rtx_libs")
    ((engine, message),) = build_package(ship, runtime="tensorrt_rtx", file=file, self_test=runner)
    assert len(engine.read()) == engine.record["bytes"] > 1000
    assert engine.record["ahead_of_time"]
    assert "not tried: no NVIDIA GPU" in message
    assert engine.record["layers"] == {{"fp32": "f32", "int8": "int8"}[file]: 1}
    assert find_engine(engine.path.parent, ship.path(f"model{'.int8' * (file == 'int8')}.onnx"), engine.key) == engine


def test_what_nvidias_parser_refuses_is_told_in_one_line(tmp_path: Path, no_gpu: None) -> None:
    pytest.importorskip("tensorrt_rtx_libs")
    import onnx
    from onnx import numpy_helper

    model = graph(quantized=True)
    zero = next(tensor for tensor in model.graph.initializer if tensor.name == "zero")
    zero.CopyFrom(numpy_helper.from_array(np.array(7, np.uint8), "zero"))
    onnx.save(model, tmp_path / "skewed.onnx")
    with pytest.raises(ValueError) as error:
        build(tmp_path / "skewed.onnx", runtime="tensorrt_rtx")
    one_line(error, "skewed.onnx", "parser refuses", "zero point")


def test_without_a_gpu_the_full_tensorrt_says_where_engines_are_built(
    ship: Package, no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", TensorRT(Library()))  # type: ignore[arg-type]
    with pytest.raises(ValueError) as error:
        build(ship.path("model.onnx"), runtime="tensorrt")
    one_line(error, "on the device", "tensorrt_rtx")
    with pytest.raises(ValueError) as error:
        runner(ship, runtime="tensorrt")
    one_line(error, "no NVIDIA driver")


def test_an_old_tensorrt_is_refused(ship: Package, pretend: Pretend) -> None:
    pretend(version="8.6.2")
    with pytest.raises(ValueError) as error:
        build(ship.path("model.onnx"), runtime="tensorrt")
    one_line(error, "8.6.2", "too old")


def test_only_an_onnx_file_of_the_card_is_built(ship: Package, pretend: Pretend) -> None:
    pretend()
    for wrong, words in (("int4", ("int4", "card")), ("golden/frame0.png", (".onnx",)), ("fp16", ("model.fp16.onnx",))):
        with pytest.raises(ValueError) as error:
            list(build_package(ship, runtime="tensorrt", file=wrong, self_test=runner))
        one_line(error, *words)
    with pytest.raises(ValueError, match="nearest: tensorrt"):
        list(build_package(ship, runtime="openvino", self_test=runner))


# the pretended GPU


def test_building_tries_each_engine_on_the_golden_frames(ship: Package, pretend: Pretend) -> None:
    pretend()
    built = list(build_package(ship, self_test=runner))
    assert [engine.record["source"] for engine, _ in built] == ["model.int8.onnx", "model.onnx"]
    assert all("gives the golden masks" in message and NAME in message for _, message in built)
    assert all(engine.key.gpu == NAME and engine.key.capability == "8.7" for engine, _ in built)


def test_the_network_is_strongly_typed_and_the_timings_are_kept(
    ship: Package, pretend: Pretend, own_cache: Path
) -> None:
    _, trt = pretend()
    build(ship.path("model.onnx"), runtime="tensorrt", options=BuildOptions(precision="f32"))
    build(ship.path("model.int8.onnx"), runtime="tensorrt")
    assert trt.networks == [2, 2]
    assert [config.flags for config in trt.configs] == [set(), {"tf32"}]
    (timings,) = own_cache.glob("timing.*.bin")
    assert read_sealed(timings, timings.name) == b"timed timed "
    timings.write_bytes(b"foreign")
    build(ship.path("model.onnx"), runtime="tensorrt")
    assert read_sealed(timings, timings.name) == b"timed "


def test_a_builder_without_enough_memory_is_asked_again_for_less(ship: Package, pretend: Pretend) -> None:
    _, trt = pretend(fails=2)
    build(ship.path("model.onnx"), runtime="tensorrt", options=BuildOptions(workspace_mib=64))
    assert trt.workspaces == [64 << 20, 16 << 20, 4 << 20]
    trt.fails = 9
    with pytest.raises(ValueError) as error:
        build(ship.path("model.onnx"), runtime="tensorrt")
    one_line(error, "model.onnx", "memory", "--workspace-mib")


def test_a_portable_engine_names_no_gpu(ship: Package, pretend: Pretend) -> None:
    _, trt = pretend()
    engine = build(ship.path("model.onnx"), runtime="tensorrt", options=BuildOptions(portable=True))
    assert trt.configs[0].hardware_compatibility_level == "ampere+"
    assert engine.key.gpu is None
    assert runner(ship, runtime="tensorrt", file="fp32").details["built_for"] == "more than one GPU"


@pytest.mark.parametrize("records", [True, False])
def test_the_runner_gives_the_masks_with_and_without_a_cuda_graph(
    ship: Package, pretend: Pretend, records: bool
) -> None:
    device, _ = pretend(records=records)
    list(build_package(ship, self_test=runner))
    made = runner(ship, runtime="tensorrt", file="int8")
    assert (made.runtime, made.file, made.precision, made.device) == ("tensorrt", "model.int8.onnx", "int8", "GPU")
    assert made.details["cuda_graph"] is records
    assert bool(made.details["no_cuda_graph_because"]) is not records
    before = device.launched
    masks = made(np.concatenate(frames(3)))
    assert np.array_equal(masks, np.stack([expected(f[0]) for f in frames(3)]))
    assert device.launched - before == (3 if records else 0)
    assert self_test(ship, made).ok


def test_a_mask_of_the_gpu_survives_the_next_frame(ship: Package, pretend: Pretend) -> None:
    pretend()
    list(build_package(ship, self_test=runner))
    made = runner(ship, runtime="tensorrt")
    first = made(frames(1)[0])
    made(np.zeros_like(frames(1)[0]))
    assert np.array_equal(first[0], expected(frame(0)))


@pytest.mark.parametrize("names", [("frame", "mask", "uncertainty"), ("frame", "uncertainty", "mask")])
def test_an_engine_with_an_uncertainty_gives_it_beside_the_mask(
    ship: Package, pretend: Pretend, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    pretend()
    monkeypatch.setattr(Engine, "names", names)
    list(build_package(ship, self_test=runner))
    made = runner(ship, runtime="tensorrt")
    masks, maps = made.with_uncertainty(np.concatenate(frames(3)))
    assert made.has_uncertainty and (masks == made(np.concatenate(frames(3)))).all()
    assert (maps == 100 + masks).all() and masks.max() == 2


def test_several_frames_are_in_flight_at_once_and_come_back_in_order(ship: Package, pretend: Pretend) -> None:
    device, _ = pretend()
    list(build_package(ship, self_test=runner))
    made = runner(ship, runtime="tensorrt", streams=3)
    masks = list(made.infer_many(frames(7)))
    assert [np.array_equal(mask[0], expected(f[0])) for mask, f in zip(masks, frames(7), strict=True)] == [True] * 7
    assert len(device.streams) == 3


def test_a_call_in_stages_gives_the_same_mask(ship: Package, pretend: Pretend) -> None:
    pretend()
    list(build_package(ship, self_test=runner))
    mask, parts = runner(ship, runtime="tensorrt").run_stages(frames(1)[0])
    assert np.array_equal(mask[0], expected(frame(0)))
    assert len(parts) == 3 and all(part > 0 for part in parts)


def test_a_runner_gives_back_what_it_took(ship: Package, pretend: Pretend) -> None:
    device, _ = pretend()
    list(build_package(ship, self_test=runner))
    made = runner(ship, runtime="tensorrt", streams=2)
    list(made.infer_many(frames(3)))
    assert device.allocated and device.streams and device.graphs
    del made
    gc.collect()
    assert not (device.allocated or device.streams or device.graphs)


def test_a_gpu_without_memory_is_told_in_one_line(ship: Package, pretend: Pretend) -> None:
    device, _ = pretend()
    list(build_package(ship, self_test=runner))
    device.memory = 100
    with pytest.raises(ValueError) as error:
        runner(ship, runtime="tensorrt")
    one_line(error, "out of memory on the GPU", "model.int8.onnx")


def test_the_driver_tells_the_gpu(pretend: Pretend) -> None:
    library, _ = pretend()
    found = cuda_driver.Cuda(library).gpu
    assert (found.name, found.capability) == (NAME, ".".join(map(str, CAPABILITY)))
    assert found.driver.endswith("CUDA 12.6")
    with pytest.raises(ValueError, match="shows no GPU"):
        cuda_driver.Cuda(Library(devices=0))


def test_a_failing_driver_names_the_function(pretend: Pretend) -> None:
    library, _ = pretend()
    driver = cuda_driver.Cuda(library)
    with pytest.raises(ValueError) as error:
        driver.call("cuStreamDestroy_v2", 12345)
    one_line(error, "cuStreamDestroy_v2", "pretended failure", "999")


def test_the_drivers_numbers_are_those_of_nvidias_own_bindings() -> None:
    bindings = pytest.importorskip("cuda.bindings.driver")
    attributes, result = bindings.CUdevice_attribute, bindings.CUresult
    assert cuda_driver.CAPABILITY_MAJOR == attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    assert cuda_driver.CAPABILITY_MINOR == attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
    assert result.CUDA_ERROR_OUT_OF_MEMORY == cuda_driver.OUT_OF_MEMORY
    assert bindings.CUstream_flags.CU_STREAM_NON_BLOCKING == cuda_driver.NON_BLOCKING
    assert bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL == cuda_driver.CAPTURE_THREAD_LOCAL


def test_the_command_prints_what_was_built(
    ship: Package, pretend: Pretend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgemt import cli

    pretend()
    cli.main(["build", str(ship.folder), "--file", "int8", "--out", str(tmp_path / "engines")])
    message, path = capsys.readouterr().out.splitlines()
    assert message.startswith("model.int8.onnx") and "gives the golden masks" in message
    assert Path(path).parent == tmp_path / "engines" and Path(path).is_file()
    with pytest.raises(SystemExit) as left:
        cli.main(["build", str(ship.folder), "--runtime", "tensorrt", "--workspace-mib", "0"])
    assert left.value.code == 2


# engine files


def test_a_runner_without_an_engine_says_which_command_builds_one(ship: Package, pretend: Pretend) -> None:
    pretend()
    with pytest.raises(EngineNotBuiltError) as error:
        runner(ship, runtime="tensorrt")
    one_line(error, "no engine", f"edgemt build {ship.folder} --runtime tensorrt")


def test_a_truncated_engine_is_refused(ship: Package, pretend: Pretend) -> None:
    pretend()
    engine = build(ship.path("model.int8.onnx"), runtime="tensorrt")
    engine.path.write_bytes(engine.path.read_bytes()[:-10])
    with pytest.raises(ValueError) as error:
        runner(ship, runtime="tensorrt")
    one_line(error, engine.path.name, "cut short")


def test_an_edited_engine_is_refused(ship: Package, pretend: Pretend) -> None:
    pretend()
    engine = build(ship.path("model.int8.onnx"), runtime="tensorrt")
    data = bytearray(engine.path.read_bytes())
    data[20] ^= 1
    engine.path.write_bytes(data)
    with pytest.raises(ValueError) as error:
        runner(ship, runtime="tensorrt")
    one_line(error, engine.path.name, "sha256")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", "10.7.0"),
        ("gpu", "NVIDIA H100"),
        ("capability", "9.0"),
        ("driver", "CUDA 13.2"),
        ("onnx_sha256", "b" * 64),
        ("runtime", "tensorrt_rtx"),
    ],
)
def test_an_engine_for_anything_else_is_refused_with_both_values(tmp_path: Path, field: str, value: str) -> None:
    source = tmp_path / "model.onnx"
    engine = write_engine(tmp_path, source, key=KEY, data=b"engine", facts={})
    assert open_engine(engine.path, KEY).read() == b"engine"
    with pytest.raises(ValueError) as error:
        open_engine(engine.path, replace(KEY, **{field: value}))
    words = ("another ONNX",) if field == "onnx_sha256" else (value, str(getattr(KEY, field)))
    one_line(error, engine.path.name, *words)


def test_an_upgrade_of_tensorrt_asks_for_a_new_engine(ship: Package, pretend: Pretend) -> None:
    pretend(version="10.3.0")
    build(ship.path("model.int8.onnx"), runtime="tensorrt")
    pretend(version="10.16.2")
    with pytest.raises(EngineNotBuiltError) as error:
        runner(ship, runtime="tensorrt")
    one_line(error, "'10.3.0'", "'10.16.2'", "edgemt build")


def test_a_changed_graph_does_not_find_the_engine_of_the_old_one(tmp_path: Path, pretend: Pretend) -> None:
    pretend()
    build(make_ship(tmp_path / "one").path("model.onnx"), runtime="tensorrt")
    other = make_ship(tmp_path / "other")
    (other.folder / "model.onnx").write_bytes((other.folder / "model.int8.onnx").read_bytes())
    with pytest.raises(EngineNotBuiltError, match="no engine"):
        runner(other.folder / "model.onnx", runtime="tensorrt")


def test_an_engine_file_can_be_named_itself(ship: Package, tmp_path: Path, pretend: Pretend) -> None:
    pretend()
    engine = build(ship.path("model.int8.onnx"), runtime="tensorrt", folder=tmp_path / "elsewhere")
    assert np.array_equal(runner(engine.path, runtime="tensorrt")(frames(1)[0])[0], expected(frame(0)))
    with pytest.raises(ValueError) as error:
        runner(engine.path, runtime="openvino")
    one_line(error, "a TensorRT engine", "openvino reads", "tensorrt")
    engine.path.with_suffix(".json").unlink()
    with pytest.raises(ValueError) as error:
        runner(engine.path, runtime="tensorrt")
    one_line(error, ".json", "build it again")


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    engine = write_engine(tmp_path, tmp_path / "model.onnx", key=KEY, data=b"engine", facts={})
    record = engine.path.with_suffix(".json")
    good = json.loads(record.read_text())
    for bad in ("{", json.dumps({**good, "format": 9}), json.dumps({**good, "bytes": None})):
        record.write_text(bad)
        with pytest.raises(ValueError) as error:
            open_engine(engine.path, KEY)
        one_line(error, record.name)


def test_the_engine_of_this_gpu_comes_before_the_portable_one(tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    wide = replace(KEY, gpu=None, capability=None, driver=None)
    own = write_engine(tmp_path, source, key=KEY, data=b"own", facts={})
    write_engine(tmp_path, source, key=wide, data=b"wide", facts={})
    assert find_engine(tmp_path, source, KEY).path == own.path
    elsewhere = find_engine(tmp_path, source, replace(KEY, gpu="NVIDIA L4", capability="8.9"))
    assert elsewhere.read() == b"wide"


@pytest.mark.parametrize(
    ("layers", "kinds"),
    [
        (
            [{"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Thirty-two wide channel INT8"}]}],
            {"int8": 1},
        ),
        ([{"LayerType": "CaskGemmConvolution", "Inputs": [{"Format/Datatype": "Row major linear FP16"}]}], {"f16": 1}),
        ([{"LayerType": "correlation", "Inputs": [{"Datatype": "Float"}]}, {"LayerType": "kgen"}], {"f32": 1}),
        (["conv1", "conv2"], {}),
    ],
)
def test_precision_is_read_from_what_the_engine_says_of_its_layers(layers: list[object], kinds: dict[str, int]) -> None:
    assert layer_precisions(json.dumps({"Layers": layers})) == kinds
    assert layer_precisions("") == {}


@pytest.mark.parametrize("bad", [{"precision": "f16"}, {"workspace_mib": 0}])
def test_a_bad_build_option_is_named(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        BuildOptions(**bad)  # type: ignore[arg-type]


def test_a_machine_without_a_gpu_says_so_of_an_installed_tensorrt(no_gpu: None) -> None:
    works, why = available()["tensorrt_rtx"]
    assert not works
    assert "NVIDIA driver" in why or "not installed" in why


# a real GPU


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize("portable", [False, True])
def test_a_real_engine_gives_the_masks(ship: Package, runtime: str, portable: bool) -> None:
    pytest.importorskip(tensorrt_build.PACKAGES[runtime])
    if cuda_driver.gpu() is None:
        pytest.skip("no NVIDIA GPU and driver here")
    for engine, message in build_package(
        ship, runtime=runtime, options=BuildOptions(portable=portable), self_test=runner
    ):
        assert "gives the golden masks" in message
        made = runner(engine.path, runtime=runtime, streams=2)
        masks = list(made.infer_many(frames(5)))
        assert [np.array_equal(mask[0], expected(f[0])) for mask, f in zip(masks, frames(5), strict=True)] == [True] * 5
        assert made.details["cuda_graph"], made.details["no_cuda_graph_because"]
        assert np.array_equal(made.run_stages(frames(1)[0])[0], masks[0])
