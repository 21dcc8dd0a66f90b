"""zoo/NAME wherever a ship folder is, on a machine without torch; what an entry takes from the run it comes from."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tomllib
import torch
from checkout import ROOT

from edgemt.model_card import FileMetrics

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from hidden_packages import TRAINING_PACKAGES, run_without  # noqa: E402

from deploy.export import DeployableModel  # noqa: E402
from deploy.graph_tail import with_tail_of  # noqa: E402
from deploy.package.golden import golden_pairs, write_golden  # noqa: E402
from deploy.package.input_drift import INPUTS, read_inputs, write_inputs  # noqa: E402
from deploy.package.package import finalize, open_package  # noqa: E402
from deploy.runtimes.load import runner  # noqa: E402
from deploy.runtimes.registry import RUNTIME_OF  # noqa: E402
from edgemt import cli  # noqa: E402
from edgemt.artefacts import network_folder, stage_folder  # noqa: E402
from edgemt.data.phantom3d import volume  # noqa: E402
from edgemt.io import zoo_paths  # noqa: E402
from edgemt.model_card import ModelCard  # noqa: E402
from edgemt.pipeline import zoo_graphs as graphs
from edgemt.zoo import entry  # noqa: E402
from edgemt.zoo.entry import open_entry
from edgemt.zoo.synthetic_frames import frames_for  # noqa: E402

LA = ROOT / "students" / "zoo" / "atrium"
SMALL, SMALL_IR = "model.int8.onnx", "openvino/model.int8.xml"
BRIEF = replace(graphs.TIMED, warmup=1, warmup_seconds=0, iterations=2, seconds=0.01, rounds=1)


def sealed(folder: Path, card: ModelCard, **fields: object) -> ModelCard:
    return finalize(folder, replace(card, files={}, created="", latency=(), **fields))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders slim, int8 and ship of a run whose student is that of zoo/atrium; its patient is P001."""
    folder = tmp_path_factory.mktemp("run")
    own = stage_folder.read_card(LA)
    for stage in ("slim", "int8", "ship"):
        (folder / stage / "openvino").mkdir(parents=True)
    shutil.copy(LA / entry.WEIGHTS, folder / "slim")
    network = {key: value for key, value in own.network.items() if key != "zoo"}
    made = {"network": network, "recipe_hash": "key", "data": {**own.data, "root": "/home/somebody/la"}}
    cases = ({"name": "P001", "dice": 0.9},)
    float16 = {entry.WEIGHTS: replace(own.measured[entry.WEIGHTS], cases=cases)}
    sealed(folder / "slim", own, stage="slim", measured=float16, parents=(), **made)
    found = FileMetrics(per_class={"atrium": {"dice": 0.86}}, drop=0.0, cases=cases)
    rung = {"rung": "calibrated", "kept": []}
    measured = {
        SMALL: replace(found, dice=0.861, runtime="onnxruntime", quantization=rung),
        SMALL_IR: replace(found, dice=0.859, runtime="openvino"),
    }
    frames = np.random.default_rng(0).integers(0, 256, (6, *own.size, own.channels), dtype=np.uint8)
    for stage, parent in (("int8", "slim"), ("ship", "int8")):
        shutil.copy(LA / SMALL, folder / stage)
        if stage == "ship":
            write_inputs(folder / stage, frames)
            write_golden(folder / stage, "frame000", frame=frames[0], mask=np.zeros(own.size, np.uint8))
        parents = (stage_folder.identity(folder / parent),)
        sealed(folder / stage, own, stage=stage, measured=measured, parents=parents, **made)
    (folder / "recipe.json").write_text(json.dumps({"name": "la_cpu", "seed": 7, "data": {"seed": 3}}))
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty zoo in place of the package's, and the folder where a user stands."""
    monkeypatch.setattr(graphs, "TIMED", BRIEF)
    monkeypatch.setattr(zoo_paths, "HOME", tmp_path / "package" / "zoo")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return zoo_paths.HOME


