"""`edgemt data --outliers`: images that are unlike all others by their features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgemt import cli
from edgemt.data_report import encoder_features, outliers
from edgemt.data_report.outliers import neighbour_distances


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_distances_are_those_of_the_formula_and_leave_the_own_patient_out(monkeypatch: pytest.MonkeyPatch) -> None:
    features = unit(np.random.default_rng(0).normal(size=(40, 8)))
    patients = [f"p{k % 9}" for k in range(40)]
    expected = []
    for f, patient in zip(features, patients, strict=True):
        cosines = sorted((float(f @ g) for g, other in zip(features, patients, strict=True) if other != patient))
        expected.append(1 - cosines[-5])
    assert neighbour_distances(features, patients) == pytest.approx(np.array(expected), abs=1e-6)
    monkeypatch.setattr(outliers, "_ROWS", 7)
    assert neighbour_distances(features, patients) == pytest.approx(np.array(expected), abs=1e-6)


def test_a_group_of_fewer_than_the_kth_is_far_from_all_others() -> None:
    draw = np.random.default_rng(0)
    usual, group = draw.normal((1, 0, 0, 0), 0.05, (300, 4)), draw.normal((0, 1, 0, 0), 0.05, (8, 4))
    distances = neighbour_distances(unit(np.concatenate([usual, group])), [str(k) for k in range(308)])
    assert distances[300:].min() > 10 * distances[:300].max()


def test_without_enough_other_patients_nothing_is_known() -> None:
    features = unit(np.random.default_rng(0).normal(size=(30, 4)))
    assert np.isnan(neighbour_distances(features, ["one"] * 30)).all()
    assert np.isnan(neighbour_distances(features[:4], list("abcd"))).all()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Forty frames of nearly one colour, and a clip of twelve frames of another one."""
    draw = np.random.default_rng(0)
    for number in range(52):
        colour = np.array((200, 90, 80) if number < 40 else (20, 30, 200))
        picture = np.clip(draw.normal(colour + draw.normal(0, 6, 3), 3, (32, 32, 3)), 0, 255).astype(np.uint8)
        name = f"frame{number:02d}.png" if number < 40 else f"other_slice{number:02d}.png"
        for kind, array in (("images", picture), ("masks", np.full((32, 32), 0, np.uint8))):
            if kind == "masks":
                array[8:20, 8:20] = 255
            path = tmp_path / "set" / "train" / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return tmp_path / "set"


def test_a_clip_of_another_kind_is_listed_frame_by_frame(root: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(encoder_features, "encoder", lambda: (lambda frames: frames.mean((1, 2)), "mean colour"))
    cli.main(["data", str(root), "--outliers", "--out", str(tmp_path / "out")])
    record = json.loads((tmp_path / "out" / "data.json").read_text())
    found = next(f for f in record["findings"] if f["kind"] == "unlike_the_others")
    assert found["count"] == 12 and all("other_slice" in f["file"] for f in found["files"])
    assert "12 images are unlike all others" in capsys.readouterr().out
    assert (tmp_path / "out" / "features.npz").is_file()
    cli.main(["data", str(root), "--out", str(tmp_path / "plain")])
    record = json.loads((tmp_path / "plain" / "data.json").read_text())
    assert all(f["kind"] != "unlike_the_others" for f in record["findings"])
