from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkout import ROOT

from edgemt.model_card import FileMetrics

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from tiny_package import CHANNELS, SIZE, expected, frame, graph, make_ship  # noqa: E402

from deploy.hardware.machine import physical_cores  # noqa: E402
from deploy.package.golden import self_test  # noqa: E402
from deploy.package.package import Package  # noqa: E402
from deploy.runtimes.load import runner  # noqa: E402
from deploy.runtimes.registry import RUNTIMES, available  # noqa: E402
from deploy.runtimes.runner import TorchRunner  # noqa: E402


@pytest.fixture(scope="module")
def ship(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return make_ship(tmp_path_factory.mktemp("runtime") / "ship", openvino=True)


def frames(count: int = 3) -> np.ndarray:
    return np.stack([frame(seed) for seed in range(count)])


def one_line(error: pytest.ExceptionInfo[ValueError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for part in words:
        assert part in text, text


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("file", ["fp32", "int8"])
def test_every_runtime_gives_the_mask_of_the_definition(ship: Package, runtime: str, file: str) -> None:
    made = runner(ship, runtime=runtime, file=file, threads=1)
    masks = made(frames())
    assert masks.shape == (3, *SIZE)
    assert masks.dtype == np.uint8
    assert np.array_equal(masks, np.stack([expected(f) for f in frames()]))
    assert self_test(ship, made).ok


def test_a_mask_survives_the_next_call(ship: Package) -> None:
    for runtime in ("onnxruntime", "openvino"):
        made = runner(ship, runtime=runtime, threads=1)
        first = made(frames(1))
        stored = first.copy()
        made(np.zeros_like(frames(1)))
        assert np.array_equal(first, stored)


def test_a_view_that_is_not_contiguous_gives_the_same_mask(ship: Package) -> None:
    wide = np.zeros((1, SIZE[0], SIZE[1] * 2, CHANNELS), np.uint8)
    wide[:, :, ::2] = frame(0)
    for runtime in ("onnxruntime", "openvino"):
        assert np.array_equal(runner(ship, runtime=runtime, threads=1)(wide[:, :, ::2])[0], expected(frame(0)))


def test_a_runner_says_what_it_does(ship: Package) -> None:
    made = runner(ship, runtime="openvino", file="fp32", threads=1, precision="f32")
    assert (made.runtime, made.file, made.precision, made.threads) == (
        "openvino",
        "openvino/model.xml",
        "f32",
        1,
    )
    made = runner(ship, runtime="onnxruntime", file="fp32", threads=1)
    assert (made.runtime, made.file, made.precision, made.threads) == ("onnxruntime", "model.onnx", "f32", 1)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_int8_is_reported_from_the_compiled_graph(ship: Package, runtime: str) -> None:
    assert runner(ship, runtime=runtime, file="int8", threads=1).precision.startswith("int8")


def test_openvino_reads_the_onnx_of_a_ship_without_ir(tmp_path: Path) -> None:
    made = runner(make_ship(tmp_path / "ship"), runtime="openvino", threads=1)
    assert made.file == "model.int8.onnx"
    assert np.array_equal(made(frames(1))[0], expected(frame(0)))


def test_auto_takes_a_runtime_that_is_installed(ship: Package) -> None:
    assert runner(ship, threads=1).runtime in ("openvino", "onnxruntime")


def test_a_file_of_the_card_can_be_named(ship: Package) -> None:
    assert runner(ship, runtime="openvino", file="model.onnx", threads=1).file == "model.onnx"
    with pytest.raises(ValueError) as error:
        runner(ship, runtime="openvino", file="int4")
    one_line(error, "int4", "model.onnx")


def test_a_folder_and_a_bare_file_load_too(ship: Package) -> None:
    for target in (ship.folder, str(ship.folder / "model.onnx"), ship.folder / "openvino" / "model.xml"):
        assert np.array_equal(runner(target, runtime="openvino", threads=1)(frames(1))[0], expected(frame(0)))


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((1, *SIZE, 1), np.uint8),
        np.zeros((*SIZE, 3), np.uint8),
        np.zeros((1, *SIZE, 3), np.float32),
        np.zeros((0, *SIZE, 3), np.uint8),
    ],
)
def test_a_wrong_frame_is_refused_with_the_right_one_named(ship: Package, bad: np.ndarray) -> None:
    for runtime in ("onnxruntime", "openvino"):
        with pytest.raises(ValueError) as error:
            runner(ship, runtime=runtime, threads=1)(bad)
        one_line(error, str(bad.dtype), "uint8 [N, 32, 40, 3]")


def test_an_unknown_runtime_suggests_the_nearest(ship: Package) -> None:
    with pytest.raises(ValueError) as error:
        runner(ship, runtime="onnx")
    one_line(error, "'onnx'", "onnxruntime")


def test_a_runtime_that_is_not_installed_says_so(ship: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ValueError) as error:
        runner(ship, runtime="openvino")
    one_line(error, "openvino", "not installed", "pip install")
    works, why = available()["openvino"]
    assert not works
    assert "openvino" in why
    assert runner(ship, threads=1).runtime == "onnxruntime"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match="neither"):
        runner(ship)


