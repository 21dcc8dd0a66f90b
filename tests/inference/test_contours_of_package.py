"""Margins on a ship: calibrated, measured by eval, drawn by predict, dropped where they do not hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("scipy")

from tiny_package import SIZE, expected, frame, make_ship  # noqa: E402

from deploy.package.input_drift import write_inputs  # noqa: E402
from deploy.package.package import Package, finalize, open_package  # noqa: E402
from deploy.package.signing import SIGNATURE  # noqa: E402
from edgemt import cli  # noqa: E402
from edgemt.contour_margins import graph_digest  # noqa: E402
from edgemt.data.options import DataOptions  # noqa: E402
from edgemt.inference import evaluate_package  # noqa: E402
from edgemt.inference.calibrate_package import calibrate_package  # noqa: E402
from edgemt.io.contour_bands import dilated, eroded  # noqa: E402
from edgemt.io.images import read_label  # noqa: E402
from edgemt.model_card import FileMetrics  # noqa: E402

RUN: dict[str, Any] = {"runtime": "onnxruntime", "file": "model.onnx"}
DATA = DataOptions(layout="pairs", classes=("background", "organ", "tool"), size=SIZE).to_dict()


def shifted_pairs(folder: Path, count: int, *, first: int = 0, largest: int = 3) -> Path:
    """Frames whose masks are what the model predicts, moved by 0 to `largest` pixels."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        Image.fromarray(frame(seed)).save(folder / "images" / f"case{seed}.png")
        truth = np.roll(expected(frame(seed)), seed % (largest + 1), axis=1)
        Image.fromarray(truth).save(folder / "masks" / f"case{seed}.png")
    return folder


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Package, Path]:
    folder = tmp_path_factory.mktemp("contours")
    make_ship(folder / "ship", data=DATA, measured={"model.onnx": FileMetrics(dice=0.75)})
    write_inputs(folder / "ship", np.stack([frame(seed) for seed in range(8)]))
    finalize(folder / "ship", open_package(folder / "ship").card)
    root = shifted_pairs(folder / "calibration", 20)
    cli.main([
        "calibrate", str(folder / "ship"), "--data.root", str(root), "--tolerance", "0", "--runtime", "onnxruntime",
        "--file", "model.onnx",
    ])  # fmt: skip
    return open_package(folder / "ship"), root


def test_margins_are_on_the_card_for_the_file_that_was_run(calibrated: tuple[Package, Path]) -> None:
    ship, _ = calibrated
    ((file, margins),) = ship.card.contours.items()
    assert (file, margins.unit, margins.patients, margins.alpha) == ("model.onnx", "px", 20, 0.1)
    assert margins.graph == graph_digest(file, ship.card.files)
    assert margins.outer["organ"] == pytest.approx(3, abs=1e-3)  # the largest shift, in a quarter of the cases
    assert margins.inner["organ"] is not None
    assert 3 <= margins.inner["organ"] <= 4


