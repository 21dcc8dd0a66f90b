"""Calibration that really fails, and each rung that mends it; when none does, float ships and the card names it all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from untrained_run import READER, again, begin

from deploy.package.files import IR_INT8, ONNX_FP32, ONNX_INT8
from deploy.quantization.accuracy_gate import GateError, gate
from deploy.runtimes.load import runner
from edgemt import cli
from edgemt.artefacts import stage_folder
from edgemt.io.atomic import sha256
from edgemt.model_card import FileMetrics
from edgemt.pipeline import export_student, fallback, quantization_candidates
from edgemt.pipeline.quantize import int8
from edgemt.pipeline.run_context import RunContext
from edgemt.recipes import Int8Stage
from edgemt.training import engine
from edgemt.training.options import Schedule
from edgemt.zoo import entry

pytest.importorskip("nncf")
SHORT = Schedule(steps=250, learning_rate=2e-3, labelled=4, unlabelled=4, precision="32-true", validations=0)
SMALL_LADDER = {"images": 8, "min_speedup": 0.0}  # so small a network is no quicker in eight bits


@pytest.fixture(scope="module", autouse=True)
def each_graph_is_exported_once() -> Iterator[None]:
    """Most tests begin with the same network; how it is exported is tested in tests/deploy/test_export.py."""
    real, made = quantization_candidates.export_graph, dict[tuple[str, str], bytes]()

    def export_graph(context: RunContext, source: Path, path: Path) -> Path:
        key = sha256(source / stage_folder.WEIGHTS), context.recipe.uncertainty
        made[key] = made.get(key) or real(context, source, path).read_bytes()
        path.write_bytes(made[key])
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgemt.pipeline.quantize.export_graph", export_graph)
        yield


def quantization_of(context: RunContext) -> dict[str, Any]:
    return stage_folder.read_card(context.folder("int8")).measured[ONNX_INT8].quantization


def weight_of(path: Path, layer: str) -> str:
    return next(str(node.input[1]) for node in onnx.load(path).graph.node if node.name == layer)


def test_a_healthy_network_needs_calibration_alone_and_ships_the_uncertainty_of_its_softmax(tmp_path: Path) -> None:
    context = begin(tmp_path, by=1.0, int8=Int8Stage(**SMALL_LADDER), tolerance=0.2, uncertainty="softmax")
    assert stage_folder.plain(context.recipe)["uncertainty"] == "softmax"
    assert "uncertainty" not in stage_folder.plain(replace(context.recipe, uncertainty="head"))
    folder = int8(context)
    assert [step["rung"] for step in quantization_of(context)["rungs"]] == ["calibrated"]
    assert not context.folder("qad").exists()
    for file, metrics in stage_folder.read_card(folder).measured.items():
        made = runner(folder / file, runtime=metrics.runtime)
        assert made.has_uncertainty and metrics.uncertainty["source"] == "softmax"
        masks, maps = made.with_uncertainty(context.slices.val.frames)
        right = masks == np.stack(context.slices.val.frame_truths())
        assert 0 < maps[right].mean() < maps[~right].mean()


def test_an_outlier_channel_fails_calibration_and_one_layer_in_float_mends_it(tmp_path: Path) -> None:
    context = begin(tmp_path, by=1000.0, int8=Int8Stage(**SMALL_LADDER), tolerance=0.25)
    folder = int8(context)
    failed, mended = quantization_of(context)["rungs"]
    assert not failed["passed"] and max(failed["dice"].values()) < 0.7
    assert mended["passed"] and mended["rung"] == "mixed" and min(mended["dice"].values()) > 0.75
    (layer,) = mended["kept"]
    assert weight_of(folder / ONNX_FP32, layer) == f"network.{READER}.weight"
    assert quantization_of(context)["sensitivity"][0]["layer"] == layer
    assert (folder / IR_INT8).exists() and not context.folder("qad").exists()


@pytest.mark.slow
def test_a_milder_one_is_mended_by_learning_under_eight_bits(tmp_path: Path) -> None:
    context = begin(
        tmp_path, by=20.0, int8=Int8Stage(ladder=("distil",), schedule=SHORT, **SMALL_LADDER), tolerance=0.3
    )
    int8(context)
    failed, mended = quantization_of(context)["rungs"]
    assert not failed["passed"] and mended["passed"] and mended["rung"] == "distilled"
    assert min(mended["dice"].values()) > max(failed["dice"].values()) + 0.05
    slim, learnt = (stage_folder.read_card(context.folder(stage)) for stage in ("slim", "qad"))
    assert learnt.network == slim.network and learnt.files != slim.files


def test_strict_writes_nothing_when_no_rung_passes_and_names_every_rung(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    of = Int8Stage(ladder=("mixed",), float_layers=1, **SMALL_LADDER)
    context = begin(tmp_path, by=1000.0, int8=of, tolerance=0.001, strict=True)
    for strict in (
        context,
        again(
            context, strict=False, int8=Int8Stage(ladder=("mixed",), float_layers=1, fallback="stop", **SMALL_LADDER)
        ),
    ):
        with pytest.raises(GateError) as caught:
            int8(strict)
        line = str(caught.value)
        assert "\n" not in line and not context.folder("int8").exists()
        for part in (
            "calibrated 0.",
            "mixed (1 layers in float) 0.",
            "onnxruntime",
            "nothing was written",
            "int8.float_layers",
        ):
            assert part in line
        monkeypatch.setattr(quantization_candidates, "quantize", lambda *_, **__: pytest.fail("a rung was made twice"))
    told = capsys.readouterr().err
    assert told.index("next up to 1 layers in float, then refusal") < told.index("mixed (1 layers in float)")

    card = stage_folder.read_card(int8(again(context, strict=False)))
    assert set(card.measured) == {ONNX_FP32} and card.given_up[0]["stage"] == "int8"
    assert set(stage_folder.read_card(int8(again(context, strict=True, tolerance=0.99))).measured) == {
        ONNX_INT8,
        IR_INT8,
    }


def test_a_rung_that_was_cut_is_the_only_one_that_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = Int8Stage(ladder=("mixed",), float_layers=1, **SMALL_LADDER)
    context = begin(tmp_path, by=1000.0, int8=of, tolerance=0.001)
    real, made = quantization_candidates.quantize, []

    def quantize(exact: Path, small: Path, **given: Any) -> Path:
        made.append(small.parent.name)
        if len(made) == 2:
            raise KeyboardInterrupt
        return real(exact, small, **given)

    monkeypatch.setattr(quantization_candidates, "quantize", quantize)
    with pytest.raises(KeyboardInterrupt):
        int8(context)
    int8(context)
    assert made == ["calibrated.partial", "mixed-1.partial", "mixed-1.partial"]


def test_a_class_that_int8_loses_is_given_as_the_reason_and_one_that_no_case_has_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = begin(tmp_path, by=1.0, int8=Int8Stage(ladder=(), **SMALL_LADDER), tolerance=0.2)
    slim = stage_folder.read_card(context.folder("slim"))
    absent, lost = context.slices.classes[1:3]
    slim.measured[stage_folder.WEIGHTS].per_class[absent]["dice"] = None
    stage_folder.write_card(context.folder("slim"), slim)
    real, off = quantization_candidates.evaluation_record, {absent: None}

    def record_of(*given: Any) -> FileMetrics:
        found = real(*given)
        classes = {name: {**of, "dice": off.get(name, of["dice"])} for name, of in found.per_class.items()}
        return replace(found, dice=slim.measured[stage_folder.WEIGHTS].dice, per_class=classes)

    monkeypatch.setattr(quantization_candidates, "evaluation_record", record_of)
    card = stage_folder.read_card(int8(context))
    assert ONNX_INT8 in card.measured and not card.given_up
    off[lost] = 0.1
    card = stage_folder.read_card(int8(again(context, seed=1, tolerance=0.19)))
    assert set(card.measured) == {ONNX_FP32} and f"class {lost!r}: Dice 0.1000" in card.given_up[0]["why"]


def test_float_is_shipped_alone_when_no_rung_passes(tmp_path: Path) -> None:
    context = begin(tmp_path, by=100.0, int8=Int8Stage(ladder=(), **SMALL_LADDER), tolerance=0.01)
    card = stage_folder.read_card(int8(context))
    assert card.given_up[0]["shipped"] == "half precision and float"
    assert "calibrated: Dice 0." in fallback.describe_fallback(card.given_up[0])
    assert set(card.measured) == {ONNX_FP32} and not any("int8" in file for file in card.files)
    assert card.measured[ONNX_FP32].quantization["rung"] == "none"
    assert not card.measured[ONNX_FP32].quantization["rungs"][0]["passed"]

    from edgemt.pipeline.package import ship
    from edgemt.report.deployed_file import quantization_notes

    shipped = stage_folder.read_card(ship(context))
    assert ONNX_FP32 in shipped.measured and ONNX_INT8 not in shipped.measured
    assert {record["runtime"] for record in shipped.latency if record["fastest"]} == {"openvino", "onnxruntime"}
    assert any("none passed, and no INT8 file is shipped" in line for line in quantization_notes(shipped))
    assert shipped.given_up[:1] == card.given_up


def test_a_runtime_that_gives_other_masks_is_left_out_of_the_ship_and_strict_refuses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgemt.pipeline import package, package_steps
    from edgemt.report.deployed_file import deployed

    context = begin(tmp_path, by=1.0, int8=Int8Stage(ladder=(), **SMALL_LADDER), tolerance=0.2)
    int8(context)
    real = package_steps.check_agreement

    def agree(*masks: Any, **given: Any) -> float:
        return real(masks[0], 1 - masks[1] if "on openvino" in given["what"] else masks[1], **given)

    monkeypatch.setattr(package_steps, "check_agreement", agree)
    shipped = stage_folder.read_card(package.ship(context))
    assert ONNX_FP32 in shipped.measured and ONNX_INT8 in shipped.measured
    assert not any(file.startswith("openvino/") for file in (*shipped.measured, *shipped.files))
    assert {record["runtime"] for record in shipped.latency} == {"onnxruntime"} and "onnxruntime" in deployed(shipped)
    assert "files for openvino given up" in fallback.describe_fallback(shipped.given_up[0])
    before = (context.folder("ship") / "card.json").stat().st_mtime_ns
    package.ship(context)
    assert (context.folder("ship") / "card.json").stat().st_mtime_ns == before
    with pytest.raises(GateError, match="openvino"):
        package.ship(again(context, strict=True))
    monkeypatch.setattr(package_steps, "check_agreement", lambda *masks, **given: real(masks[0], 1 - masks[1], **given))
    with pytest.raises(GateError, match="onnxruntime"):
        package.ship(again(context, tolerance=0.3))


@pytest.mark.slow
def test_learning_under_eight_bits_that_was_cut_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgemt.pipeline.quantization_aware import distil_in_eight_bits

    short = Schedule(steps=8, labelled=2, unlabelled=2, precision="32-true", validations=0, checkpoint_every=2)
    runs = [begin(tmp_path / name, by=30.0, int8=Int8Stage(schedule=short), tolerance=0.2) for name in ("whole", "cut")]
    distil_in_eight_bits(runs[0])
    real, calls = engine.Trainer.step, iter(range(5))

    def cut(self: engine.Trainer, draw: engine.DrawBatch) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return real(self, draw)

    monkeypatch.setattr(engine.Trainer, "step", cut)
    with pytest.raises(KeyboardInterrupt):
        distil_in_eight_bits(runs[1])
    monkeypatch.setattr(engine.Trainer, "step", real)
    assert not runs[1].folder("qad").exists()
    distil_in_eight_bits(runs[1])
    assert stage_folder.read_card(runs[1].folder("qad")).files == stage_folder.read_card(runs[0].folder("qad")).files


def test_an_entry_of_the_zoo_that_eight_bits_cost_too_much_says_why_there_are_no_further_rungs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object, **__: object) -> None:
        gate(0.8, 0.6, tolerance=0.01, what="small in INT8 on openvino", hint="int8.images up")

    monkeypatch.setattr(export_student, "export", refused)
    for name in ("is_entry", "recipe_for", "has_frames"):
        monkeypatch.setattr(entry if name == "is_entry" else export_student, name, lambda *_: True)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["export", "zoo/small", "--out", "ship", "--data.root", "frames"])
    said = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and "\n" not in said
    assert "0.2000 below" in said and "--student.weights zoo/small" in said and "an entry has no teacher" in said