def test_available_tells_versions() -> None:
    found = available()
    assert set(found) == set(RUNTIMES)
    assert found["onnxruntime"][0]
    assert found["onnxruntime"][1][0].isdigit()


@pytest.mark.parametrize(("field", "value"), [("threads", 0), ("precision", "f8"), ("runtime", "torch")])
def test_a_bad_choice_is_named(ship: Package, field: str, value: object) -> None:
    with pytest.raises(ValueError) as error:
        runner(ship, **{"runtime": "openvino", field: value})  # type: ignore[arg-type]
    one_line(error, field, str(value))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_truncated_graph_is_named_in_one_line(ship: Package, tmp_path: Path, runtime: str) -> None:
    data = (ship.folder / "model.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError) as error:
        runner(tmp_path / "cut.onnx", runtime=runtime)
    one_line(error, "cut.onnx")


def test_a_truncated_ir_is_named_in_one_line(ship: Package, tmp_path: Path) -> None:
    (tmp_path / "cut.xml").write_text((ship.folder / "openvino" / "model.xml").read_text()[:300])
    (tmp_path / "cut.bin").write_bytes(b"")
    with pytest.raises(ValueError) as error:
        runner(tmp_path / "cut.xml", runtime="openvino")
    one_line(error, "cut.xml", "cannot load")


def test_a_missing_model_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such model file"):
        runner(tmp_path / "gone.onnx", runtime="onnxruntime")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_graph_with_another_face_is_refused(tmp_path: Path, runtime: str) -> None:
    onnx.save(graph(kind=onnx.TensorProto.INT64), tmp_path / "logits.onnx")
    with pytest.raises(ValueError) as error:
        runner(tmp_path / "logits.onnx", runtime=runtime)
    one_line(error, "logits.onnx", "int64", "uint8 [1, H, W]")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_graph_that_does_not_fit_the_card_is_refused(tmp_path: Path, runtime: str) -> None:
    ship = make_ship(tmp_path / "ship", golden=0, size=(64, 64))
    with pytest.raises(ValueError) as error:
        runner(ship, runtime=runtime)
    one_line(error, "64", "32")


def test_physical_cores_is_at_least_one() -> None:
    assert physical_cores() >= 1


def test_a_torch_module_has_the_same_face() -> None:
    pytest.importorskip("torch")
    import torch

    class Bright(torch.nn.Module):
        def forward(self, x: object) -> object:
            bright = x.float().mean(dim=3) / 255  # type: ignore[attr-defined]
            return (bright > 0.4).long() + (bright > 0.7).long()

    made = TorchRunner(Bright(), size=SIZE, channels=CHANNELS)
    assert np.array_equal(made(frames()), np.stack([expected(f) for f in frames()]))
    assert (made.runtime, made.precision) == ("torch", "f32")
    with pytest.raises(ValueError, match="frames"):
        made(np.zeros((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("streams", [1, 3])
def test_infer_many_preserves_order(ship: Package, runtime: str, streams: int) -> None:
    made = runner(ship, runtime=runtime, threads=2, streams=streams)
    assert made.streams == streams
    buffer = np.empty((1, *SIZE, CHANNELS), np.uint8)

    def camera() -> Iterator[np.ndarray]:  # as a camera does, in one buffer
        for seed in range(8):
            buffer[0] = frame(seed)
            yield buffer

    masks = list(made.infer_many(camera()))
    assert np.array_equal(np.concatenate(masks), np.stack([expected(frame(seed)) for seed in range(8)]))
    assert np.array_equal(made(frames(1))[0], expected(frame(0)))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_listener_who_leaves_early_leaves_nothing_behind(ship: Package, runtime: str) -> None:
    made = runner(ship, runtime=runtime, threads=1, streams=2)
    given = made.infer_many(frame(seed)[None] for seed in range(9))
    next(given)
    given.close()
    again = list(made.infer_many([frame(5)[None]]))
    assert np.array_equal(again[0][0], expected(frame(5)))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_frame_of_the_wrong_size_is_refused_in_flight_too(ship: Package, runtime: str) -> None:
    made = runner(ship, runtime=runtime, threads=1, streams=2)
    for call in (made.run_stages, lambda bad: list(made.infer_many([bad]))):
        with pytest.raises(ValueError, match="use fit_frame first"):
            call(np.zeros((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_call_in_stages_gives_the_mask_of_a_whole_one(ship: Package, runtime: str) -> None:
    made = runner(ship, runtime=runtime, threads=1)
    mask, parts = made.run_stages(frames(1))
    assert np.array_equal(mask, made(frames(1)))
    assert parts[1] > 0 and min(parts) >= 0


def test_the_throughput_hint_takes_more_streams_than_the_latency_one(ship: Package) -> None:
    for runtime in ("openvino", "onnxruntime"):
        assert runner(ship, runtime=runtime, threads=2, hint="latency").streams == 1
        many = runner(ship, runtime=runtime, threads=2, hint="throughput")
        assert many.streams >= 2
        assert many.details["hint"] == "throughput"


def test_openvino_keeps_its_compiled_graph_where_it_is_told(ship: Package, tmp_path: Path) -> None:
    first, second = (runner(ship, runtime="openvino", threads=1, cache=tmp_path / "cache") for _ in range(2))
    assert not first.details["from_cache"] and second.details["from_cache"]
    assert list((tmp_path / "cache").iterdir())
    assert second.precision == first.precision
    assert np.array_equal(second(frames()), first(frames()))


@pytest.mark.parametrize(
    ("runtime", "device", "words"),
    [
        ("openvino", "NPU9", ("NPU9", "OpenVINO finds CPU")),
        ("onnxruntime", "CUDA", ("CUDA", "this onnxruntime has", "onnxruntime-gpu")),
        ("onnxruntime", "NPU", ("NPU", "CPU, CUDA, TENSORRT, VITISAI")),
    ],
)
def test_a_device_that_is_not_there_is_named_with_those_that_are(
    ship: Package, runtime: str, device: str, words: tuple[str, ...]
) -> None:
    if device == "CUDA" and "CUDAExecutionProvider" in pytest.importorskip("onnxruntime").get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    for request in ({"runtime": runtime, "device": device}, {"runtime": f"{runtime}:{device}"}):
        with pytest.raises(ValueError) as error:
            runner(ship, **request)  # type: ignore[arg-type]
        one_line(error, *words)


def test_a_provider_that_would_be_replaced_unseen_is_refused(ship: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(  # what onnxruntime-gpu does where cuDNN is missing
        onnxruntime, "InferenceSession", lambda path, options, providers: real(path, options, ["CPUExecutionProvider"])
    )
    with pytest.raises(ValueError) as error:
        runner(ship, runtime="onnxruntime:cuda")
    one_line(error, "CUDA", "does not start")


@pytest.mark.parametrize(
    ("device", "precision", "words"),
    [
        ("CUDA", None, {"fp32": "tf32", "fp16": "f16", "int8": "tf32"}),
        ("CUDA", "f32", {"fp32": "f32", "fp16": "f16", "int8": "f32"}),
        ("TENSORRT", None, {"fp32": "tf32", "fp16": "f16", "int8": "int8"}),
        ("TENSORRT", "f16", {"fp32": "f16", "fp16": "f16", "int8": "int8"}),
        ("CPU", None, {"fp32": "f32", "fp16": "f32", "int8": "int8"}),
    ],
)
def test_onnxruntime_names_the_arithmetic_of_each_file_on_each_device(
    device: str, precision: str | None, words: dict[str, str], ship: Package, tmp_path: Path
) -> None:
    from deploy.package.onnx_inspect import read_graph_file
    from deploy.quantization.float16 import to_float16
    from deploy.runtimes.onnxruntime_backend import arithmetic_on, executed

    to_float16(ship.folder / "model.onnx", tmp_path / "model.fp16.onnx")
    files = {"fp32": ship.folder / "model.onnx", "fp16": tmp_path / "model.fp16.onnx"}
    layers = {kind: read_graph_file(path).layers for kind, path in files.items()}
    # only TensorRT leaves Q/DQ as they are; the others' fused graph is looked at, in which CUDA has no integer layers
    layers["int8"] = read_graph_file(ship.folder / "model.int8.onnx").layers
    if device == "CUDA":
        layers["int8"] = Counter(f32=1)
    assert {kind: executed(found, arithmetic_on(device, precision)) for kind, found in layers.items()} == words


def test_layers_of_several_kinds_are_named_commonest_first() -> None:
    from deploy.runtimes.onnxruntime_backend import arithmetic_on, executed

    assert executed({"f16": 30, "f32": 1}, arithmetic_on("CUDA", None)) == "f16+tf32"
    assert executed({"f16": 30, "f32": 1}, arithmetic_on("CPU", None)) == "f32"
    assert executed({}, arithmetic_on("CPU", None)) == "f32"


@pytest.mark.parametrize(("file", "enabled"), [("model.onnx", False), ("model.int8.onnx", True)])
def test_the_tensorrt_provider_is_told_of_eight_bits(
    file: str, enabled: bool, ship: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    request: list[Any] = []
    there = ["TensorrtExecutionProvider", "CPUExecutionProvider"]
    real = onnxruntime.InferenceSession

    def session(path: str, options: Any, providers: list[Any]) -> Any:
        request.extend(providers)
        return real(path, options, ["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pytest.raises(ValueError, match="does not start"):
        runner(ship, runtime="onnxruntime:tensorrt", file=file)
    assert request[0][1]["trt_int8_enable"] is enabled


INTERRUPTED = """
import signal, sys
from deploy.runtimes.load import runner
first, second = (runner(sys.argv[1], runtime="openvino", threads=1) for _ in range(2))
del first
del second  # each with a Core of its own, the stack that signals run on would be gone now
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_still_works_after_runners_have_come_and_gone(ship: Package) -> None:
    command = [sys.executable, "-X", "faulthandler", "-c", INTERRUPTED, str(ship.folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_a_precision_that_the_device_lacks_is_refused(ship: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    from deploy.runtimes import openvino_backend

    real = openvino_backend._property
    able = {"OPTIMIZATION_CAPABILITIES": ["FP32", "INT8"]}
    monkeypatch.setattr(
        openvino_backend, "_property", lambda of, name, *device: able.get(name) or real(of, name, *device)
    )
    with pytest.raises(ValueError) as error:
        runner(ship, runtime="openvino", precision="bf16")
    one_line(error, "bf16", "FP32, INT8")
    with pytest.raises(ValueError) as error:
        runner(ship, runtime="onnxruntime", precision="f16")
    one_line(error, "f16", "f32")


@pytest.mark.parametrize(
    ("file", "runtime", "words"),
    [
        (
            "openvino/model.xml",
            "onnxruntime",
            ("an OpenVINO graph", "onnxruntime reads .onnx", "choose runtime openvino"),
        ),
        ("golden/frame0.png", "openvino", (".png", "openvino reads")),
    ],
)
def test_a_file_of_another_runtime_is_explained(ship: Package, file: str, runtime: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError) as error:
        runner(ship, runtime=runtime, file=file)
    one_line(error, file, *words)


def test_a_file_that_no_runtime_reads_is_named(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"x")
    with pytest.raises(ValueError) as error:
        runner(tmp_path / "weights.pth", runtime="openvino")
    one_line(error, "weights.pth", ".onnx, .xml or .engine")


def broken_ship(folder: Path, factor: float, *, quantized: bool = False, **fields: object) -> Package:
    """A ship whose graph's weights are `factor` times too large, sealed over the golden masks of the real one."""
    from deploy.package.package import finalize, open_package

    ship = make_ship(folder, **fields)  # type: ignore[arg-type]
    model = graph(quantized=quantized)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "weight")
    values = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, "weight"))
    onnx.save(model, folder / f"model{'.int8' * quantized}.onnx")
    finalize(folder, ship.card)
    return open_package(folder)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("factor", [0.0, -1.0])
def test_a_model_that_answers_the_same_everywhere_is_not_ready(tmp_path: Path, runtime: str, factor: float) -> None:
    ship = broken_ship(tmp_path / "ship", factor)
    with pytest.raises(ValueError) as error:
        runner(ship, runtime=runtime, file="model.onnx")
    one_line(error, "model.onnx", "self-test", "everywhere")
    untested = runner(ship, runtime=runtime, file="model.onnx", tested=False)
    assert len(np.unique(untested(frames()))) == 1


def test_a_model_that_differs_from_its_golden_masks_is_not_ready(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        runner(broken_ship(tmp_path / "ship", 1.5), runtime="openvino", file="model.onnx", precision="f32")
    one_line(error, "model.onnx", "self-test", "golden")


def test_an_int8_file_is_held_to_what_it_reached_where_the_ship_was_made(tmp_path: Path) -> None:
    reached = {"model.int8.onnx": FileMetrics(golden_pixels=1.0, golden_dice=1.0)}
    before = broken_ship(tmp_path / "unmeasured", 0.5, quantized=True)
    assert runner(before, runtime="openvino", file="int8").precision.startswith("int8")
    with pytest.raises(ValueError) as error:
        runner(broken_ship(tmp_path / "ship", 0.5, quantized=True, measured=reached), runtime="openvino", file="int8")
    one_line(error, "model.int8.onnx", "self-test", "golden")


def test_a_ship_without_golden_frames_still_runs(tmp_path: Path) -> None:
    made = runner(make_ship(tmp_path / "ship", golden=0), runtime="openvino", threads=1)
    assert np.array_equal(made(frames(1))[0], expected(frame(0)))


def test_running_out_of_memory_is_told_in_one_line(ship: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("BFCArena: CUDA out of memory\nat line 3")

    monkeypatch.setattr(onnxruntime, "InferenceSession", full)
    with pytest.raises(ValueError) as error:
        runner(ship, runtime="onnxruntime", file="fp32")
    one_line(error, "model.onnx", "out of memory")


def test_running_out_of_memory_later_is_told_in_one_line_too(ship: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    made = runner(ship, runtime="onnxruntime", threads=1)

    def full(_: np.ndarray) -> np.ndarray:
        raise RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer")

    monkeypatch.setattr(made, "_call", full)
    with pytest.raises(ValueError) as error:
        made(frames(1))
    one_line(error, "model.onnx", "out of memory on CPU")


def test_the_doctor_states_how_far_runtimes_agree(ship: Package) -> None:
    from edgemt.inference.doctor import doctor

    healthy, lines = doctor(ship.folder)
    assert healthy
    result = [line for line in lines if "agree on 100.000% of golden pixels" in line]
    assert [("fp32" in line, "int8" in line) for line in result] == [(True, False), (False, True)]


def test_int8_is_held_to_the_agreement_that_was_measured_at_export() -> None:
    from types import SimpleNamespace

    from edgemt.inference.doctor import INT8_AGREEMENT, _least

    def allocated(**noted: float) -> float:
        card = SimpleNamespace(measured={"model.int8.onnx": FileMetrics(**noted)})  # type: ignore[arg-type]
        return _least(SimpleNamespace(card=card), "int8")  # type: ignore[arg-type]

    assert allocated() == INT8_AGREEMENT
    assert allocated(golden_agreement=1.0) == INT8_AGREEMENT
    assert allocated(golden_agreement=0.97) == pytest.approx(0.965)


def test_the_doctor_finds_two_runtimes_that_differ(ship: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    from deploy.runtimes import onnxruntime_backend
    from edgemt.inference import doctor

    real = onnxruntime_backend._IoBinding.__init__

    def few(self: onnxruntime_backend._IoBinding, compute: Callable[[np.ndarray], list[np.ndarray]]) -> None:
        def spoiled(given: np.ndarray) -> list[np.ndarray]:
            outputs = compute(given)
            outputs[0][:, :4] = 2
            return outputs

        real(self, spoiled)

    monkeypatch.setattr(onnxruntime_backend._IoBinding, "__init__", few)
    healthy, lines = doctor.doctor(ship.folder)
    assert not healthy
    assert any(line.startswith("--") and "agreement" in line and "99.9%" in line for line in lines)
