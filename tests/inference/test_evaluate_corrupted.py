"""Evaluation under corruptions: figures of every kind and severity, a table, two pictures; the tiny graph is exact."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("cv2")
pytest.importorskip("onnxruntime")

from tiny_package import CLASSES, SIZE, expected, frame, make_ship  # noqa: E402

from edgemt import cli  # noqa: E402
from edgemt.data.corruptions import BY_MODALITY, corrupt, corrupt_volume  # noqa: E402
from edgemt.data.options import DataOptions  # noqa: E402
from edgemt.inference.evaluate import EvalSet  # noqa: E402
from edgemt.inference.evaluate_corrupted import (  # noqa: E402
    corrupted_set,
    corruption_record,
    corruption_table,
    evaluate_corrupted,
    modality_of_package,
    package_of,
)
from edgemt.io.volumes import stack_neighbours  # noqa: E402
from edgemt.report.corruption_charts import corruption_chart, corruption_sheet  # noqa: E402


def eval_set(count: int = 3) -> EvalSet:
    frames = np.stack([frame(seed) for seed in range(count)])
    names = tuple(f"case{k}" for k in range(count))
    truths = tuple(expected(picture) for picture in frames)
    return EvalSet(names, frames, tuple(slice(k, k + 1) for k in range(count)), truths, CLASSES, (None,) * count)


def predict(frames: np.ndarray) -> np.ndarray:
    return np.stack([expected(picture) for picture in frames])


def data_root(folder: Path, count: int = 2) -> Path:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for seed in range(count):
        Image.fromarray(frame(seed)).save(folder / "images" / f"{seed}.png")
        Image.fromarray(expected(frame(seed))).save(folder / "masks" / f"{seed}.png")
    return folder


def test_every_kind_and_severity_has_dice_and_loss_and_the_clean_dice_is_beside() -> None:
    passes: list[tuple[int, int]] = []
    record = corruption_record(
        predict, eval_set(), kinds=("noise", "underexposure"), severities=(1, 5), progress=lambda *at: passes.append(at)
    )
    assert record["clean"]["dice"] == 1.0 and set(record["clean"]["per_class"]) == {"organ", "tool"}
    dark = record["corruptions"]["underexposure"]
    assert dark["5"]["dice"] == 0 and dark["5"]["loss"] == 1.0  # nothing is brighter than the graph's threshold
    assert 0 < record["corruptions"]["noise"]["5"]["dice"] < record["corruptions"]["noise"]["1"]["dice"] <= 1
    assert record["mean"]["5"]["dice"] == pytest.approx(record["corruptions"]["noise"]["5"]["dice"] / 2)
    assert passes == [(k, 5) for k in range(1, 6)]
    assert record == corruption_record(predict, eval_set(), kinds=("noise", "underexposure"), severities=(1, 5))


def test_pixels_under_the_rim_count_and_are_left_out_of_the_visible_dice() -> None:
    record = corruption_record(predict, eval_set(), kinds=("black_rim",), severities=(5,))
    found = record["corruptions"]["black_rim"]["5"]
    assert found["dice"] < 0.95 < found["visible_dice"]


def test_an_uncertainty_map_is_recorded_beside_the_dice() -> None:
    def both(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return predict(frames), frames[..., 0]  # brighter is less sure

    record = corruption_record(predict, eval_set(), kinds=("overexposure",), severities=(1, 4), both=both)
    mean = np.mean((eval_set().frames[..., 0] / 255.0) ** 2)
    assert record["clean"]["uncertainty"] == pytest.approx(mean)
    rising = [record["corruptions"]["overexposure"][s]["uncertainty"] for s in ("1", "4")]
    assert mean < rising[0] < rising[1]
    chart = corruption_chart({"name": "tiny", "file": "model.onnx", **record})
    assert 'class="unsure"' in chart and f"p {rising[1]:.2f}" in chart


def test_the_slices_of_a_volume_are_corrupted_once_and_then_stacked() -> None:
    volume = np.stack([frame(k)[..., 0] for k in range(4)])
    stacked = np.stack([stack_neighbours(volume[..., None], k, slices=3) for k in range(4)])
    cases = EvalSet(("v",), stacked, (slice(0, 4),), (np.zeros(volume.shape, np.uint8),), CLASSES, (None,))
    changed = corrupted_set(cases, "ghosting", 3, seed=2).frames
    want = corrupt_volume(volume, "ghosting", 3, seed=2, case="v")
    assert np.array_equal(changed[..., 1], want)
    assert np.array_equal(changed[1, ..., 0], want[0]) and np.array_equal(changed[3, ..., 2], want[3])


def test_the_preset_of_the_recipe_decides_the_modality_and_else_the_images(tmp_path: Path) -> None:
    ship = make_ship(tmp_path / "run" / "ship", golden=0)
    assert package_of(tmp_path / "run") == ship.folder and package_of(ship.folder) == ship.folder
    assert modality_of_package(ship) == ("endoscopy", "RGB frames")
    (tmp_path / "run" / "recipe.json").write_text(json.dumps({"augment": {"preset": "ultrasound"}}))
    assert modality_of_package(ship) == ("ultrasound", "augment.preset ultrasound")
    (tmp_path / "run" / "recipe.json").write_text("[]")
    data = DataOptions(layout="volumes", classes=CLASSES, size=SIZE, channels=1)
    grey = replace(ship, card=replace(ship.card, channel_order="grey", data=data.to_dict()))
    assert modality_of_package(grey) == ("mri", "volumes")
    window = replace(data, window=(-100, 300)).to_dict()
    assert modality_of_package(replace(grey, card=replace(grey.card, data=window)))[0] == "ct"


def test_the_command_prints_a_table_and_writes_json_chart_and_sheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DataOptions(layout="pairs", classes=CLASSES, size=SIZE).to_dict()
    make_ship(tmp_path / "run" / "ship", golden=0, data=data)
    root, out = data_root(tmp_path / "test"), tmp_path / "out"
    command = ["eval", str(tmp_path / "run"), "--data.root", str(root), "--runtime", "onnxruntime", "--file", "fp32"]
    written = ["--json", str(tmp_path / "found.json"), "--corrupt-out", str(out)]
    cli.main([*command, "--corrupt", "--severities", "5", "1", *written])
    table, record = capsys.readouterr().out, json.loads((tmp_path / "found.json").read_text())
    assert list(record["corruptions"]) == list(BY_MODALITY["endoscopy"]) and record["modality_reason"] == "RGB frames"
    assert list(record["mean"]) == ["1", "5"] and record["counted"] == 2
    assert "modality: endoscopy (RGB frames)" in table and "'visible' leaves out" in table
    assert corruption_table(record) in table
    drawn = ElementTree.parse(out / "corruptions.svg").getroot()
    words = [node.text for node in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"smoke", "black rim", "underexposure"} <= set(words)
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.width > 900 and len(sheet.getcolors(1 << 24) or ()) > 100


def test_a_stage_without_a_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(ValueError, match="has weights and no graph, and --corrupt measures a ship"):
        evaluate_corrupted(tmp_path)


def test_the_sheet_shows_the_frame_and_its_corruptions() -> None:
    picture = np.full((40, 50, 3), 200, np.uint8)
    sheet = np.asarray(corruption_sheet(picture, ("underexposure",), corrupt, cell=50))
    assert tuple(sheet[30, 20]) == (200, 200, 200)
    row = 40 + 22 + 8 + 22 + 20
    assert 180 > sheet[row, 30, 0] > sheet[row, 80, 0] > sheet[row, 130, 0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--corrupt", "smok"], "unknown corruption 'smok'; nearest: smoke"),
        (["--corrupt", "--severities", "6"], "severities: 6 is none of 1 to 5"),
        (["--corrupt-out", "x"], "corrupt_out and severities: belong to --corrupt"),
        (["--corrupt", "--through-plane", "3"], "through_plane: --corrupt measures the masks as they are"),
    ],
)
def test_a_wrong_flag_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    make_ship(tmp_path / "ship", golden=0)
    with pytest.raises(SystemExit) as ended:
        cli.main(["eval", str(tmp_path / "ship"), *flags])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err
