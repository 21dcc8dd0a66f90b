"""`predict --prompt` reads its inputs as training and `predict` do, and loses no mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from edgemt.contract import Output
from edgemt.inference import interactive
from edgemt.model_card import ModelCard


class Bright(nn.Module):
    """Above half of the brightest value of a frame is the object, whatever is prompted."""

    def forward(self, image: Tensor, box: Tensor, points: Tensor, signs: Tensor, mask: Tensor) -> Output:
        grey = image.mean(1, keepdim=True)
        return Output(torch.cat([100 * (grey - 0.5)] * 2, 1))


@pytest.fixture
def bright(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the card holds of the data, to be filled in."""
    data: dict[str, object] = {}
    card = ModelCard(size=(24, 32), channels=1, classes=("background", "organ"), data=data)
    monkeypatch.setattr(interactive, "normalised", lambda image, normalise: image)
    monkeypatch.setattr(interactive, "load_predictor", lambda model: interactive.InteractivePredictor(Bright(), card))
    return data


def _mask(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_the_rule_of_depth_is_that_of_training(bright: dict[str, object], tmp_path: Path) -> None:
    values = np.linspace(0, 1000, 24 * 32).reshape(24, 32).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    for data, above in (
        ({"depth": "window", "window": [0, 1000]}, 500),
        ({"depth": "window", "window": [0, 400]}, 200),
    ):
        bright.update(data)
        (file,) = interactive.predict_prompted(
            "m", [tmp_path / "a.png"], prompts=["point=3,3"], out=tmp_path, overlay=False
        )
        assert (_mask(file) != (values > above)).mean() < 0.01


def test_inputs_of_one_name_keep_their_masks_and_a_damaged_one_ends_nothing(
    bright: dict[str, object], tmp_path: Path
) -> None:
    frame = np.zeros((24, 32), np.uint8)
    frame[3:9] = 255
    (tmp_path / "b").mkdir()
    files = [tmp_path / "a.png", tmp_path / "a.bmp", tmp_path / "b" / "a.png"]
    for k, file in enumerate(files):
        Image.fromarray(np.roll(frame, 4 * k, 0)).save(file)
    Image.new("L", (32, 24), 9).save(tmp_path / "flat.png")
    made = interactive.predict_prompted(
        "m", [tmp_path / "flat.png", *files], prompts=["point=3,3"], out=tmp_path / "out", overlay=False
    )
    written: list[Path] = []
    with pytest.raises(ValueError, match=r"flat\.png: holds one value everywhere"):
        for file in made:
            written.append(file)
    assert len(set(written)) == 3
    assert all((_mask(file) == np.roll(frame, 4 * k, 0) / 255).all() for k, file in enumerate(written))


def test_a_volume_is_seen_in_the_axis_order_of_training(
    bright: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nibabel = pytest.importorskip("nibabel")
    from nibabel import orientations

    bright.update({"depth": "stored", "axes": "RAS"})
    array = np.zeros((24, 32, 5), np.uint8)
    array[4:10, 20:28, 1:4] = 255
    image = nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 5.0, 1.0]))
    turned = image.as_reoriented(
        orientations.ornt_transform(orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt("PIR"))
    )
    nibabel.save(turned, tmp_path / "v.nii.gz")
    (file,) = interactive.predict_prompted(
        "m", [tmp_path / "v.nii.gz"], prompts=["point=22,6", "slice=2"], out=tmp_path
    )
    written = nibabel.load(file)
    assert written.shape == turned.shape and np.allclose(written.affine, turned.affine)
    found = nibabel.as_closest_canonical(written)
    assert (np.asarray(found.dataobj) == array / 255).mean() > 0.99
    assert "turned from PIR to RAS, as in training" in capsys.readouterr().err
