"""Predictions are measured at the size of the label, a volume is one case."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgemt.contract import Case
from edgemt.data.layouts import DataOptions, find
from edgemt.evaluate import evaluate, prepare
from edgemt.phantom import CLASSES


def _bright(frames: np.ndarray) -> np.ndarray:
    return (frames[..., 0] > 128).astype(np.uint8)


def _image(tmp_path: Path, name: str, mask: np.ndarray, *, said: np.ndarray | None = None) -> Case:
    Image.fromarray((mask if said is None else said) * np.uint8(255)).save(tmp_path / f"{name}.png")
    Image.fromarray(mask).save(tmp_path / f"{name}_mask.png")
    return Case(name, name, str(tmp_path / f"{name}.png"), str(tmp_path / f"{name}_mask.png"))


def _half(shape: tuple[int, int], *, rows: int) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[:rows] = 1
    return mask


def test_masks_go_back_to_the_size_of_the_label(tmp_path: Path) -> None:
    cases = [
        _image(tmp_path, "tall", _half((60, 20), rows=30)),
        _image(tmp_path, "wide", _half((24, 80), rows=12)),
    ]
    ready = prepare(cases, size=(16, 16), channels=1, classes=("background", "x"))
    assert ready.frames.shape == (2, 16, 16, 1) and [t.shape for t in ready.truths] == [(60, 20), (24, 80)]
    scores = evaluate(_bright, ready, distances=True)
    assert scores.dice > 0.97 and len(scores.cases) == 2 and scores.cases[0]["name"] == "tall"
    assert scores.per_class["x"]["hd95"] <= 2 and scores.unit == "px"


def test_the_slices_of_a_volume_are_scored_as_one_case(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    truth = np.zeros((16, 16, 2), np.uint8)
    truth[:2, :, 0], truth[:12, :, 1] = 1, 1
    image = truth * 255
    image[..., 0] = 0  # the small slice is missed
    for name, array in (("v", image), ("v_label", truth)):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii.gz")
    paths = str(tmp_path / "v.nii.gz"), str(tmp_path / "v_label.nii.gz")
    cases = [Case(f"v/{k:03d}", "v", *paths, k) for k in range(2)]
    scores = evaluate(_bright, prepare(cases, size=(16, 16), channels=1, classes=("background", "x")))
    assert len(scores.cases) == 1 and scores.cases[0]["name"] == "v"
    assert scores.dice == pytest.approx(2 * 12 / (12 + 14))  # by slice it would be 0.5


def test_a_prepared_set_is_read_once(tmp_path: Path) -> None:
    case = _image(tmp_path, "a", _half((16, 16), rows=8))
    ready = prepare([case], size=(16, 16), channels=1, classes=("background", "x"))
    Path(case.image).unlink()
    assert evaluate(_bright, ready, dice_only=True).dice == 1


def test_batches_do_not_change_the_scores_and_are_no_larger_than_asked() -> None:
    options = DataOptions(layout="phantom", classes=CLASSES, size=(32, 32), phantom=(1, 0, 7))
    ready = prepare(find(options).val, size=(32, 32), channels=3, classes=CLASSES)
    sizes: list[int] = []

    def guess(frames: np.ndarray) -> np.ndarray:
        sizes.append(len(frames))
        return (frames[..., 0] // 64).astype(np.uint8)

    told: list[tuple[int, int]] = []
    one = evaluate(guess, ready, batch=1)
    assert set(sizes) == {1}
    sizes.clear()
    assert evaluate(guess, ready, batch=4, progress=lambda *at: told.append(at)).to_json() == one.to_json()
    assert sizes == [4, 3] and told == [(4, 7), (7, 7)]


def test_a_prediction_of_the_wrong_shape_or_class_is_refused(tmp_path: Path) -> None:
    case = _image(tmp_path, "a", _half((16, 16), rows=8))
    ready = prepare([case], size=(16, 16), channels=1, classes=("background", "x"))
    with pytest.raises(ValueError, match="prediction has shape"):
        evaluate(lambda frames: np.zeros((1, 4, 4), np.uint8), ready)
    with pytest.raises(ValueError, match="value above 1"):
        evaluate(lambda frames: np.full((1, 16, 16), 5, np.uint8), ready)
    with pytest.raises(ValueError, match="list of cases is empty"):
        prepare([], size=(16, 16), channels=1, classes=("background", "x"))


def test_measuring_needs_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None; sys.modules['torchvision'] = None\n"
        "import numpy as np\n"
        "from edgemt.data import DataOptions, find\n"
        "from edgemt.evaluate import evaluate, prepare\n"
        "o = DataOptions(layout='phantom', classes=tuple('abcd'), size=(32, 32), phantom=(1, 0, 2))\n"
        "e = prepare(find(o).val, size=o.size, channels=o.channels, classes=o.classes)\n"
        "print(evaluate(lambda f: np.ones(f.shape[:3], np.uint8), e, distances=True).dice)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) < 1
