"""Ten things that go wrong between a workstation and a device. Each ends in one line that says so, or in nothing lost.

An engine cut short is in test_tensorrt.py, beside what makes engines.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tiny_package import CHANNELS, SIZE, expected, frame, graph, make_ship  # noqa: E402

from deploy.package.input_drift import drift_message, measure  # noqa: E402
from deploy.package.package import Package, finalize, open_package  # noqa: E402
from deploy.package.signing import keygen, sign  # noqa: E402
from deploy.runtimes import load as runtime  # noqa: E402
from deploy.serving.model_repository import ServeOptions, export_to_server  # noqa: E402
from edgemt import cli  # noqa: E402
from edgemt.io.atomic import NoSpaceError, sha256  # noqa: E402


@pytest.fixture
def ship(tmp_path: Path) -> Package:
    return make_ship(tmp_path / "ship")


@pytest.fixture
def predicts(ship: Package, tmp_path: Path, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """`edgemt predict` on this ship: the one line it is refused with, or "" when a mask was written."""
    from PIL import Image

    Image.fromarray(frame(0)).save(tmp_path / "in.png")

    def line() -> str:
        out = tmp_path / "out"
        try:
            cli.main(
                ["predict", str(ship.folder), str(tmp_path / "in.png"), "--out", str(out), "--runtime", "onnxruntime"]
            )
        except SystemExit as stopped:
            assert stopped.code == 2
            message = capsys.readouterr().err
            assert "Traceback" not in message and message.count("\n") == 1, message
            assert not out.exists(), "a mask came out all the same"
            return message
        return ""

    return line


def rehash(ship: Package, name: str) -> None:
    """Make the card fit what lies there, as someone would who edits both."""
    raw = json.loads((ship.folder / "card.json").read_text())
    raw["files"][name] = sha256(ship.folder / name)
    (ship.folder / "card.json").write_text(json.dumps(raw))


def test_a_sound_ship_predicts(predicts) -> None:  # type: ignore[no-untyped-def]
    assert predicts() == ""


def test_1_edited_weights(ship: Package, predicts, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("cryptography")
    private, public = keygen(tmp_path / "key.pem")
    sign(ship.folder / "card.json", key=private)
    model = graph()
    model.graph.initializer[1].raw_data = np.full(3 * CHANNELS, 7, np.float32).tobytes()
    (ship.folder / "model.onnx").write_bytes(model.SerializeToString())
    assert "model.onnx: changed since the card was written" in predicts()
    rehash(ship, "model.onnx")
    with pytest.raises(ValueError, match=r"card\.json\.sig: not by a key in key\.pub\.pem, or the card was changed"):
        open_package(ship.folder, trusted=public)


def test_2_swapped_files(ship: Package, predicts) -> None:  # type: ignore[no-untyped-def]
    shutil.copy(ship.folder / "model.int8.onnx", ship.folder / "model.onnx")
    assert "model.onnx: changed" in predicts()


def test_2_a_graph_of_another_size_under_this_card(ship: Package, predicts) -> None:  # type: ignore[no-untyped-def]
    (ship.folder / "model.onnx").write_bytes(graph(size=(16, 16)).SerializeToString())
    rehash(ship, "model.onnx")
    message = predicts()
    assert "model.onnx" in message and "16" in message and "export" in message


@pytest.mark.parametrize("spoil", ["ir_version", "opset", "operator"])
def test_4_a_runtime_older_than_the_file(spoil: str, ship: Package, predicts) -> None:  # type: ignore[no-untyped-def]
    model = graph()
    if spoil == "ir_version":
        model.ir_version = 99
    elif spoil == "opset":
        model.opset_import[0].version = 99
    else:
        model.graph.node[2].op_type = "Divide2030"
    (ship.folder / "model.onnx").write_bytes(model.SerializeToString())
    rehash(ship, "model.onnx")
    message = predicts()
    assert "model.onnx" in message and "onnxruntime" in message
    assert ("99" if spoil != "operator" else "Divide2030") in message


def test_4_a_graph_that_needs_code_that_is_not_the_runtimes(ship: Package, predicts) -> None:  # type: ignore[no-untyped-def]
    model = graph()
    model.graph.node[2].domain = "acme"
    model.opset_import.add(domain="acme", version=1)
    (ship.folder / "model.onnx").write_bytes(model.SerializeToString())
    rehash(ship, "model.onnx")
    assert "custom operators (acme.Div)" in predicts()


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 16, 16, CHANNELS), np.uint8),
        np.zeros((1, *SIZE, CHANNELS), np.float32),
        np.zeros((1, CHANNELS, *SIZE), np.uint8),
        np.zeros((*SIZE, CHANNELS), np.uint8),
        np.zeros((1, *SIZE, 1), np.uint8),
    ],
    ids=["size", "dtype", "layout", "no batch", "grey"],
)
def test_5_a_frame_of_another_size_type_or_layout(ship: Package, wrong: np.ndarray) -> None:
    made = runtime.runner(ship, runtime="onnxruntime", threads=1)
    with pytest.raises(ValueError, match=r"frames: .* takes uint8 \[N, 32, 40, 3\]; use fit_frame") as error:
        made(wrong)
    assert str(wrong.dtype) in str(error.value) and "\n" not in str(error.value)
    assert np.array_equal(made(frame(0)[None])[0], expected(frame(0))), "it works on after that"


@pytest.mark.parametrize(
    ("kind", "raw"),
    [("FLOAT", True), ("FLOAT", False), ("DOUBLE", True), ("DOUBLE", False), ("FLOAT16", True), ("BFLOAT16", True)],
)
def test_6_weights_that_are_no_numbers(kind: str, raw: bool, ship: Package, predicts) -> None:  # type: ignore[no-untyped-def]
    model, bits = graph(), {"FLOAT16": 0x7E00, "BFLOAT16": 0x7FC0}.get(kind)
    spare = model.graph.initializer.add(name="spare", dims=[2], data_type=getattr(onnx.TensorProto, kind))
    if raw:
        width = np.uint16 if bits else np.float32 if kind == "FLOAT" else np.float64
        spare.raw_data = np.array([0, bits or np.nan], width).tobytes()
    elif kind == "FLOAT":
        spare.float_data.extend([0, np.nan])
    else:
        spare.double_data.extend([0, np.nan])
    (ship.folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"model\.onnx: weight 'spare' holds NaN"):
        finalize(ship.folder, ship.card)
    rehash(ship, "model.onnx")
    assert "model.onnx: weight 'spare' holds NaN; train or export" in predicts()


def test_6_an_infinite_bound_is_no_fault(ship: Package) -> None:
    model = graph()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([np.inf, -np.inf], np.float32), "bounds"))
    (ship.folder / "model.onnx").write_bytes(model.SerializeToString())
    finalize(ship.folder, ship.card)
    assert open_package(ship.folder)


def test_7_the_disk_full_while_exporting(ship: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stood before stands; a folder that was new is no ship."""
    copy = shutil.copytree(ship.folder, tmp_path / "copy")
    (copy / "card.json").unlink()

    def full(path: Path, *args: object, **kwargs: object) -> int:
        with open("/dev/full", "wb", buffering=0) as disk:
            return disk.write(b"x")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        for folder in (ship.folder, copy):
            with pytest.raises(NoSpaceError, match=r"card\.json: no space left on the disk; free some"):
                finalize(folder, ship.card)
    assert open_package(ship.folder).card == ship.card
    with pytest.raises(ValueError, match="no card.json"):
        open_package(copy)
    assert not list(copy.glob(".*")), "half a card stayed behind"