def refusal(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(args)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in said
    return said.strip().splitlines()[-1]


def test_a_ship_is_packed_with_its_int8_graph_and_without_any_image_of_a_patient(
    finished: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(LA, home / "heart")
    identity = open_entry("zoo/heart").identity
    exported = shutil.copytree(finished / "ship", home.parent / "exported" / "ship")
    sealed(exported, stage_folder.read_card(exported), parents=(identity,))  # as edgemt export zoo/heart leaves it
    assert "add --overwrite" in refusal(["pack", str(exported), "heart"], capsys)
    cli.main(["pack", str(exported), "heart", "--overwrite", "--note", "new ranges"])
    assert capsys.readouterr().out.strip() == str(home / "heart")
    ship = open_package("zoo/heart")
    card, found = ship.card, ship.card.measured[SMALL]
    assert {entry.WEIGHTS, SMALL, INPUTS} <= set(card.files)
    assert (ship.folder / SMALL).read_bytes() == (LA / SMALL).read_bytes()
    assert found.dice == 0.859 and found.dice_on == {"onnxruntime": 0.861, "openvino": 0.859}
    assert found.golden_pixels > 0.95 and found.golden_agreement > 0.95
    assert {record["runtime"] for record in card.latency} == {"openvino", "onnxruntime"}
    assert card.network["zoo"]["note"] == "new ranges" and card.network["zoo"]["labels"] == "8 (labelled_8.txt)"
    assert read_inputs(ship) == read_inputs(open_package(finished / "ship"))
    frames = frames_for(card, count=16)
    pairs = golden_pairs(ship)
    assert pairs and all(any(np.array_equal(pair.frame[0], frame) for frame in frames) for pair in pairs)
    assert any(len(np.unique(pair.mask)) > 1 for pair in pairs)
    text = (ship.folder / "card.json").read_text()
    assert "P001" not in text and "somebody" not in text
    there = {path.relative_to(ship.folder).as_posix() for path in ship.folder.rglob("*") if path.is_file()}
    assert there == {*card.files, "card.json"} and entry.num_bytes(ship.folder, card) < entry.LARGEST
    assert open_entry("zoo/heart").identity == identity
    cli.main(["list", "zoo"])
    assert "atrium: 160 x 128, 5 slices; Dice 0.859 in INT8, 0.883 in float" in capsys.readouterr().out


def test_an_entry_gets_an_uncertainty_without_data_and_keeps_its_masks(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(LA, home / "atrium")
    cli.main(["export", "zoo/atrium", "--out", "ship", "--uncertainty", "softmax"])
    ship = open_package("ship")
    frames = frames_for(ship.card, count=3)
    network = network_folder.load_network(LA).eval()
    model = DeployableModel(network, normalise=ship.card.normalise, channels=ship.card.channels, uncertainty="softmax")
    with torch.inference_mode():
        wanted = model(torch.from_numpy(frames))[1].numpy().astype(int)
    found = {
        file: runner(ship, runtime=RUNTIME_OF[file], file=file).with_uncertainty(frames)
        for file in ("model.onnx", SMALL, SMALL_IR)
    }
    assert np.array_equal(found[SMALL][0], runner(LA / SMALL, runtime="onnxruntime")(frames)), "the entry's own layers"
    assert np.abs(found["model.onnx"][1] - wanted).max() <= 1
    for file in (SMALL, SMALL_IR):
        assert np.corrcoef(found[file][1].ravel(), wanted.ravel())[0, 1] > 0.9
    assert ship.card.measured[SMALL].uncertainty == {}, "how well it finds wrong pixels was not measured"
    assert "edgemt eval" in capsys.readouterr().err


def test_the_end_of_another_student_is_refused() -> None:
    graphs = [onnx.load(str(ROOT / "students" / "zoo" / name / SMALL)) for name in ("atrium", "heart")]
    with pytest.raises(ValueError, match=r"^heart: its logits are \[1, 2, \d+, \d+\], .* another student's$"):
        with_tail_of(*graphs, source="heart")


def test_graphs_beside_a_stage_count_only_when_they_were_made_from_it(finished: Path, home: Path) -> None:
    slim, ship = finished / "slim", finished / "ship"
    assert graphs.source_of(ship) == graphs.source_of(slim) == graphs.Source(slim, ship)
    other = shutil.copytree(finished, home.parent / "other")
    sealed(other / "int8", stage_folder.read_card(other / "int8"), parents=("another student",))
    assert graphs.source_of(other / "slim") == graphs.Source(other / "slim", None)
    with pytest.raises(ValueError, match="the weights of this ship are neither in .*slim nor in the zoo"):
        graphs.source_of(other / "ship")
    (other / "ship" / SMALL).write_bytes(b"else")
    with pytest.raises(ValueError, match="changed since the card was written"):
        graphs.source_of(other / "ship")


def test_what_is_too_large_or_no_entry_is_left_as_it_was(
    finished: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (shutil.copytree(LA, home / "atrium") / "card.json").read_text()
    monkeypatch.setattr(entry, "LARGEST", 4_000_000)
    said = refusal(["pack", str(finished / "slim"), "atrium", "--overwrite"], capsys)
    assert f"{SMALL} 1.8" in said and said.endswith("an entry has 4 at most; prune it further")
    assert (home / "atrium" / "card.json").read_text() == before and not list(home.glob("*.partial"))
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years")
    assert "is there already" in refusal(["pack", str(finished / "ship"), "mine", "--overwrite", "--out", "."], capsys)


def test_a_name_of_the_zoo_is_taken_wherever_a_ship_is_without_torch(tmp_path: Path) -> None:
    import nibabel

    for kind in ("images", "labels"):
        (tmp_path / "test" / kind).mkdir(parents=True)
    image, label = volume(0, (40, 32, 6))
    for kind, array in (("images", image), ("labels", (label == 1).astype(np.uint8))):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "test" / kind / "a.nii.gz")
    program = """
import contextlib, io, os
from pathlib import Path
import edgemt
from edgemt import cli  # noqa: E402

os.chdir(sys.argv[2])
def command(*words):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        cli.main(list(words))
    return said.getvalue()

ship = edgemt.open_ship("zoo/atrium")
for runtime in ("openvino", "onnxruntime"):
    made = edgemt.runner("zoo/atrium", runtime=runtime)
    assert made.file == "model.int8.onnx" and "int8" in made.precision, (made.file, made.precision)
written = [Path(line) for line in command("predict", "zoo/atrium", "test/images/a.nii.gz", "--out", "masks").split()]
assert written[0].name == "a.mask.nii.gz" and all(path.is_file() for path in written)
doctor = command("doctor", "zoo/atrium")
assert "have the hash of the card" in doctor and doctor.count("runs in int8") >= 2, doctor
assert "with int8" in doctor and "wanted" not in doctor, doctor
assert "atrium" in command("eval", "zoo/atrium", "--data.root", "test", "--json", "eval.json")
words = ["--seconds", "0.02", "--hz", "0", "--file", "int8", "--runtime", "onnxruntime"]
assert "onnxruntime" in command("bench", "zoo/atrium", *words)
assert "zoo/atrium" in command("list", "zoo")
print(json.loads(Path("eval.json").read_text())["file"])
"""
    assert run_without(program, hide=TRAINING_PACKAGES, arguments=[str(tmp_path)]).strip() == SMALL


@pytest.mark.parametrize("words", [["predict", "x.nii.gz"], ["stream"], ["bench"], ["doctor"], ["eval"]])
def test_an_unknown_name_is_one_line_with_the_nearest(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([words[0], "zoo/atriums", *words[1:]])
    said = capsys.readouterr()
    assert stopped.value.code == 2 and "nearest: atrium" in said.err + said.out


def test_a_model_of_slices_is_no_model_of_a_film(capsys: pytest.CaptureFixture[str]) -> None:
    assert "reads 5 slices of a volume at once" in refusal(["stream", "zoo/atrium"], capsys)


def test_a_folder_here_is_never_taken_for_an_entry_of_the_same_name(home: Path) -> None:
    shutil.copytree(LA, home / "heart")
    own = shutil.copytree(LA, Path("zoo/mine"))
    assert zoo_paths.located("zoo/mine") == own and zoo_paths.located(Path("zoo") / "heart") == home / "heart"
    assert zoo_paths.located("runs/zoo/heart") == Path("runs/zoo/heart")
    shutil.copytree(LA, "zoo/heart")
    with pytest.raises(
        ValueError, match="an entry of the package, and a folder here; name the folder by its full path"
    ):
        open_package("zoo/heart")
    assert open_package(Path("zoo/heart").resolve()).folder == Path("zoo/heart").resolve()


def test_every_file_of_the_package_s_zoo_travels_and_none_is_over_the_limit() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["students"]
    # The package may be installed elsewhere than in the checkout: paths are compared from "students" on.
    home = ROOT / "students"
    travels = {path.relative_to(home) for pattern in patterns for path in home.glob(pattern)}
    for name in zoo_paths.names():
        folder = zoo_paths.HOME / name
        card = open_package(f"zoo/{name}").card
        assert {Path("zoo", name, file) for file in (*card.files, "card.json")} <= travels
        assert entry.graph_file(card) is not None and entry.num_bytes(folder, card) <= entry.LARGEST


@pytest.mark.slow
def test_the_installed_package_has_a_zoo_that_works(tmp_path: Path) -> None:
    """A wheel of the checkout, unpacked elsewhere: its own entry is found and gives its golden masks."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("edgemt", "teachers", "students", "deploy"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path / "wheel")]
    subprocess.run(build, cwd=source, check=True)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    program = """
import sys
sys.path.insert(0, sys.argv[1])
import edgemt
ship = edgemt.open_ship("zoo/atrium")
made = edgemt.runner(ship, runtime="onnxruntime")
print(ship.folder, made.file)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(tmp_path / "installed")],
        capture_output=True, text=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    assert re.fullmatch(rf"{tmp_path}/installed/students/zoo/atrium {SMALL}", done.stdout.strip())
