"""The zoo: a packed student is the same student, starts another one, ships at once, and is refused if touched."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT
from PIL import Image
from safetensors.torch import load_file
from tiny_flags import TINY

from deploy.package.golden import golden_pairs
from deploy.package.package import open_package
from deploy.pruning import prune
from deploy.runtimes.load import runner
from edgemt import cli, recipes
from edgemt.artefacts import network_folder, stage_folder
from edgemt.data.options import DataOptions
from edgemt.data.phantom2d import CLASSES
from edgemt.io import zoo_paths
from edgemt.io.atomic import sha256
from edgemt.model_card import FileMetrics, ModelCard, Normalisation
from edgemt.pipeline import zoo_graphs as graphs
from edgemt.pipeline.pack_student import pack
from edgemt.zoo import entry as shelf
from edgemt.zoo.entry import open_entry
from edgemt.zoo.synthetic_frames import frames_for, masks_of
from edgemt.zoo.warm_start import compose_plans, describe_warm_start, load_warm_start, warm_start_spec

BRIEF = replace(graphs.TIMED, warmup=1, warmup_seconds=0, iterations=2, seconds=0.01, rounds=1)
NAME, SIZE = "test_efficientnet", (64, 64)
LEARNER = [f"--student.network={NAME}", "--student.schedule.steps=2", "--teacher.schedule.steps=2"]


def network_of(channels: int = 3, classes: int = len(CLASSES), **options: object) -> dict:
    given = {"room": "students", "name": NAME, "channels": channels, "classes": classes, "heads": []}
    return {**given, "options": {"pretrained": "never", **options}, "plan": None}


def stage_of(run: Path, *, channels: int = 3, macs: float = 0.3, **fields: object) -> Path:
    """A finished slim stage as a run leaves it: a pruned student of random weights that names every class."""
    torch.manual_seed(0)
    described = network_of(channels)
    student = network_folder.build_network(described).eval()
    if macs:
        options = prune.PruneOptions(share=macs, importance="magnitude", steps=1)
        described["plan"] = prune.prune(student, example=torch.zeros(1, channels, *SIZE), options=options).to_dict()
    data = DataOptions(root=Path("/home/somebody/heart"), layout="phantom", classes=CLASSES, size=SIZE)
    card = ModelCard(
        stage="slim",
        name="made_up",
        classes=CLASSES,
        size=SIZE,
        channels=channels,
        channel_order="RGB" if channels == 3 else "grey",
        normalise=Normalisation(mean=(0.4,), std=(0.2,)),
        network=described,
        data={**data.to_dict(), "unlabelled": "/mnt/disk/more"},
        measured={
            stage_folder.WEIGHTS: FileMetrics(dice=0.75, per_class={"organ": {"dice": 0.75}}, cases=({"name": "P1"},))
        },
        recipe_hash="key",
    )
    with torch.no_grad():
        frames = torch.from_numpy(frames_for(card)[:2]).permute(0, 3, 1, 2) / 255
        student.head.bias -= student((frames - 0.4) / 0.2).logits.mean((0, 2, 3))
        for tensor in student.state_dict().values():
            tensor.copy_(tensor.half())
    folder = run / "slim"
    folder.mkdir(parents=True)
    network_folder.save_network(folder, student, replace(card, **fields))
    (run / "recipe.json").write_text(json.dumps({"name": "made_up", "seed": 7, "data": {"seed": 3, "root": "/home/x"}}))
    return folder


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stage_of(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def home(stage: Path) -> Path:
    """A zoo with one entry, `small`."""
    folder = stage.parent / "zoo"
    folder.mkdir()
    shutil.copy(ROOT / "students" / "zoo" / "README.md", folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(graphs, "TIMED", BRIEF)
        pack(stage, "small", into=folder, note="a test's own")
    return folder


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(zoo_paths, "HOME", home)
    monkeypatch.setattr(graphs, "TIMED", BRIEF)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    return shutil.copytree(home / "small", tmp_path / "copy")


def refusal(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(args)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in said
    return said.strip().splitlines()[-1]


def test_an_entry_is_the_same_student_in_half_precision(stage: Path, home: Path) -> None:
    packed, kept = load_file(home / "small" / shelf.WEIGHTS), load_file(stage / stage_folder.WEIGHTS)
    assert set(packed) == set(kept)
    assert {t.dtype for t in packed.values()} == {torch.float16, torch.int64}
    card = shelf.read_card(home / "small")
    frames = frames_for(card)
    before, after = (masks_of(network_folder.load_network(folder), card, frames) for folder in (stage, home / "small"))
    assert (before == after).mean() >= 0.999 and len(np.unique(after)) > 1


def test_a_card_says_what_was_measured_and_from_what_and_nothing_of_the_machine(home: Path) -> None:
    entry = open_entry("zoo/small")
    assert entry.measured.dice == 0.75 and not entry.measured.cases
    assert entry.facts["seeds"] == {"training": 7, "split": 3} and entry.facts["labels"] == "12 synthetic"
    assert entry.facts["terms"] == shelf.TERMS and entry.facts["note"] == "a test's own"
    assert entry.card.data["root"] is None and entry.card.data["unlabelled"] == "more"
    text = (home / "small" / shelf.CARD).read_text()
    assert "somebody" not in text and "/mnt" not in text and "/home" not in text
    assert entry.card.network["plan"]["tensors"], "the pruning plan travels"


def test_what_half_precision_would_change_is_not_packed(stage: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(stage, tmp_path / "run" / "slim")
    student = network_folder.load_network(folder)
    with torch.no_grad():
        student.head.weight.zero_()
        student.head.bias.copy_(torch.linspace(1, 1 + 1e-4, len(student.head.bias)))
    network_folder.save_network(folder, student, stage_folder.read_card(folder))
    with pytest.raises(ValueError, match="float16 student on random frames"):
        pack(folder, "tie", into=tmp_path / "zoo")
    with torch.no_grad():
        student.head.bias.fill_(1e6)
    network_folder.save_network(folder, student, stage_folder.read_card(folder))
    with pytest.raises(ValueError, match="too large for float16"):
        pack(folder, "huge", into=tmp_path / "zoo")
    assert not list((tmp_path / "zoo").glob("*"))


def test_only_a_finished_stage_of_a_student_small_enough_is_packed_and_only_once(
    stage: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="is there already"):
        pack(stage, "small", into=home)
    with pytest.raises(ValueError, match="names no entry"):
        pack(stage, "../small", into=home)
    with pytest.raises(ValueError, match="holds no card.json"):
        pack(tmp_path, "nothing", into=home)
    other = shutil.copytree(stage, tmp_path / "slim")
    (other / "card.json").write_text(replace(stage_folder.read_card(stage), measured={}).to_json())
    with pytest.raises(ValueError, match="not measured"):
        pack(other, "blind", into=home)
    monkeypatch.setattr(shelf, "LARGEST", 300_000)
    with pytest.raises(ValueError, match="an entry has 0.3 at most; prune it further"):
        pack(stage, "large", into=home)
    assert shelf.names() == ["small"] and not list(home.glob("*.partial"))


def test_an_unknown_name_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown zoo entry 'smal'; nearest: small"):
        open_entry("zoo/smal")
    with pytest.raises(ValueError, match="no such folder; write zoo/NAME"):
        open_entry(tmp_path / "nowhere")


def test_touched_weights_are_refused(copy: Path) -> None:
    weights = copy / shelf.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(ValueError, match="changed since the card was written"):
        open_entry(copy)
    weights.rename(copy / "weights.pt")
    with pytest.raises(ValueError, match="safetensors alone"):
        open_entry(copy)


@pytest.mark.parametrize("cut", ["half of the text", "network", "plan", "zoo", "measured", "files", "classes", "size"])
def test_a_truncated_card_is_refused_in_one_line(cut: str, copy: Path) -> None:
    file = copy / shelf.CARD
    raw = json.loads(file.read_text())
    for place in (raw, raw["network"]):
        place.pop(cut, None)
    file.write_text(file.read_text()[:900] if cut == "half of the text" else json.dumps(raw))
    with pytest.raises(ValueError) as refused:
        open_entry(copy)
    assert str(copy) in str(refused.value) and "\n" not in str(refused.value)


def test_a_card_cannot_make_timm_open_a_file(copy: Path) -> None:
    file = copy / shelf.CARD
    raw = json.loads(file.read_text())
    raw["network"]["options"]["checkpoint_path"] = "evil.pt"
    file.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match="network.options"):
        open_entry(copy)


def test_a_student_starts_from_an_entry_pruned_as_it_was_with_every_weight() -> None:
    network = warm_start_spec("zoo/small", network_of())
    initial = load_warm_start("zoo/small", network).state_dict()
    learned = network_folder.load_network(open_entry("zoo/small").folder).state_dict()
    assert all(torch.equal(initial[name], learned[name]) for name in learned)
    assert network["begun"]["terms"] == shelf.TERMS


def test_other_classes_keep_everything_but_the_head() -> None:
    network = warm_start_spec("zoo/small", network_of(classes=6))
    student = load_warm_start("zoo/small", network)
    learned = network_folder.load_network(open_entry("zoo/small").folder).state_dict()
    differ = {
        name for name, t in student.state_dict().items() if t.shape != learned[name].shape or (t != learned[name]).any()
    }
    assert differ == {"head.weight", "head.bias"}
    assert student.eval()(torch.zeros(1, 3, *SIZE)).logits.shape == (1, 6, *SIZE)
    assert describe_warm_start("zoo/small", network).endswith(
        f"its head starts anew: 6 classes instead of {len(CLASSES)}"
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--student.network=mobilenetv3_small"], f"{NAME} with decoder dense, the recipe's student is mobilenetv3_s"),
        ([f"--student.network={NAME}", "--student.decoder=dense2"], "with decoder dense2; set --student.decoder dense"),
        ([f"--student.network={NAME}", "--data.channels=1"], "3 input channels, the recipe's frames have 1"),
    ],
)
def test_a_student_that_an_entry_does_not_fit_is_refused_before_anything_is_trained(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["run", "phantom", "--out", "run", "--student.weights=zoo/small", *flags]
    assert said in refusal(args, capsys) and not Path("run").exists()


def test_a_head_that_a_pruned_entry_has_no_place_for_is_refused() -> None:
    with pytest.raises(ValueError, match="was pruned without the head 'decoder2'"):
        warm_start_spec("zoo/small", {**network_of(), "heads": ["features", "decoder2"]})


def test_stage_fingerprint_uses_content_of_initial_weights(
    copy: Path, stage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def distil(weights: str) -> str:
        cli.main(["distil", "phantom", "--out", "run", *TINY, *LEARNER, f"--student.weights={weights}"])
        return capsys.readouterr().err

    assert "starts from zoo/small, pruned as it was" in distil("zoo/small")
    assert stage_folder.read_card(Path("run/student")).network["plan"]
    assert "student: stands" in distil(str(copy))
    student = network_folder.load_network(copy)
    student.head.bias.data += 1
    network_folder.save_network(copy, student.half(), shelf.read_card(copy))
    assert "student: stands" not in distil(str(copy))


def test_without_first_weights_a_key_is_what_it_was_before_there_was_a_zoo() -> None:
    from edgemt.pipeline.network_spec import spec_for_fingerprint

    student = recipes.load("phantom").student
    assert set(spec_for_fingerprint(student)) == {
        "is",
        "network",
        "decoder",
        "pretrained",
        "first_conv",
        "method",
        "schedule",
    }


def test_a_pruned_entry_can_be_pruned_further_and_built_again() -> None:
    network = warm_start_spec("zoo/small", network_of())
    student = load_warm_start("zoo/small", network).eval()
    options = prune.PruneOptions(share=0.2, importance="magnitude", steps=1)
    plan = prune.prune(student, example=torch.zeros(1, 3, *SIZE), options=options)
    both = compose_plans(network["plan"], plan.to_dict())
    again = network_folder.build_network({**network, "plan": both})
    again.load_state_dict(student.state_dict())
    assert both["macs"] == [network["plan"]["macs"][0], plan.macs[1]]


def test_the_slim_stage_takes_a_student_that_was_pruned_before() -> None:
    few = [*TINY, *LEARNER, "--slim.schedule.steps=2", "--student.weights=zoo/small"]
    for share in (0.0, 0.2):
        cli.main(["prune", "phantom", "--out", "run", *few, f"--slim.prune.share={share}"])
        before, after = (stage_folder.read_card(Path("run") / s) for s in ("student", "slim"))
        assert after.macs < before.macs if share else after.macs == before.macs
        network_folder.load_network(Path("run/slim"))


def test_zoo_export_uses_synthetic_golden_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["export", "zoo/small", "--out", "ship"])
    said = capsys.readouterr()
    assert said.out.strip() == str(tmp_path / "ship") and "no INT8" in said.err
    ship = open_package("ship")
    assert {"model.onnx", "openvino/model.xml", "openvino/model.bin"} <= set(ship.card.files)
    assert all(ship.card.measured[file].dice == 0.75 for file in ("model.onnx", "openvino/model.xml"))
    frames = frames_for(ship.card, count=16)
    pairs = golden_pairs(ship)
    assert pairs and all(any(np.array_equal(pair.frame[0], frame) for frame in frames) for pair in pairs)
    before = sha256("ship/card.json")
    cli.main(["export", "zoo/small", "--out", "ship"])
    assert sha256("ship/card.json") == before, "the same command again makes nothing anew"
    cli.main(["doctor", "ship"])
    assert "agree on" in capsys.readouterr().out
    Image.fromarray(frames_for(ship.card)[0]).save("frame.png")
    cli.main(["predict", "ship", "frame.png", "--no-overlay"])
    assert Path(capsys.readouterr().out.strip()).exists()


@pytest.mark.slow
def test_with_data_an_entry_ships_int8_that_was_judged_on_it(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data.layout=phantom", "--data.phantom", "4", "8", "4", "--int8.images=8", "--tolerance=1"]
    cli.main(["export", "zoo/small", "--out", "ship", *flags])
    card = open_package("ship").card
    assert card.measured["model.int8.onnx"].drop is not None and "no INT8" not in capsys.readouterr().err
    metrics = card.measured["openvino/model.int8.xml"]
    assert metrics.golden_pixels is not None and metrics.dice is not None


def test_exporting_never_replaces_a_folder_that_is_no_ship(
    stage: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years")
    assert "holds something else than a ship" in refusal(["export", "zoo/small", "--out", "mine"], capsys)
    assert "edgemt pack" in refusal(["export", str(stage), "--out", "ship"], capsys)
    assert "--serve" in refusal(["export", "zoo/small", "--serve", "triton"], capsys)
    assert "fixed" in refusal(["export", "zoo/small", "--data.layout=phantom", "--data.channels=1"], capsys)


@pytest.mark.parametrize(
    ("flags", "remedy"),
    [
        (["--data.channels=1"], "add --data.root DIR"),
        (["--int8.images=8", "--uncertainty=softmax"], "add --data.root DIR"),
        (["--student.schedule.steps=2", "--slim.prune.share=0.3"], "leave the flags of slim, student away"),
        (["--data.layout=phantom", "--int8.images=8", "--int8.float-layers=2"], "only int8.images counts"),
        (["--data.layout=phantom", "--data.calibration-share=0.5"], "edgemt calibrate fits margins"),
        (["--data.layout=phantom", "--data.root=x"], "data.root: has no effect here"),
    ],
)
def test_flags_that_would_change_nothing_of_an_entry_are_refused(
    flags: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert remedy in refusal(["export", "zoo/small", "--out", "ship", *flags], capsys)
    assert not Path("ship").exists()


def test_a_network_of_neighbouring_slices_gets_synthetic_slices(home: Path) -> None:
    card = replace(shelf.read_card(home / "small"), channels=5, channel_order="slices")
    frames = frames_for(card, count=6)
    assert frames.shape == (6, *SIZE, 5) and frames.dtype == np.uint8
    assert not np.array_equal(frames[..., 0], frames[..., 4])
    assert np.array_equal(frames, frames_for(card, count=6))


def test_the_packages_own_table_is_what_the_cards_say_and_packing_renews_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo_paths, "HOME", ROOT / "students" / "zoo")
    text = (zoo_paths.HOME / "README.md").read_text(encoding="utf-8")
    assert shelf.with_table(text) == text, "write it anew: shelf.with_table"
    for name in shelf.names():
        assert open_entry(f"zoo/{name}").measured.dice > 0
    assert "| `zoo/small` |" in (home / "README.md").read_text(encoding="utf-8")
    assert "| `zoo/small` |" not in text


def test_the_list_shows_what_an_entry_finds_and_how_well(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["list", "zoo"])
    said = capsys.readouterr().out
    assert (
        said.startswith("zoo/small") and NAME in said and "64 x 64, RGB; Dice 0.750 in float, runs in float16" in said
    )
    assert "labels: 12 synthetic" in said and shelf.TERMS in said


def test_an_entry_without_int8_streams_a_film_in_half_precision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        video = container.add_stream("mpeg4", rate=20)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        for frame in frames_for(shelf.read_card(zoo_paths.HOME / "small"), count=6):
            wide = np.ascontiguousarray(np.pad(frame, ((0, 0), (16, 16), (0, 0))))
            container.mux(video.encode(av.VideoFrame.from_ndarray(wide)))
        container.mux(video.encode(None))
    cli.main(["stream", "zoo/small", "--source", "film.mp4", "--output", "page", "lines", "--json", "record.json"])
    said = capsys.readouterr()
    record = json.loads(Path("record.json").read_text())
    assert record["frames"] == 6 and record["masks"] >= 1
    assert "model.fp16.onnx" in said.err and "http://127.0.0.1" in said.out + said.err


def test_the_graph_of_an_entry_gives_the_masks_of_its_weights_and_is_checked_whole(copy: Path) -> None:
    ship = open_package("zoo/small")
    assert ship.folder == zoo_paths.HOME / "small" and set(ship.card.files) > {shelf.WEIGHTS, "model.fp16.onnx"}
    frames = frames_for(ship.card)
    wanted = masks_of(network_folder.load_network(ship.folder), ship.card, frames)
    for runtime in graphs.CHECKED:
        assert (runner("zoo/small", runtime=runtime)(frames) == wanted).mean() > 0.97  # bf16, random weights
    (copy / "model.fp16.onnx").write_bytes(b"else")
    with pytest.raises(ValueError, match=r"model\.fp16\.onnx: changed since the card was written"):
        open_package(copy)
    open_entry(copy)  # weights alone are read to train on


def test_a_card_cannot_bring_files_that_no_entry_has(copy: Path) -> None:
    file = copy / shelf.CARD
    raw = json.loads(file.read_text())
    file.write_text(json.dumps({**raw, "files": {**raw["files"], "golden/patient.png": "0" * 64}}))
    with pytest.raises(ValueError, match="its files is cut short or makes no sense"):
        open_entry(copy)
