"""`edgemt export --format executorch`: the program, its gate and its record on the card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from tiny_flags import TINY  # noqa: E402
from tiny_package import make_ship  # noqa: E402

from deploy.package.files import ONNX_INT8, PTE_INT8  # noqa: E402
from deploy.package.golden import golden_pairs  # noqa: E402
from deploy.package.package import card_hash, open_package  # noqa: E402
from deploy.quantization.accuracy_gate import GateError  # noqa: E402
from deploy.runtimes import executorch_backend  # noqa: E402
from deploy.runtimes.load import runner  # noqa: E402
from edgemt import cli, recipes  # noqa: E402
from edgemt.model_card import FileMetrics  # noqa: E402
from edgemt.pipeline import executorch_program as program  # noqa: E402
from edgemt.pipeline.overrides import override  # noqa: E402


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        cli.main(["export", *words])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert left.value.code == 2
    return line


def test_what_cannot_become_a_program_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ship = str(make_ship(tmp_path / "ship").folder)
    assert "a ship holds no weights" in refused([ship, "--format", "executorch"], capsys)
    assert "--format: takes no --serve" in refused([ship, "--format", "executorch", "--serve", "cpp"], capsys)
    monkeypatch.setattr(executorch_backend, "executorch_version", lambda: "1.5.1")
    assert "add --data.root DIR" in refused(["zoo/polyp", "--format", "executorch"], capsys)


def test_the_gate_refuses_a_program_and_names_what_to_turn() -> None:
    parent = FileMetrics(dice=0.9, per_class={"organ": {"dice": 0.95}, "tool": {"dice": 0.85}})
    near = FileMetrics(dice=0.895, per_class={"organ": {"dice": 0.945}, "tool": {"dice": 0.845}})
    assert program.judged(near, parent, 0.01).drop == pytest.approx(0.005)
    assert program.judged(near, parent, 0.01).runtime == "executorch"
    lost_tool = FileMetrics(dice=0.895, per_class={"organ": {"dice": 0.98}, "tool": {"dice": 0.81}})
    for found, what in ((FileMetrics(dice=0.88, per_class=near.per_class), "0.8800"), (lost_tool, "class 'tool'")):
        with pytest.raises(GateError, match=rf"{what}.*int8\.images up"):
            program.judged(found, parent, 0.01)


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def source(run: Path, **changed: object) -> program.Source:
    recipe = override(recipes.load("phantom", []), [*TINY], prog="test")
    return program.of_run(recipe, run)


def test_a_program_that_passes_is_on_the_card_and_a_refused_one_leaves_the_ship_as_it_was(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The INT8 graph for ONNX Runtime in the place of ExecuTorch, which need not be installed."""
    seen: dict[str, int] = {}

    def export(network, path, *, calibration, **options):  # type: ignore[no-untyped-def]
        seen["frames"] = len([frame for frame in calibration if frame.shape == (1, *options["size"], 3)])
        shutil.copyfile(Path(path).with_name(ONNX_INT8), path)
        return runner(Path(path).with_name(ONNX_INT8), runtime="onnxruntime")

    def stand_in(where, *, runtime, **options):  # type: ignore[no-untyped-def]
        if runtime == "onnxruntime":
            return runner(where, runtime=runtime, **options)
        made = runner(run / "ship" / ONNX_INT8, runtime="onnxruntime")
        made.file = PTE_INT8
        return made

    monkeypatch.setattr(program, "export_executorch", export)
    monkeypatch.setattr(program, "runner", stand_in)
    monkeypatch.setattr(program, "executorch_version", lambda: "9.9.9")
    before, lines = open_package(run / "ship"), list[str]()
    after = program.add_program(run / "ship", source(run), say=lines.append)
    metrics = after.card.measured[PTE_INT8]
    assert seen["frames"] == 8 and metrics.bound_to == "executorch 9.9.9" and metrics.runtime == "executorch"
    assert metrics.dice == pytest.approx(before.card.measured[ONNX_INT8].dice) and metrics.agreement == 1
    assert metrics.golden_pixels is not None and metrics.drop is not None
    assert card_hash(before.card) in after.card.parents and PTE_INT8 in after.card.files
    assert {f: h for f, h in after.card.files.items() if f != PTE_INT8} == before.card.files
    assert "only executorch 9.9.9 runs it" in lines[-1]

    def other(frames: np.ndarray) -> np.ndarray:
        return np.zeros(frames.shape[:3], np.uint8) + 7

    monkeypatch.setattr(program, "export_executorch", lambda *a, **o: other)
    with pytest.raises(GateError, match=r"model\.int8\.pte"):
        program.add_program(run / "ship", source(run), say=lines.append)
    assert open_package(run / "ship").card == after.card and not list(run.glob(".ship*"))


# An untrained network has many pixels near a tie of two classes, which INT8 kernels decide in their own ways.
LONGER = [*TINY, "--student.method=supervised", "--student.schedule.steps=150", "--slim.schedule.steps=60"]


@pytest.mark.slow
def test_a_real_program_beside_the_other_files_of_a_ship(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("executorch")
    run = ["--out", str(tmp_path / "run"), *LONGER]
    cli.main(["run", "phantom", *run])
    cli.main(["export", "phantom", "--format", "executorch", *run])
    folder = tmp_path / "run" / "ship"
    ship = open_package(folder)
    metrics = ship.card.measured[PTE_INT8]
    assert metrics.bound_to == f"executorch {executorch_backend.executorch_version()}"
    assert metrics.agreement is not None and metrics.agreement >= 0.995
    made = runner(ship, runtime="executorch")
    assert made.file == PTE_INT8 and "int8" in made.precision

    capsys.readouterr()
    cli.main(["doctor", str(folder)])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok  executorch") and "golden masks" in line for line in lines)
    assert not [line for line in lines if "agreement" in line and "executorch" in line], "it has its own ranges"

    frame = golden_pairs(ship)[0].frame[0]
    Image.fromarray(frame).save(tmp_path / "a.png")
    cli.main(["predict", str(folder), str(tmp_path / "a.png"), "--runtime", "executorch", "--out", str(tmp_path)])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.mask.png")), made(frame[None])[0])
    record = tmp_path / "eval.json"
    cli.main(["eval", str(folder), "--runtime", "executorch", "--json", str(record)])
    assert json.loads(record.read_text())["dice"] == pytest.approx(metrics.dice, abs=1e-4)