def test_eval_measures_coverage_and_names_the_calibration_list(
    calibrated: tuple[Package, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ship, root = calibrated
    record = evaluate_package.evaluate_ship(ship.folder, data_root=root, **RUN)
    assert record["contours"]["calibration_list"]
    assert "proves nothing" in evaluate_package.metrics_table(record)
    other = shifted_pairs(tmp_path / "test", 8, first=40)
    cli.main(["eval", str(ship.folder), "--data.root", str(other), "--json", str(tmp_path / "e.json"), "--runtime",
              "onnxruntime", "--file", "model.onnx"])  # fmt: skip
    contours = json.loads((tmp_path / "e.json").read_text())["contours"]
    assert not contours["calibration_list"]
    organ = contours["per_class"]["organ"]
    assert (organ["outer"], organ["inner"], organ["both"]) == (1, 1, 1)
    assert organ["outer_area"] > 1 > organ["inner_area"]
    assert "coverage in 8 patients, 90 % stated" in capsys.readouterr().out
    worse = shifted_pairs(tmp_path / "worse", 8, first=40, largest=7)
    missed = evaluate_package.evaluate_ship(ship.folder, data_root=worse, **RUN)["contours"]["per_class"]["organ"]
    assert missed["outer"] == 0.5  # half of the shifts are larger than any calibrated


def test_contours_without_margins_are_an_error_where_they_are_wanted(tmp_path: Path) -> None:
    ship, root = make_ship(tmp_path / "ship", data=DATA), shifted_pairs(tmp_path / "in", 2)
    assert "contours" not in evaluate_package.evaluate_ship(ship.folder, data_root=root, **RUN)
    with pytest.raises(ValueError, match="no margins for model.onnx"):
        evaluate_package.evaluate_ship(ship.folder, data_root=root, contours=True, **RUN)
    with pytest.raises(ValueError, match="no margins for model.onnx"):
        evaluate_package.predict(ship.folder, [root / "images"], out=tmp_path / "out", contours=True, **RUN)


def test_too_few_patients_leave_the_ship_as_it_was(tmp_path: Path) -> None:
    ship, root = make_ship(tmp_path / "ship", data=DATA), shifted_pairs(tmp_path / "in", 8)
    before = (ship.folder / "card.json").read_bytes()
    with pytest.raises(ValueError, match="needs 9 calibration patients, 8 are there"):
        calibrate_package(ship.folder, data_root=root, **RUN)
    with pytest.raises(ValueError, match="give --out FOLDER"):
        calibrate_package(Path("zoo/polyp"), data_root=root)
    assert (ship.folder / "card.json").read_bytes() == before


def test_patients_of_the_training_are_refused_and_those_of_validation_noted(tmp_path: Path) -> None:
    shifted_pairs(tmp_path, 30)
    (tmp_path / "val.txt").write_text("\n".join(f"case{seed}" for seed in range(12)))
    (tmp_path / "mine.txt").write_text("\n".join(f"case{seed}" for seed in range(18, 30)))
    (tmp_path / "labelled.txt").write_text("case14\ncase15\n")
    data = {**DATA, "root": str(tmp_path), "labelled": "labelled.txt"}
    ship = make_ship(tmp_path / "ship", data=data)
    _, _, notes = calibrate_package(ship.folder, data_root=tmp_path, out=tmp_path / "copy", **RUN)
    assert any("validation list" in note for note in notes)
    assert not open_package(ship.folder).card.contours
    _, _, notes = calibrate_package(ship.folder, data_root=tmp_path, val="mine.txt", **RUN)
    assert any("unlabelled training images" in note for note in notes)
    (tmp_path / "mine.txt").write_text("\n".join(f"case{seed}" for seed in range(13, 25)))
    with pytest.raises(ValueError, match=r"share 2 patients|trained on the masks"):
        calibrate_package(ship.folder, data_root=tmp_path, val="mine.txt", **RUN)


def test_a_signature_is_removed_with_a_note(tmp_path: Path) -> None:
    ship, root = make_ship(tmp_path / "ship", data=DATA), shifted_pairs(tmp_path / "in", 9)
    (ship.folder / SIGNATURE).write_bytes(b"x" * 64)
    _, _, notes = calibrate_package(ship.folder, data_root=root, **RUN)
    assert not (ship.folder / SIGNATURE).exists()
    assert any("signature was removed" in note for note in notes)


def test_predict_writes_the_regions_and_draws_their_lines(calibrated: tuple[Package, Path], tmp_path: Path) -> None:
    ship, root = calibrated
    image = root / "images" / "case3.png"
    written = list(evaluate_package.predict(ship.folder, [image], out=tmp_path / "out", contours=True, **RUN))
    assert [path.name for path in written] == [
        "case3.mask.png", "case3.outer.organ.mask.png", "case3.outer.tool.mask.png", "case3.inner.mask.png",
        "case3.overlay.png",
    ]  # fmt: skip
    mask, outer, _, inner = (read_label(path) for path in written[:4])
    margins = ship.card.contours["model.onnx"]
    assert np.array_equal(outer == 1, dilated(mask == 1, float(margins.outer["organ"] or 0)))
    assert np.array_equal(inner == 1, eroded(mask == 1, float(margins.inner["organ"] or 0)))
    plain = list(evaluate_package.predict(ship.folder, [image], out=tmp_path / "plain", **RUN))
    assert (np.asarray(Image.open(plain[-1])) != np.asarray(Image.open(written[-1]))).any()


def test_predict_drops_the_claim_for_an_image_unlike_training(
    calibrated: tuple[Package, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ship, _ = calibrated
    Image.fromarray(255 - frame(0)).save(tmp_path / "other.png")
    written = list(
        evaluate_package.predict(ship.folder, [tmp_path / "other.png"], out=tmp_path / "out", contours=True, **RUN)
    )
    assert [path.name for path in written] == ["other.mask.png", "other.overlay.png"]
    assert "other.png: no contours: it is unlike the training images" in capfd.readouterr().err


def test_margins_of_another_graph_are_not_used(calibrated: tuple[Package, Path], tmp_path: Path) -> None:
    ship, root = calibrated
    margins = replace(ship.card.contours["model.onnx"], graph="0" * 64)
    other = make_ship(tmp_path / "ship", data=DATA, contours={"model.onnx": margins})
    with pytest.raises(ValueError, match="of another model.onnx"):
        evaluate_package.evaluate_ship(other.folder, data_root=root, contours=True, **RUN)


def test_volumes_are_calibrated_in_mm(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    affine = np.diag([1.5, 1.5, 8.0, 1.0])
    for seed in range(10):
        slices = np.stack([frame(seed + k)[..., 0] for k in range(3)], axis=-1)
        label = np.stack([expected(np.repeat(slices[..., k, None], 3, axis=2)) for k in range(3)], axis=-1)
        nibabel.save(nibabel.Nifti1Image(slices, affine), tmp_path / "data" / "images" / f"p{seed}.nii.gz")
        nibabel.save(
            nibabel.Nifti1Image(np.roll(label, 2, axis=1), affine), tmp_path / "data" / "labels" / f"p{seed}.nii.gz"
        )
    data = DataOptions(layout="volumes", classes=("background", "organ", "tool"), size=SIZE, channels=3).to_dict()
    ship = make_ship(tmp_path / "ship", data=data)
    _, found, _ = calibrate_package(ship.folder, data_root=tmp_path / "data", tolerance=0.0, **RUN)
    margins = found["model.onnx"]
    assert (margins.unit, margins.patients) == ("mm", 10)
    assert margins.outer["organ"] == pytest.approx(3.0, abs=1e-3)
    images = [tmp_path / "data" / "images" / "p0.nii.gz"]
    written = list(evaluate_package.predict(ship.folder, images, out=tmp_path / "out", contours=True, **RUN))
    assert [path.name for path in written][1:4] == [
        "p0.outer.organ.mask.nii.gz", "p0.outer.tool.mask.nii.gz", "p0.inner.mask.nii.gz",
    ]  # fmt: skip
