"""Which files `edgemt predict` takes, and how their masks are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgemt.artefacts.stage_folder import read_card
from edgemt.inference.predict_inputs import find_inputs
from edgemt.io import zoo_paths
from edgemt.model_card import ModelCard


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return read_card(zoo_paths.HOME / "polyp")


def frame(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(path)
    return path


def test_folders_of_frames_are_clips_whose_masks_keep_their_folder(card: ModelCard, tmp_path: Path) -> None:
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/0.jpg", ".hidden/0.png"):
        frame(tmp_path / name)
    (tmp_path / "list.txt").write_text("")
    found = find_inputs([tmp_path], card)
    assert list(found) == ["a/0", "a/1", "b/0.jpg", "b/0.png"]
    assert found["a/1"].path == tmp_path / "a" / "1.png"


def test_a_folder_with_images_of_its_own_is_read_without_its_folders(card: ModelCard, tmp_path: Path) -> None:
    frame(tmp_path / "0.png")
    frame(tmp_path / "masks" / "0.png")
    assert list(find_inputs([tmp_path], card)) == ["0"]


def test_a_video_is_refused_with_the_command_that_writes_its_frames(card: ModelCard, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"`edgemt import film\.mp4 --out FRAMES`"):
        find_inputs([tmp_path / "film.mp4"], card)
    with pytest.raises(ValueError, match="holds no image or volume"):
        find_inputs([tmp_path], card)
