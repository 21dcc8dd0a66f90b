"""`edgemt eval` reads masks of another coding than those of training, and prints what it assumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgemt.contract import Case
from edgemt.data.decode import FrameSpec
from edgemt.inference.evaluate_package import _reading

FORM = FrameSpec((8, 8), 1, ("background", "polyp"), mask_threshold=128, depth="stored")
AREA = np.zeros((8, 8), np.uint8)
AREA[2:5, 3:7] = 1


def case(folder: Path, mask: np.ndarray, *, depth: type = np.uint8) -> Case:
    Image.fromarray(np.arange(64).reshape(8, 8).astype(depth)).save(folder / "a.png")
    Image.fromarray(mask).save(folder / "m.png")
    return Case("a", "a", str(folder / "a.png"), str(folder / "m.png"))


@pytest.mark.parametrize(
    ("values", "note"), [(1, "masks: 0/1, class indices; 1 files; data.mask_threshold 128"), (255, "")]
)
def test_masks_are_read_by_the_threshold_of_the_card_or_by_their_values(
    values: int, note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = case(tmp_path, AREA * np.uint8(values))
    assert (_reading(FORM, (one,)).class_indices(one) == AREA).all()
    printed = capsys.readouterr().err
    assert note in printed and bool(printed) == bool(note)


def test_masks_that_fit_neither_are_refused_by_the_threshold_of_the_card(tmp_path: Path) -> None:
    mask = AREA.copy()
    mask[7] = 255
    with pytest.raises(ValueError, match=r"m\.png: mask holds 0, 1, 255: class indices beside 255"):
        _reading(FORM, (case(tmp_path, mask),))


def test_a_deeper_image_than_those_of_training_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _reading(FORM, (case(tmp_path, AREA * np.uint8(255), depth=np.uint16),))
    assert "1 of 1 files have more than 8 bits: scaled by their own percentiles" in capsys.readouterr().err
