"""What runtimes say when they fail becomes one line that says what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

onnx = pytest.importorskip("onnx")

from tiny_package import graph  # noqa: E402

from deploy.runtimes.error_messages import cause_of, error_message  # noqa: E402
from deploy.runtimes.openvino_backend import core  # noqa: E402


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("std::bad_alloc"), "out of memory"),
        (RuntimeError("CUDA failure 2: out of memory ; GPU=0 ; hostname=x"), "out of memory"),
        (
            RuntimeError(
                "Exception from src/inference/src/cpp/infer_request.cpp:223:\n[GPU] CL_OUT_OF_RESOURCES exception, "
                "error code: -5"
            ),
            "out of memory ([GPU] CL_OUT_OF_RESOURCES",
        ),
        (
            RuntimeError(
                "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Version tag does not match. Note: "
                "Current Version: 239, Serialized Engine Version: 238)"
            ),
            "edgemt build",
        ),
        (
            RuntimeError("The engine plan file is generated on an incompatible device, expecting compute 8.7 got 8.6"),
            "edgemt build",
        ),
        (
            RuntimeError(
                'Exception from src/inference/src/cpp/core.cpp:132:\nDevice with "GPU" name is not registered in the '
                "OpenVINO Runtime"
            ),
            "does not find the device",
        ),
        (
            RuntimeError(
                "Exception from src/inference/src/cpp/core.cpp:132:\nCannot load library "
                '"/usr/lib/libopenvino_intel_gpu_plugin.so": libOpenCL.so.1: cannot open shared object file'
            ),
            "does not find the device GPU",
        ),
        (RuntimeError("something odd"), "cannot load it (something odd)"),
    ],
)
def test_a_failure_of_the_field_is_one_line_with_a_way_out(error: Exception, says: str) -> None:
    message = error_message(error, path="ship/model.onnx", runtime="openvino", version="2026.4")
    assert message.startswith("ship/model.onnx: ")
    assert says in message
    assert "\n" not in message and len(message) < 400
    assert "openvino 2026.4" in message


@pytest.mark.parametrize("spoil", ["ir_version", "opset"])
def test_a_file_newer_than_onnxruntime_says_which_is_which(spoil: str, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    model = graph()
    if spoil == "opset":
        model.opset_import[0].version = 99
    else:
        model.ir_version = 99
    path = tmp_path / "new.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(Exception) as error:  # noqa: B017 - the runtime has types of its own
        ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    message = error_message(error.value, path=path, runtime="onnxruntime", version=ort.__version__)
    assert f"newer than onnxruntime {ort.__version__}" in message
    asks = {"ir_version": "IR 99, opset 20", "opset": "IR 10, opset 99"}[spoil]
    assert asks in message and "update the runtime" in message and "\n" not in message


def test_an_operator_that_openvino_does_not_know_is_named(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    model = graph()
    model.graph.node[2].op_type = "Divide2030"
    path = tmp_path / "new.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(RuntimeError) as error:
        core().compile_model(path, "CPU")
    message = error_message(error.value, path=path, runtime="openvino", version="1")
    assert "does not support Divide2030" in message and "\n" not in message


def test_a_real_shortage_of_memory_is_recognised(tmp_path: Path) -> None:
    """A graph that wants 40 GB, in a process that may have 4."""
    pytest.importorskip("onnxruntime")
    resource = pytest.importorskip("resource")
    assert resource.RLIMIT_AS
    node = onnx.helper.make_node("ConstantOfShape", ["shape"], ["huge"])
    shape = onnx.helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [1])
    huge = onnx.helper.make_tensor_value_info("huge", onnx.TensorProto.FLOAT, [None])
    body = onnx.helper.make_graph([node], "huge", [shape], [huge])
    onnx.save(
        onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m"
    )
    program = f"""
import resource, numpy, onnxruntime
from deploy.runtimes.error_messages import error_message
session = onnxruntime.InferenceSession({str(tmp_path / "m")!r}, providers=["CPUExecutionProvider"])
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
try:
    session.run(None, {{"shape": numpy.array([10_000_000_000])}})
except Exception as error:
    print(error_message(error, path="m.onnx", runtime="onnxruntime"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("m.onnx: onnxruntime ran out of memory") and done.stdout.count("\n") == 1


def test_the_telling_line_is_not_a_source_file() -> None:
    error = RuntimeError("Exception from a.cpp:1:\nCheck 'x' failed at b.cpp:2:\n  The  cause.\nmore")
    assert cause_of(error) == "The cause."
    assert cause_of(KeyError()) == "KeyError"
    assert len(cause_of(RuntimeError("x" * 1000))) == 160
