"""`edgemt select` on a folder: candidates, lists, cache and contact sheet, with features that need no weights."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgemt import cli
from edgemt.data.cohort import split_dataset
from edgemt.data.options import DataOptions
from edgemt.data_report import encoder_features as features_file
from edgemt.data_report.against import Teacher
from edgemt.model_card import ModelCard
from edgemt.selection.select import Selection, select, write_selection

HUES = ((200, 40, 40), (40, 200, 40), (40, 40, 200))


def picture(hue: int, seed: int) -> np.ndarray:
    """48 x 48 of one colour with a texture of its own."""
    rng = np.random.default_rng(seed)
    coarse = np.asarray(Image.fromarray(rng.integers(0, 50, (8, 8), np.uint8)).resize((48, 48)), int)
    return np.clip(np.array(HUES[hue]) + coarse[..., None], 0, 255).astype(np.uint8)


def mean_colour(frames: np.ndarray) -> np.ndarray:
    return frames.mean((1, 2)).astype(np.float64)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five training frames of each of three colours, without masks, and two validation frames with masks."""
    for hue in range(3):
        for i in range(5):
            path = tmp_path / "set" / "train" / "images" / f"h{hue}_{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(hue, 10 * hue + i)).save(path)
    for i in range(2):
        for kind, array in (("images", picture(i, 90 + i)), ("masks", np.eye(48, dtype=np.uint8))):
            path = tmp_path / "set" / "val" / kind / f"v{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return tmp_path / "set"


def chosen(root: Path, budget: int, **more: Any) -> Selection:
    given = {"method": "typical", "extract": mean_colour, "identity": "colour", "cache": root.parent / "f.npz", **more}
    return select(DataOptions(root=root), budget=budget, **given)


def add_mask(root: Path, name: str) -> None:
    path = root / "train" / "masks" / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.eye(48, dtype=np.uint8)).save(path)


def test_three_images_cover_three_colours_and_none_validates(root: Path) -> None:
    found = chosen(root, 3)
    assert sorted(item.name[:2] for item in found.chosen) == ["h0", "h1", "h2"]
    assert found.candidates == 15


def test_images_with_a_mask_count_as_labelled(root: Path) -> None:
    add_mask(root, "h1_0")
    found = chosen(root, 2)
    assert [item.name for item in found.labelled] == ["h1_0"]
    assert sorted(item.name[:2] for item in found.chosen) == ["h0", "h2"]
    assert chosen(root, 3, ignore_masks=True).labelled == ()


def test_copies_are_not_both_chosen(root: Path) -> None:
    images = root / "train" / "images"
    for path in sorted(images.iterdir()):
        if path.stem not in ("h0_0", "h1_0"):
            path.unlink()
    shutil.copy(images / "h0_0.png", images / "again.png")
    assert len(chosen(root, 3).chosen) == 2


def test_lists_are_read_by_training(root: Path, tmp_path: Path) -> None:
    add_mask(root, "h1_0")
    found = chosen(root, 2)
    written = write_selection(found, tmp_path / "out", root=root)
    names = [item.name for item in found.chosen]
    assert written[0].read_text().split() == names
    for name in names:
        add_mask(root, name)
    options = DataOptions(root=root, labelled=str(written[1]))
    assert {case.name for case in split_dataset(options).labelled} == {"h1_0", *names}


def test_features_are_computed_once(root: Path) -> None:
    calls: list[int] = []

    def counted(frames: np.ndarray) -> np.ndarray:
        calls.append(len(frames))
        return mean_colour(frames)

    first = chosen(root, 3, extract=counted)
    assert len(calls) == 15
    Image.fromarray(picture(0, 77)).save(root / "train" / "images" / "h0_9.png")
    assert len(chosen(root, 3, extract=counted).chosen) == len(first.chosen)
    assert len(calls) == 16
    chosen(root, 3, extract=counted, identity="other weights")
    assert len(calls) == 32
    (root.parent / "f.npz").write_bytes(b"damaged")
    chosen(root, 3, extract=counted)
    assert len(calls) == 48


def test_uncertain_images_of_a_model_are_preferred(root: Path) -> None:
    def predict(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        unsure = frames[..., 2].mean((1, 2)) > 150  # the blue ones
        high = np.where(unsure, 0.5, 0.99)[:, None, None] * np.ones((1, 16, 16))
        return np.zeros((len(frames), 16, 16), np.uint8), np.stack([high, 1 - high], 1)

    card = ModelCard(classes=("background", "object"), size=(16, 16), channels=3)
    found = chosen(root, 1, method="uncertain", teacher=Teacher(card, predict, "m"))
    assert found.chosen[0].name.startswith("h2")
    assert found.uncertainty[0] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="gives masks alone"):
        chosen(root, 1, method="uncertain", teacher=Teacher(card, lambda f: (f[..., 0], None), "m"))


def test_nothing_left_to_label_is_one_line(root: Path) -> None:
    for path in sorted((root / "train" / "images").iterdir()):
        add_mask(root, path.stem)
    with pytest.raises(ValueError, match="every training image has a mask"):
        chosen(root, 2)


def test_command_writes_a_sheet_without_references(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(features_file, "encoder", lambda name: (mean_colour, name))
    cli.main(["select", str(root), "--budget", "4", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out.splitlines()
    page = (tmp_path / "out" / "selected.html").read_text()
    assert printed[:-1] == (tmp_path / "out" / "selected.txt").read_text().split()
    assert len(printed) == 5
    assert page.count("data:image/jpeg;base64,") == 4
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page) and "<script" not in page
    with pytest.raises(SystemExit) as stop:
        cli.main(["select", str(root), "--budget", "0", "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
