from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from tiny_ship import CHANNELS, SIZE, expected, frame, graph, make_ship  # noqa: E402

from deploy.runtime import RUNTIMES, TorchRunner, available, physical_cores, runner  # noqa: E402
from deploy.ship import Ship, self_test  # noqa: E402


@pytest.fixture(scope="module")
def ship(tmp_path_factory: pytest.TempPathFactory) -> Ship:
    return make_ship(tmp_path_factory.mktemp("runtime") / "ship", openvino=True)


def frames(count: int = 3) -> np.ndarray:
    return np.stack([frame(seed) for seed in range(count)])


def one_line(error: pytest.ExceptionInfo[ValueError], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("file", ["fp32", "int8"])
def test_every_runtime_gives_the_mask_of_the_definition(ship: Ship, runtime: str, file: str) -> None:
    made = runner(ship, runtime=runtime, file=file, threads=1)
    masks = made(frames())
    assert masks.shape == (3, *SIZE)
    assert masks.dtype == np.uint8
    assert np.array_equal(masks, np.stack([expected(f) for f in frames()]))
    assert self_test(ship, made).ok


def test_a_mask_survives_the_next_call(ship: Ship) -> None:
    for runtime in ("onnxruntime", "openvino"):
        made = runner(ship, runtime=runtime, threads=1)
        first = made(frames(1))
        kept = first.copy()
        made(np.zeros_like(frames(1)))
        assert np.array_equal(first, kept)


def test_a_view_that_is_not_contiguous_gives_the_same_mask(ship: Ship) -> None:
    wide = np.zeros((1, SIZE[0], SIZE[1] * 2, CHANNELS), np.uint8)
    wide[:, :, ::2] = frame(0)
    for runtime in ("onnxruntime", "openvino"):
        assert np.array_equal(runner(ship, runtime=runtime, threads=1)(wide[:, :, ::2])[0], expected(frame(0)))


def test_a_runner_says_what_it_does(ship: Ship) -> None:
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
def test_int8_is_reported_from_the_compiled_graph(ship: Ship, runtime: str) -> None:
    assert runner(ship, runtime=runtime, file="int8", threads=1).precision.startswith("int8")


def test_openvino_reads_the_onnx_of_a_ship_without_ir(tmp_path: Path) -> None:
    made = runner(make_ship(tmp_path / "ship"), runtime="openvino", threads=1)
    assert made.file == "model.int8.onnx"
    assert np.array_equal(made(frames(1))[0], expected(frame(0)))


def test_auto_takes_a_runtime_that_is_installed(ship: Ship) -> None:
    assert runner(ship, threads=1).runtime in ("openvino", "onnxruntime")


def test_a_file_of_the_card_can_be_named(ship: Ship) -> None:
    assert runner(ship, runtime="openvino", file="model.onnx", threads=1).file == "model.onnx"
    with pytest.raises(ValueError) as error:
        runner(ship, runtime="openvino", file="int4")
    one_line(error, "int4", "model.onnx")


def test_a_folder_and_a_bare_file_load_too(ship: Ship) -> None:
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
def test_a_wrong_frame_is_refused_with_the_right_one_named(ship: Ship, bad: np.ndarray) -> None:
    for runtime in ("onnxruntime", "openvino"):
        with pytest.raises(ValueError) as error:
            runner(ship, runtime=runtime, threads=1)(bad)
        one_line(error, str(bad.dtype), "uint8 [N, 32, 40, 3]")


def test_an_unknown_runtime_suggests_the_nearest(ship: Ship) -> None:
    with pytest.raises(ValueError) as error:
        runner(ship, runtime="onnx")
    one_line(error, "'onnx'", "onnxruntime")


def test_a_runtime_that_is_not_installed_says_so(ship: Ship, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_bad_choice_is_named(ship: Ship, field: str, value: object) -> None:
    with pytest.raises(ValueError) as error:
        runner(ship, **{"runtime": "openvino", field: value})  # type: ignore[arg-type]
    one_line(error, field, str(value))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_truncated_graph_is_named_in_one_line(ship: Ship, tmp_path: Path, runtime: str) -> None:
    data = (ship.folder / "model.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError) as error:
        runner(tmp_path / "cut.onnx", runtime=runtime)
    one_line(error, "cut.onnx")


def test_a_truncated_ir_is_named_in_one_line(ship: Ship, tmp_path: Path) -> None:
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
