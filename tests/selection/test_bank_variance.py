"""`edgemt select --by variance`: the disagreement of the teachers by the bank of a run, and refused banks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_flags import BRIEF

torch = pytest.importorskip("torch")

from edgemt import cli  # noqa: E402
from edgemt.artefacts import network_folder  # noqa: E402
from edgemt.artefacts.stage_folder import read_card  # noqa: E402
from edgemt.contract import Case  # noqa: E402
from edgemt.data import phantom2d  # noqa: E402
from edgemt.data.options import DataOptions  # noqa: E402
from edgemt.data.soft_labels import TeacherPrediction, mean_variance, write_bank  # noqa: E402
from edgemt.data_report import encoder_features  # noqa: E402
from edgemt.data_report.listing import list_folder  # noqa: E402
from edgemt.selection.bank_variance import bank_variance  # noqa: E402
from edgemt.selection.select import select  # noqa: E402

SIDE, MEMBERS = 32, 3
UNLABELLED = [f"f{seed}" for seed in range(3, 11)]


def mean_colour(frames: np.ndarray) -> np.ndarray:
    return frames.mean((1, 2)).astype(np.float64)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three labelled and eight unlabelled frames, two of a patient, and two that validate. Never change it."""
    root = tmp_path_factory.mktemp("frames")
    for seed in range(13):
        part = root / ("val" if seed > 10 else "train")
        image, mask = phantom2d.frame(seed, size=(SIDE, SIDE))
        for kind, array in (("images", image), ("masks", (mask > 0).astype(np.uint8))):
            (part / kind).mkdir(parents=True, exist_ok=True)
            if kind == "images" or not 3 <= seed <= 10:
                Image.fromarray(array).save(part / kind / f"f{seed}.png")
    return root


