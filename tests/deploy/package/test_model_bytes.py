"""What was verified is what is loaded: a file swapped between the check and the load is never run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import helper, numpy_helper  # noqa: E402
from tiny_package import SIZE, expected, frame, graph, make_ship  # noqa: E402

from deploy.package import package as ships  # noqa: E402
from deploy.package.golden import golden_pairs  # noqa: E402
from deploy.package.package import Package, open_package  # noqa: E402
from deploy.promptable import runner as prompted  # noqa: E402
from deploy.runtimes.load import runner  # noqa: E402
from deploy.runtimes.registry import RUNTIMES  # noqa: E402

FRAME = frame(5)[None]


def inverted() -> Any:
    """A graph of the same face that gives other masks."""
    model = graph()
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(np.array([0.0, 0.0, 9.0], np.float32), "bias"))
    return model


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("openvino")
    return make_ship(tmp_path_factory.mktemp("good") / "ship", openvino=True).folder


@pytest.fixture
def ship(good: Path, tmp_path: Path) -> Package:
    return open_package(shutil.copytree(good, tmp_path / "ship"))


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The files of a forger, under the same names."""
    import openvino as ov

    folder = tmp_path / "other"
    (folder / "openvino").mkdir(parents=True)
    onnx.save(inverted(), folder / "model.onnx")
    ov.save_model(ov.convert_model(folder / "model.onnx"), folder / "openvino" / "model.xml", compress_to_fp16=False)
    return folder


def swap_before(call: Callable[..., Any], ship: Package, other: Path, names: list[str]) -> Callable[..., Any]:
    """`call`, with the files swapped the moment before."""

    def swapped(*args: Any, **more: Any) -> Any:
        for name in names:
            shutil.copyfile(other / name, ship.folder / name)
        return call(*args, **more)

    return swapped


FILES = {
    "onnxruntime": ["model.onnx"],
    "openvino": ["openvino/model.xml", "openvino/model.bin"],
}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_files_swapped_after_opening_are_refused(ship: Package, other: Path, runtime: str) -> None:
    pytest.importorskip(runtime)
    for name in FILES[runtime]:
        shutil.copyfile(other / name, ship.folder / name)
    with pytest.raises(ValueError, match=r"sha256 differs"):
        runner(ship, runtime=runtime, file=FILES[runtime][0])


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_files_swapped_before_the_runtime_reads_do_not_run(
    ship: Package, other: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment between the last check and the runtime's own load."""
    pytest.importorskip(runtime)
    row = RUNTIMES[runtime]
    assert row.load is not None
    load = swap_before(row.load, ship, other, FILES[runtime])
    monkeypatch.setitem(RUNTIMES, runtime, replace(row, load=load))
    made = runner(ship, runtime=runtime, file=FILES[runtime][0], tested=False)
    assert np.array_equal(made(FRAME)[0], expected(FRAME[0]))
    assert (ship.folder / FILES[runtime][0]).read_bytes() == (other / FILES[runtime][0]).read_bytes(), "was not swapped"


def test_weights_of_an_ir_are_verified_with_it(ship: Package, other: Path) -> None:
    (ship.folder / "openvino/model.bin").write_bytes((other / "openvino/model.bin").read_bytes())
    with pytest.raises(ValueError, match=r"model\.bin: changed since"):
        ship.model("openvino/model.xml")


def test_a_bare_graph_is_read_once(ship: Package, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """External data is looked for in the bytes that run."""
    pytest.importorskip("onnxruntime")
    load = swap_before(RUNTIMES["onnxruntime"].load, ship, other, ["model.onnx"])  # type: ignore[arg-type]
    monkeypatch.setitem(RUNTIMES, "onnxruntime", replace(RUNTIMES["onnxruntime"], load=load))
    made = runner(ship.folder / "model.onnx", runtime="onnxruntime")
    assert np.array_equal(made(FRAME)[0], expected(FRAME[0]))


def test_golden_pictures_swapped_after_opening_are_refused(ship: Package) -> None:
    shutil.copyfile(ship.folder / "golden/frame0.mask.png", ship.folder / "golden/frame1.mask.png")
    with pytest.raises(ValueError, match=r"frame1\.mask\.png: .*sha256 differs"):
        golden_pairs(ship)


def test_a_golden_picture_that_is_no_png_is_never_decoded(tmp_path: Path) -> None:
    """Under the name .png Pillow would open 40 formats, one of which starts another program."""
    folder = make_ship(tmp_path / "ship").folder
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 32\nshowpage\n"
    (folder / "golden/frame0.png").write_bytes(text)
    sealed = ships.finalize(folder, open_card(folder))
    with pytest.raises(ValueError, match=r"frame0\.png: is no golden picture"):
        golden_pairs(Package(folder, sealed))


def open_card(folder: Path) -> Any:
    from edgemt.model_card import ModelCard

    return ModelCard.from_json((folder / "card.json").read_text())


def prompt_graph(shift: float) -> Any:
    """Takes a frame, gives two maps of one number each."""
    frame = helper.make_tensor_value_info("frame", onnx.TensorProto.UINT8, [1, *SIZE, 3])
    maps = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 2, 2]) for name in ("fine", "deep")]
    tensor = numpy_helper.from_array(np.full((1, 1, 2, 2), shift, np.float32), "value")
    nodes = [helper.make_node("Identity", ["value"], ["fine"]), helper.make_node("Identity", ["value"], ["deep"])]
    body = helper.make_graph(nodes, "embed", [frame], maps, [tensor])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_prompt_graphs_are_loaded_from_the_bytes_that_were_hashed(tmp_path: Path) -> None:
    folder = make_ship(tmp_path / "ship", golden=0).folder
    (folder / "prompt").mkdir()
    for name in (prompted.EMBED, prompted.DECODE):
        onnx.save(prompt_graph(1.0), folder / name)
    sealed = Package(folder, ships.finalize(folder, open_card(folder)))
    onnx.save(prompt_graph(2.0), folder / prompted.EMBED)
    with pytest.raises(ValueError, match=r"embed\.onnx: changed since"):
        prompted.open_prompt(sealed, runtime="onnxruntime")


@pytest.mark.skipif(sys.platform == "win32", reason="no FIFO there")
@pytest.mark.parametrize("name", ["card.json", "model.onnx"])
def test_a_fifo_in_a_ship_is_refused_and_not_waited_for(ship: Package, name: str) -> None:
    import os

    (ship.folder / name).unlink()
    os.mkfifo(ship.folder / name)
    with pytest.raises(ValueError, match=name):
        open_package(ship.folder)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device")
def test_a_device_that_never_ends_is_no_card(ship: Package) -> None:
    (ship.folder / "card.json").unlink()
    (ship.folder / "card.json").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"card\.json: is no regular file"):
        open_package(ship.folder)


def test_a_card_nested_100_000_deep_is_refused_in_one_line(ship: Package) -> None:
    (ship.folder / "card.json").write_text('{"format": 1, "data": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(ValueError, match=r"card\.json: not a readable card \(maximum recursion"):
        open_package(ship.folder)
