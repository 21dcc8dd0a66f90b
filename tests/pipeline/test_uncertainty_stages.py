"""A student that learns the variance between its teachers, from the bank to the int8 stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgemt.artefacts import stage_folder
from edgemt.data import soft_labels
from edgemt.methods import METHODS
from edgemt.model_card import FileMetrics
from edgemt.pipeline import flow, quantize
from edgemt.pipeline.accuracy import uncertainty_failure
from edgemt.pipeline.quantization_candidates import Candidate
from edgemt.pipeline.run_context import RunContext
from edgemt.recipes import RECIPES, Recipe, StudentOptions
from edgemt.training.options import Schedule

QUICK = Schedule(steps=2, labelled=2, unlabelled=2, validations=0, warmup=1)


def tiny(*, uncertainty: float, members: int = 2, overlapping: bool = False) -> Recipe:
    base = RECIPES["phantom"]()
    method = replace(METHODS["distillation"], teacher_source="bank", uncertainty=uncertainty)  # type: ignore[call-arg]
    return replace(
        base,
        data=replace(base.data, size=(32, 32), phantom=(3, 3, 1), overlapping=overlapping),
        teacher=replace(base.teacher, widths=(2, 2, 4, 4, 4), schedule=QUICK, members=members),
        student=StudentOptions(network="test_efficientnet", pretrained="never", schedule=QUICK, method=method),
        threads=1,
    )


def test_a_student_gets_the_head_and_an_older_bank_only_the_variance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flow.run(tiny(uncertainty=0.0), out, until="student")
    plain, bank = stage_folder.read_card(out / "student"), soft_labels.bank_fingerprint(out / "bank")
    assert plain.network["heads"] == [] and not (out / "bank" / soft_labels.VARIANCE).exists()
    assert plain.measured[stage_folder.WEIGHTS].uncertainty == {}
    capsys.readouterr()
    flow.run(tiny(uncertainty=1.0), out, until="student")
    log = capsys.readouterr().err
    assert "variance between the teachers (soft labels are complete): 6 files" in log
    assert soft_labels.bank_fingerprint(out / "bank") == bank
    card = stage_folder.read_card(out / "student")
    measured = card.measured[stage_folder.WEIGHTS]
    assert card.network["heads"] == ["uncertainty"]
    assert measured.uncertainty.keys() == measured.softmax_entropy.keys() >= {"auroc", "ece", "brier", "aurc"}
    flow.run(tiny(uncertainty=0.0), out, until="student")  # the student without it is taken up again
    assert "previous-1 was made from these inputs" in capsys.readouterr().err
    assert stage_folder.read_card(out / "student").recipe_hash == plain.recipe_hash


def test_a_student_of_overlapping_classes_learns_where_any_of_them_is_wrong(tmp_path: Path) -> None:
    out = tmp_path / "run"
    flow.run(tiny(uncertainty=1.0, overlapping=True), out, until="student")
    card = stage_folder.read_card(out / "student")
    measured = card.measured[stage_folder.WEIGHTS]
    assert card.overlapping and card.network["heads"] == ["uncertainty"]
    assert measured.uncertainty.keys() == measured.softmax_entropy.keys() >= {"auroc", "ece", "brier", "aurc"}
    assert measured.uncertainty["wrong"] == pytest.approx(measured.softmax_entropy["wrong"], abs=0.01)
    assert soft_labels.has_bank(out / "bank", variance=True)
    assert max(soft_labels.mean_variance(out / "bank", soft_labels_names(out))) > 0


def soft_labels_names(out: Path) -> list[str]:
    return sorted(path.stem for path in (out / "bank" / soft_labels.VARIANCE).glob("*.safetensors"))


def test_one_teacher_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^student.method.uncertainty: .* set teacher.members to 3") as error:
        flow.run(tiny(uncertainty=1.0, members=1), tmp_path / "run", until="student")
    assert "\n" not in str(error.value)


def test_the_gate_allows_a_hundredth_of_auroc() -> None:
    parent = FileMetrics(uncertainty={"auroc": 0.90})
    assert uncertainty_failure(parent, FileMetrics(uncertainty={"auroc": 0.8901}), what="INT8") == ""
    assert "0.0200 below its parent's 0.9000" in uncertainty_failure(
        parent, FileMetrics(uncertainty={"auroc": 0.88}), what="INT8"
    )
    assert uncertainty_failure(FileMetrics(), FileMetrics(uncertainty={"auroc": 0.5}), what="INT8") == ""
    flawless = FileMetrics(uncertainty={"auroc": None})  # no pixel is wrong
    assert uncertainty_failure(flawless, FileMetrics(uncertainty={"auroc": 0.5}), what="INT8") == ""


@pytest.mark.parametrize("strict", [False, True])
def test_an_int8_uncertainty_that_fails_its_gate_is_removed_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strict: bool
) -> None:
    removed: list[Path] = []
    monkeypatch.setattr(quantize.export, "drop_uncertainty", removed.append)
    monkeypatch.setattr(quantize.export, "export_openvino", lambda source, target: removed.append(target))
    context = RunContext(replace(tiny(uncertainty=1.0), strict=strict), tmp_path)
    measured = {name: FileMetrics(dice=0.8, uncertainty={"auroc": 0.8}) for name in quantize.RUNS}
    candidate, parent = Candidate(tmp_path, {}, measured), FileMetrics(dice=0.8, uncertainty={"auroc": 0.9})
    if strict:
        with pytest.raises(ValueError, match="AUROC of its uncertainty, 0.8000"):
            quantize._with_passing_uncertainty(context, tmp_path, candidate, parent=parent)
        return
    after, given = quantize._with_passing_uncertainty(context, tmp_path, candidate, parent=parent)
    assert [path.name for path in removed] == ["model.int8.onnx", "model.int8.xml"]
    assert given[0]["wanted"] == "uncertainty in INT8" and "0.1000 below" in given[0]["why"]
    assert after.measured == {name: FileMetrics(dice=0.8) for name in quantize.RUNS}
