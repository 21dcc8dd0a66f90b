"""Corruptions: stronger with severity, the same for the same seed and case, and never another shape, type or range."""

from __future__ import annotations

import re

import numpy as np
import pytest

pytest.importorskip("cv2")

from edgemt.data import corruptions  # noqa: E402
from edgemt.data.corruptions import (  # noqa: E402
    BY_MODALITY,
    CORRUPTIONS,
    SEVERITIES,
    check_severities,
    corrupt,
    corrupt_unit,
    corrupt_volume,
    corruption_names,
    hidden_pixels,
    modality_of,
)

GREY = [name for name, kind in CORRUPTIONS.items() if not kind.colour]


def picture(height: int = 72, width: int = 96) -> np.ndarray:
    """A uint8 RGB frame with a smooth background, an organ with an edge, some texture, and black corners."""
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width] / height
    shade = 90 + 60 * np.sin(3 * rows) * np.cos(2 * columns) + 50 * (np.hypot(rows - 0.5, columns - 0.6) < 0.3)
    frame = shade[..., None] * [1.0, 0.7, 0.6] + draw.normal(0, 6, (height, width, 3))
    return np.clip(frame * (rows + columns > 0.25)[..., None], 0, 255).astype(np.uint8)


def change(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.abs(after.astype(float) - before.astype(float)).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_frame_changes_more_with_every_severity(name: str) -> None:
    frame = picture()
    before = frame.copy()
    changes = []
    for severity in SEVERITIES:
        after = corrupt(frame, name, severity, case="a")
        assert after.shape == frame.shape and after.dtype == np.uint8
        changes.append(change(frame, after))
    assert changes[0] > 0 and all(b > a for a, b in zip(changes, changes[1:], strict=False)), changes
    assert np.array_equal(frame, before), "the given frame was changed"


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_a_function_of_seed_case_and_severity(name: str) -> None:
    frame = picture()
    once = corrupt(frame, name, 3, seed=1, case="a")
    assert np.array_equal(once, corrupt(frame, name, 3, seed=1, case="a"))
    if name not in ("defocus", "jpeg", "overexposure"):  # these draw nothing
        assert not np.array_equal(once, corrupt(frame, name, 3, seed=1, case="b"))
        assert not np.array_equal(once, corrupt(frame, name, 3, seed=2, case="a"))


@pytest.mark.parametrize("name", GREY)
def test_a_float_slice_and_a_volume_keep_type_shape_and_range(name: str) -> None:
    volume = np.stack([picture()[..., k].astype(np.float32) * 7 - 300 for k in range(3)])
    one = corrupt(volume[0], name, 4, case="a")
    many = corrupt_volume(volume, name, 4, case="a")
    for given, found in ((volume[0], one), (volume, many)):
        assert found.shape == given.shape and found.dtype == np.float32
        assert found.min() >= given.min() - 1e-3 and found.max() <= given.max() + 1e-3 and change(given, found) > 0
    deep = corrupt((volume[0] + 300).astype(np.uint16), name, 4, case="a")
    assert deep.dtype == np.uint16 and change(deep, volume[0] + 300) > 0


def test_slices_of_a_volume_share_the_field_and_not_the_noise() -> None:
    flat = np.full((2, 40, 40), 0.4, np.float32)
    field, grain = (corrupt_unit(np.moveaxis(flat, 0, -1), name, 3, slices=True) for name in ("bias_field", "noise"))
    assert np.array_equal(field[..., 0], field[..., 1])
    assert not np.array_equal(grain[..., 0], grain[..., 1])


def test_the_mask_of_the_endoscope_stays_black_under_smoke() -> None:
    frame = picture()
    smoky = corrupt(frame, "smoke", 5)
    assert smoky[2, 2].max() < 3 < smoky[40, 60].min()


def test_blood_is_red_and_a_ghost_is_a_shifted_copy() -> None:
    frame = np.full((64, 64, 3), 160, np.uint8)
    bloody = corrupt(frame, "blood", 5).astype(int)
    covered = bloody[..., 1] < 60
    assert 0.3 < covered.mean() < 0.55 and (bloody[covered, 0] > 1.5 * bloody[covered, 1]).all()
    square = np.zeros((60, 60), np.float32)
    square[24:36, 24:36] = 1
    ghosts = corrupt(square, "ghosting", 5, case=3)
    outside = np.ones_like(square, bool)
    outside[24:36, 24:36] = False
    assert 0.1 < ghosts[outside].max() < 0.6


def test_hidden_pixels_are_those_that_the_rim_makes_black() -> None:
    frame = np.full((50, 60, 3), 200, np.uint8)
    hidden = hidden_pixels((50, 60), "black_rim", 4, seed=3, case="a")
    assert hidden is not None and 0.2 < hidden.mean() < 0.7
    assert np.array_equal(corrupt(frame, "black_rim", 4, seed=3, case="a")[..., 0] < 100, hidden)
    assert hidden_pixels((50, 60), "smoke", 4) is None


def test_names_of_kinds_modalities_and_all_are_resolved_once() -> None:
    assert corruption_names((), modality="mri", colour=False) == BY_MODALITY["mri"]
    assert corruption_names(("noise", "ct"), modality="mri", colour=False) == ("noise", "defocus", "jpeg")
    assert corruption_names(("all",), modality="mri", colour=True) == tuple(CORRUPTIONS)
    assert corruption_names(("all",), modality="mri", colour=False) == tuple(GREY)
    assert modality_of("ct", colour=True, volumes=False, window=False)[0] == "ct"
    for colour, volumes, window, want in (
        (True, False, False, "endoscopy"),
        (False, True, False, "mri"),
        (False, True, True, "ct"),
        (False, False, False, "ultrasound"),
    ):
        assert modality_of("", colour=colour, volumes=volumes, window=window)[0] == want


def test_wrong_values_are_one_line_that_names_them() -> None:
    frame = picture()
    for severity in (0, 6, True, 2.5):
        with pytest.raises(ValueError, match="none of 1 to 5"):
            corrupt(frame, "smoke", severity)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="none is given"):
        check_severities(())
    assert check_severities((3, 1, 3)) == (1, 3)
    for call, words in (
        (lambda: corrupt(frame, "smok", 1), "nearest: smoke"),
        (lambda: corruption_names(("fog",), modality="mri", colour=True), "unknown corruption 'fog'"),
        (lambda: corrupt(frame[..., 0], "blood", 1), "'blood': needs RGB frames"),
        (lambda: corrupt(frame[..., :2], "noise", 1), r"\(72, 96, 2\)"),
        (lambda: corrupt(frame > 3, "noise", 1), "bool"),
        (lambda: corrupt(np.full((8, 8), np.nan), "noise", 1), "not finite"),
        (lambda: corrupt_volume(frame[..., 0], "noise", 1), "needs slices"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            call()
        assert "\n" not in str(error.value)


def test_every_docstring_gives_the_parameter_at_each_severity() -> None:
    assert set(CORRUPTIONS) >= {name for names in BY_MODALITY.values() for name in names}
    for kind in CORRUPTIONS.values():
        listed = re.findall(r"severities 1 to 5: (.*)\.$", kind.formula.__doc__ or "", re.MULTILINE)
        assert [tuple(float(v) for v in row.split(", ")) for row in listed] == [kind.levels], kind.formula
    assert corruptions.SEVERITIES == (1, 2, 3, 4, 5)