KILLED = """
import os, signal, sys
from pathlib import Path
from deploy.serving import model_repository
from deploy.package.package import finalize, open_package

ship = open_package(sys.argv[1])

def killed(source, target, *rest, **more):
    with open(target, "wb") as file:
        file.write(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "seal":
    Path.write_text = lambda path, text, **more: killed(None, path)
    finalize(Path(sys.argv[3]), ship.card)
else:
    Path.write_bytes = lambda path, data: killed(None, path)
    model_repository.export_to_server(ship, sys.argv[3], model_repository.ServeOptions("triton"))
"""


@pytest.mark.parametrize("what", ["seal", "serve"])
def test_8_killed_while_exporting(what: str, ship: Package, tmp_path: Path) -> None:
    """Stages that train are killed in test_flow.py."""
    if what == "seal":
        target = shutil.copytree(ship.folder, tmp_path / "copy")
        (target / "card.json").unlink()
    else:
        target = tmp_path / "models"
    program = [sys.executable, "-c", KILLED, str(ship.folder), what, str(target)]
    done = subprocess.run(program, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60)
    assert done.returncode == -signal.SIGKILL
    if what == "seal":
        with pytest.raises(ValueError, match="no card.json"):
            open_package(target)
        finalize(target, ship.card)
        assert open_package(target).card.files == ship.card.files
    else:
        assert not (target / "tiny").exists()
        export_to_server(ship, target, ServeOptions("triton"))
        assert {path.name for path in target.iterdir()} == {"tiny"}


def test_9_calibration_with_nothing(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from deploy.quantization.int8 import quantize

    onnx.save(graph(), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="no calibration frames"):
        quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", calibration=[])
    assert not (tmp_path / "q.onnx").exists()


def test_9_calibration_with_another_modality() -> None:
    """Labelled frames of an organ, calibration frames of something else: said in words."""
    known = measure(np.stack([frame(seed) for seed in range(20)]))
    assert drift_message(np.stack([frame(seed) for seed in range(100, 120)]), known, what="calibration") is None
    other = np.stack([255 - frame(seed) for seed in range(100, 120)])
    message = drift_message(other, known, what="calibration")
    assert message is not None and message.startswith("calibration: 20 of 20 frames are unlike those of training")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA failure 2: out of memory ; GPU=0\nmore")])
def test_10_a_device_out_of_memory(
    error: Exception,
    predicts,
    monkeypatch: pytest.MonkeyPatch,  # type: ignore[no-untyped-def]
) -> None:
    def load(*_: object) -> None:
        raise error

    monkeypatch.setitem(runtime.RUNTIMES, "onnxruntime", replace(runtime.RUNTIMES["onnxruntime"], load=load))
    message = predicts()
    assert "model.onnx" in message and "out of memory" in message