def distilled(root: Path, out: Path, *flags: str, members: int = MEMBERS) -> Path:
    cli.main([
        "distil", "kvasir_cpu", "--data.root", str(root), "--data.labelled=", "--data.mask-threshold=None", "--out",
        str(out), *BRIEF, "--data.size=32", "32", "--teacher.network=unet", "--teacher.widths=4", "4", "4", "4", "4",
        f"--teacher.members={members}", "--teacher.flips=1", "--teacher.pretrained=never", "--teacher.schedule.steps=2",
        "--teacher.schedule.warmup=1", "--teacher.schedule.labelled=2", "--teacher.schedule.validations=1",
        "--student.pretrained=never", "--student.schedule.steps=1", "--student.schedule.warmup=0",
        "--student.schedule.labelled=2", "--student.schedule.unlabelled=2", "--student.schedule.validations=1", *flags,
    ])  # fmt: skip
    return out


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with three teachers whose bank has their variance. Never change it."""
    return distilled(root, tmp_path_factory.mktemp("run") / "run", "--student.method.uncertainty=1")


def scores(root: Path, run: Path) -> dict[str, float]:
    items = [i for i in list_folder(DataOptions(root=root), classes_given=False).items if i.part == "unlabelled"]
    return dict(zip([i.name for i in items], bank_variance(items, run, root=root).tolist(), strict=True))


def test_the_score_is_the_variance_between_the_networks_of_the_teacher(root: Path, run: Path) -> None:
    card = read_card(run / "teacher")
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (card.normalise.mean, card.normalise.std))
    networks = [network_folder.load_network(run / "members" / str(k + 1)).eval() for k in range(MEMBERS)]
    found = scores(root, run)
    assert sorted(found) == sorted(UNLABELLED)
    for name, score in found.items():
        frame = np.array(Image.open(root / "train/images" / f"{name}.png"))
        image = (torch.from_numpy(frame).permute(2, 0, 1) / 255 - mean) / deviation
        with torch.inference_mode():
            each = torch.stack([network(image[None]).logits.softmax(1)[0] for network in networks]).double()
        assert score == pytest.approx(float(each.var(0, unbiased=False).sum(0).mean()), rel=0.03, abs=1e-6)


def test_uncertain_images_far_from_the_labelled_ones_come_first_and_by_patient(
    root: Path, run: Path, tmp_path: Path
) -> None:
    def chosen(budget: int, **more: int) -> list[str]:
        found = select(
            DataOptions(root=root), budget=budget, method="uncertain", extract=mean_colour, identity="colour",
            cache=tmp_path / "f.npz", bank_of=run, **more,  # type: ignore[arg-type]
        )  # fmt: skip
        assert found.by == "variance" and len(found.uncertainty) == len(found.chosen)
        known = scores(root, run)
        assert all(known[item.name] == score for item, score in zip(found.chosen, found.uncertainty, strict=True))
        return [item.name for item in found.chosen]

    features = {f"f{k}": mean_colour(np.array(Image.open(root / f"train/images/f{k}.png"))[None])[0] for k in range(11)}
    features = {name: value / np.linalg.norm(value) for name, value in features.items()}
    taken, wanted, known = ["f0", "f1", "f2"], [], scores(root, run)
    for _ in range(4):
        rest = [n for n in UNLABELLED if n not in taken]
        best = max(rest, key=lambda n: known[n] * min(np.linalg.norm(features[n] - features[t]) for t in taken))
        wanted.append(best)
        taken.append(best)
    assert chosen(4) == wanted
    assert len(chosen(99)) <= len(UNLABELLED)


def test_the_command_takes_the_variance_of_the_run_and_shows_it(
    root: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(encoder_features, "encoder", lambda name: (mean_colour, name))
    out = tmp_path / "out"
    cli.main(["select", str(root), "--budget", "3", "--model", str(run), "--by", "variance", "--out", str(out)])
    printed = capsys.readouterr().out.splitlines()
    page = (out / "selected.html").read_text()
    assert set(printed[:-1]) < set(UNLABELLED) and "method uncertain by variance between the teachers" in page
    assert page.count(", variance between the teachers 0.") == 3
    for flags in (["--by", "variance"], ["--by", "variance", "--model", str(run), "--method", "typical"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(["select", str(root), "--budget", "3", *flags, "--out", str(tmp_path / "no")])
        assert stop.value.code == 2 and "by: variance" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_the_score_of_a_volume_is_the_mean_over_its_slices(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    each = rng.dirichlet((1, 1), (2, 3, 4, 4)).transpose(0, 1, 4, 2, 3).astype(np.float32)  # [K, S, C, H, W]
    variance = each.var(0).sum(1)
    write_bank(
        tmp_path, [Case("v", "v", "v.nii.gz")], predict=lambda case: TeacherPrediction(each.mean(0), variance),
        classes=("a", "b"), size=(4, 4), key="k", variance=True, depth=lambda case: 3,
    )  # fmt: skip
    assert mean_variance(tmp_path, ["v"])[0] == pytest.approx(float(variance.mean()), rel=0.02)
    with pytest.raises(ValueError, match="holds no soft labels of w"):
        mean_variance(tmp_path, ["w"])


def refused(root: Path, run: Path) -> str:
    with pytest.raises(ValueError) as error:
        scores(root, run)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_run_without_a_bank_is_refused(root: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/bank")
    assert "has no bank" in refused(root, tmp_path / "run")
    assert "has no bank" in refused(root, tmp_path / "nothing")


def test_a_bank_of_one_teacher_is_refused(root: Path, tmp_path: Path) -> None:
    run = distilled(root, tmp_path / "run", members=1)
    assert "is of one teacher" in refused(root, run)


def test_a_bank_of_the_mean_alone_is_refused(root: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/bank/variance")
    assert "has the mean of its teachers alone" in refused(root, tmp_path / "run")


def test_overlapping_classes_have_the_variance_of_their_least_certain_class(root: Path, tmp_path: Path) -> None:
    frames = Path(shutil.copytree(root, tmp_path / "set"))
    flags = ("--data.overlapping", "--data.classes", "background", "all", "same", "--data.label-map", "all=1", "same=1")
    run = distilled(frames, tmp_path / "run", "--student.method.uncertainty=1", *flags)
    assert read_card(run / "teacher").overlapping
    found = scores(frames, run)
    assert sorted(found) == sorted(UNLABELLED)
    card = read_card(run / "teacher")
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (card.normalise.mean, card.normalise.std))
    networks = [network_folder.load_network(run / "members" / str(k + 1)).eval() for k in range(MEMBERS)]
    for name, score in found.items():
        frame = torch.from_numpy(np.array(Image.open(frames / "train/images" / f"{name}.png")))
        with torch.inference_mode():
            image = ((frame.permute(2, 0, 1) / 255 - mean) / deviation)[None]
            p = torch.stack([network(image).logits.sigmoid() for network in networks])
        assert score == pytest.approx(float(2 * p.var(0, correction=0).amax(1).mean()), rel=0.1, abs=1e-4)


def test_a_bank_of_another_teacher_is_refused(root: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    card = tmp_path / "run/teacher/card.json"
    raw = json.loads(card.read_text())
    raw["files"] = {name: "0" * 64 for name in raw["files"]}
    card.write_text(json.dumps(raw))
    assert "is not of the teacher of this run" in refused(root, tmp_path / "run")


@pytest.mark.parametrize("change", ["new", "other pixels", "other names"])
def test_a_bank_of_other_images_is_refused(root: Path, run: Path, tmp_path: Path, change: str) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "set"))
    assert scores(copy, run) == scores(root, run)  # the same images elsewhere
    images = copy / "train/images"
    if change == "new":
        Image.fromarray(phantom2d.frame(77, size=(SIDE, SIDE))[0]).save(images / "new.png")
    elif change == "other pixels":
        Image.fromarray(phantom2d.frame(77, size=(SIDE, SIDE))[0]).save(images / "f5.png")
    else:
        for name in UNLABELLED:
            (images / f"{name}.png").rename(images / f"x{name}.png")
    text = refused(copy, run)
    assert "is a bank of other images" in text and str(images) in text


def test_a_damaged_file_of_the_bank_is_refused(root: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/bank/variance/f5.safetensors").write_bytes(b"damaged")
    assert "f5.safetensors: damaged" in refused(root, tmp_path / "run")
