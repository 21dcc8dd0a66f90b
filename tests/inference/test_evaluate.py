"""Predictions are measured at the size of the label, a volume is one case."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgemt.contract import Case
from edgemt.data import phantom3d
from edgemt.data.cohort import split_dataset
from edgemt.data.options import DataOptions
from edgemt.data.phantom2d import CLASSES
from edgemt.inference.evaluate import EvalSet, evaluate, predict_masks, prepare, score
from edgemt.metrics.postprocess import largest_component, through_plane


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


def _volume(
    tmp_path: Path, name: str, image: np.ndarray, label: np.ndarray, *, spacing_mm: tuple[float, ...] = (1, 1, 1)
) -> list[Case]:
    """[X, Y, Z] each -> the slices as cases."""
    nibabel = pytest.importorskip("nibabel")
    affine = np.diag([*spacing_mm, 1.0])
    for part, array in ((name, image), (f"{name}_label", label)):
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / f"{part}.nii.gz")
    paths = str(tmp_path / f"{name}.nii.gz"), str(tmp_path / f"{name}_label.nii.gz")
    return [Case(f"{name}/{k:03d}", name, *paths, k) for k in range(image.shape[-1])]


def test_the_slices_of_a_volume_are_scored_as_one_case(tmp_path: Path) -> None:
    truth = np.zeros((16, 16, 2), np.uint8)
    truth[:2, :, 0], truth[:12, :, 1] = 1, 1
    image = truth * 255
    image[..., 0] = 0  # the small slice is missed
    image[15, 15, 0] = 7  # no plain field
    cases = _volume(tmp_path, "v", image, truth)
    scores = evaluate(_bright, prepare(cases, size=(16, 16), channels=1, classes=("background", "x")))
    assert len(scores.cases) == 1 and scores.cases[0]["name"] == "v"
    assert scores.dice == pytest.approx(2 * 12 / (12 + 14))  # by slice it would be 0.5


def _box(shape: tuple[int, ...], *spans: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(*span) for span in spans)] = 1
    return mask


def _set(*truths: np.ndarray, spacing_mm: tuple[float, ...] | None = None, classes: int = 2) -> EvalSet:
    """Truths without frames: what `score` needs."""
    names = tuple(f"case{i}" for i in range(len(truths)))
    frames, rows = np.empty((0, 8, 8, 1), np.uint8), tuple(slice(0, 0) for _ in truths)
    return EvalSet(names, frames, rows, truths, tuple("abcd"[:classes]), (spacing_mm,) * len(truths))


def test_the_spacing_of_a_file_follows_the_axes_of_the_truth(tmp_path: Path) -> None:
    truth = _box((12, 10, 4), (2, 8), (2, 6), (0, 4))
    cases = _volume(tmp_path, "v", truth * np.uint8(200), truth, spacing_mm=(0.5, 2.0, 7.0))
    ready = prepare(cases, size=(12, 10), channels=1, classes=("background", "x"))
    assert ready.truths[0].shape == (4, 12, 10) and ready.spacing_mm == ((7.0, 0.5, 2.0),)
    moved = np.roll(ready.truths[0], 3, axis=1)  # three voxels of half a millimetre
    found = score([moved], ready, distances=True).per_class["x"]
    assert found["hausdorff"] == 3 and found["hausdorff_mm"] == pytest.approx(1.5)


def test_a_phantom_volume_states_its_spacing() -> None:
    cases = [Case(f"p/{k:03d}", "p", "phantom3d:5", "phantom3d:5", k) for k in range(phantom3d.SHAPE[2])]
    ready = prepare(cases, size=(16, 16), channels=1, classes=phantom3d.CLASSES)
    rows, columns, slices = phantom3d.SHAPE
    assert ready.truths[0].shape == (slices, rows, columns)
    assert ready.spacing_mm == ((phantom3d.SPACING_MM[2], *phantom3d.SPACING_MM[:2]),)


def test_an_image_has_no_millimetres(tmp_path: Path) -> None:
    ready = prepare(
        [_image(tmp_path, "a", _half((16, 16), rows=8))], size=(16, 16), channels=1, classes=("background", "x")
    )
    found = evaluate(_bright, ready, distances=True).per_class["x"]
    assert ready.spacing_mm == (None,) and found["hd95"] == 0 and not any(key.endswith("_mm") for key in found)


def test_masks_of_a_volume_network_are_scored_on_the_same_cases() -> None:
    truth = _box((10, 12, 9), (2, 8), (3, 9), (1, 6))  # [X, Y, Z]
    cases = _set(np.moveaxis(truth, -1, 0))
    assert score([np.moveaxis(truth, -1, 0)], cases).dice == 1
    with pytest.raises(ValueError, match=r"case0: prediction has shape \(10, 12, 9\), its label \(9, 10, 12\)"):
        score([truth], cases)
    with pytest.raises(ValueError, match="0 masks for 1 cases"):
        score([], cases)


def _staircase(folder: Path) -> EvalSet:
    """Four slices of 10, 20, 30, 40; the object grows from slice to slice and is brighter by 150."""
    truth = np.zeros((16, 16, 4), np.uint8)
    for k in range(4):
        truth[: 4 * (k + 1), :, k] = 1
    image = np.broadcast_to(np.array([10, 20, 30, 40], np.uint8), truth.shape) + truth * np.uint8(150)
    cases = _volume(folder, "v", image, truth)
    return prepare(cases, size=(16, 16), channels=1, classes=("background", "x"), slices=5)


def test_neighbour_stack_repeats_end_slices(tmp_path: Path) -> None:
    frames = _staircase(tmp_path).frames
    assert frames.shape == (4, 16, 16, 5)
    corner = frames[:, 15, 15]
    values = np.where(corner > 128, corner - 150, corner).tolist()
    assert values == [[10, 10, 10, 20, 30], [10, 10, 20, 30, 40], [10, 20, 30, 40, 40], [20, 30, 40, 40, 40]]


def test_2p5d_scores_refer_to_centre_slice(tmp_path: Path) -> None:
    ready = _staircase(tmp_path)
    assert evaluate(lambda f: (f[..., 2] > 128).astype(np.uint8), ready).dice == 1
    assert evaluate(lambda f: (f[..., 1] > 128).astype(np.uint8), ready).dice < 1


def test_only_the_largest_piece_of_each_class_is_scored_when_asked() -> None:
    truth = _box((6, 20, 20), (1, 5), (2, 10), (2, 10))
    said = truth | _box((6, 20, 20), (0, 2), (14, 18), (14, 18))
    cases = _set(truth)
    assert score([said], cases).dice < 1 and score([said], cases, largest=True).dice == 1
    assert said.any(axis=(1, 2))[0]  # the mask that was handed in is left alone


def test_the_largest_component_is_taken_class_by_class_and_corners_connect_unless_faces_must() -> None:
    mask = np.zeros((8, 12), np.uint8)
    mask[0:2, 0:2], mask[2:3, 2:3] = 1, 1  # touch at a corner
    mask[5:8, 0:3], mask[0:1, 8:10] = 2, 2
    mask[6, 10] = 1
    kept = largest_component(mask, classes=3)
    assert (kept == 1).sum() == 5 and kept[2, 2] == 1 and kept[6, 10] == 0
    assert (kept == 2).sum() == 9 and kept[0, 8] == 0
    assert largest_component(mask, classes=3, connectivity="faces")[2, 2] == 0
    assert not largest_component(np.zeros((4, 4), np.uint8), classes=3).any()


def test_neighbouring_slices_outvote_a_slice_and_a_draw_keeps_it() -> None:
    masks = np.array([1, 1, 0, 1, 2, 2, 3, 1], np.uint8)[:, None, None]
    assert through_plane(masks)[:, 0, 0].tolist() == [1, 1, 1, 1, 2, 2, 3, 1]  # 2 3 1 is a draw
    assert through_plane(masks, width=1).tolist() == masks.tolist()
    with pytest.raises(ValueError, match="width must be odd"):
        through_plane(masks, width=4)
    with pytest.raises(ValueError, match="slices of a volume"):
        through_plane(masks[:, 0])


def test_for_two_classes_the_vote_of_slices_is_a_median_filter() -> None:
    from scipy.ndimage import median_filter

    masks = (np.random.default_rng(0).random((9, 5, 4)) > 0.5).astype(np.uint8)
    for width in (3, 5):
        assert np.array_equal(through_plane(masks, width=width), median_filter(masks, (width, 1, 1), mode="nearest"))


def test_predicted_masks_can_be_scored_more_than_once() -> None:
    options = DataOptions(layout="phantom", classes=CLASSES, size=(32, 32), phantom=(1, 0, 3))
    ready = prepare(split_dataset(options).val, size=(32, 32), channels=3, classes=CLASSES)
    masks = predict_masks(lambda f: (f[..., 0] // 64).astype(np.uint8), ready)
    assert (
        score(masks, ready, distances=True).to_json()
        == evaluate(lambda f: (f[..., 0] // 64).astype(np.uint8), ready, distances=True).to_json()
    )
    assert score(masks, ready, largest=True).dice != score(masks, ready).dice


def test_a_missed_organ_has_no_millimetres_either() -> None:
    truth = _box((4, 8, 8), (1, 3), (2, 6), (2, 6))
    found = score([np.zeros_like(truth)], _set(truth, spacing_mm=(2.0, 1.0, 1.0)), distances=True)
    assert found.dice == 0 and math.isnan(found.mean("hd95_mm")) and found.mean("nsd_mm") == 0
    assert found.per_class["b"]["missed"] == 1


def test_a_prepared_set_is_read_once(tmp_path: Path) -> None:
    case = _image(tmp_path, "a", _half((16, 16), rows=8))
    ready = prepare([case], size=(16, 16), channels=1, classes=("background", "x"))
    Path(case.image).unlink()
    assert evaluate(_bright, ready, dice_only=True).dice == 1


def test_batches_do_not_change_the_scores_and_are_no_larger_than_asked() -> None:
    options = DataOptions(layout="phantom", classes=CLASSES, size=(32, 32), phantom=(1, 0, 7))
    ready = prepare(split_dataset(options).val, size=(32, 32), channels=3, classes=CLASSES)
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
        "from edgemt.data.cohort import split_dataset\nfrom edgemt.data.options import DataOptions\n"
        "from edgemt.inference.evaluate import evaluate, prepare\n"
        "o = DataOptions(layout='phantom', classes=tuple('abcd'), size=(32, 32), phantom=(1, 0, 2))\n"
        "e = prepare(split_dataset(o).val, size=o.size, channels=o.channels, classes=o.classes)\n"
        "print(evaluate(lambda f: np.ones(f.shape[:3], np.uint8), e, distances=True).dice)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) < 1
