"""Masks that a trained model contradicts: swapped, empty and shifted ones are found, right ones are not listed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tiny_package import CLASSES, SIZE, expected, frame, make_ship  # noqa: E402
from untrained_run import network  # noqa: E402

from edgemt import cli  # noqa: E402
from edgemt.artefacts.network_folder import save_network  # noqa: E402
from edgemt.data.options import DataOptions  # noqa: E402
from edgemt.data_report.against import Teacher, label_errors, open_teacher  # noqa: E402
from edgemt.data_report.finding import Finding  # noqa: E402
from edgemt.data_report.inspect_folder import inspect_folder  # noqa: E402
from edgemt.model_card import ModelCard, Normalisation  # noqa: E402

SEEDS = range(10)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Frames whose true masks are what `oracle` predicts; the last three validate."""
    for seed in SEEDS:
        for kind, array in (("images", frame(seed)), ("masks", expected(frame(seed)))):
            path = tmp_path / "set" / ("val" if seed > 6 else "train") / kind / f"f{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return tmp_path / "set"


def oracle(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    masks = np.stack([expected(one) for one in frames])
    return masks, np.moveaxis(np.eye(3, dtype=np.float32)[masks], -1, 1) * 0.94 + 0.02


def unsure(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An even guess wherever the picture's upper half is: it contradicts nothing there with confidence."""
    masks, probs = oracle(frames)
    probs[:, :, : SIZE[0] // 2] = 1 / 3 + 1e-3 * probs[:, :, : SIZE[0] // 2]
    return probs.argmax(1).astype(np.uint8), probs


def judged(root: Path, predict: object, classes: tuple[str, ...] = CLASSES) -> list[Finding]:
    card = ModelCard(classes=classes, size=SIZE, channels=3)
    found = inspect_folder(DataOptions(root=root), given=frozenset(), workers=1)
    return label_errors(found, Teacher(card, predict, "oracle"))  # type: ignore[arg-type]


def swap(root: Path, a: int, b: int) -> None:
    one, other = root / "train" / "masks" / f"f{a}.png", root / "train" / "masks" / f"f{b}.png"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def test_right_masks_are_not_listed(root: Path) -> None:
    assert judged(root, oracle) == []


def test_swapped_masks_are_listed_with_the_image_that_they_fit(root: Path) -> None:
    swap(root, 1, 3)
    (one,) = judged(root, oracle)
    assert one.severity == "warning"
    assert {Path(e.file).name for e in one.examples} == {"f1.png", "f3.png"}
    assert all("swapped?" in e.detail for e in one.examples)
    assert "fits the mask of" in one.line and one.examples[0].prediction is not None


def test_empty_mask_of_an_image_with_an_object_is_listed_first(root: Path) -> None:
    swap(root, 1, 3)
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(root / "val" / "masks" / "f8.png")
    (one,) = judged(root, oracle)
    assert Path(one.examples[0].file).name == "f8.png"
    assert one.examples[0].detail.startswith("100% of the object, Dice 0.00")


def test_a_model_that_is_not_sure_contradicts_nothing(root: Path) -> None:
    path = root / "train" / "masks" / "f2.png"
    mask = expected(frame(2))
    mask[: SIZE[0] // 2] = 0
    Image.fromarray(mask).save(path)
    assert [Path(e.file).name for e in judged(root, oracle)[0].examples] == ["f2.png"]
    assert judged(root, unsure) == []


def test_model_of_other_classes_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="against: oracle has the classes background organ, the masks background"):
        judged(root, oracle, classes=("background", "organ"))


def test_data_against_a_ship_shows_mask_and_prediction(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swap(root, 1, 3)
    make_ship(tmp_path / "ship", data=DataOptions(classes=CLASSES, size=SIZE).to_dict())
    cli.main(["data", str(root), "--against", str(tmp_path / "ship"), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "contradicts 2 masks, first train/masks/f" in printed
    assert (tmp_path / "out" / "data.html").read_text().count("data:image/jpeg") >= 2


def test_float_network_of_a_stage_gives_probabilities(tmp_path: Path) -> None:
    spec = {"room": "teachers", "name": "unet", "channels": 3, "classes": 4, "heads": []}
    options = {"widths": [8, 8, 8], "dropout": [0.0, 0.0, 0.0]}
    card = ModelCard(
        classes=("background", "a", "b", "c"),
        size=SIZE,
        channels=3,
        normalise=Normalisation((0.5,) * 3, (0.2,) * 3),
        network={**spec, "options": options},
    )
    (tmp_path / "run" / "teacher").mkdir(parents=True)
    save_network(tmp_path / "run" / "teacher", network(), card)
    teacher = open_teacher(tmp_path / "run")
    masks, probs = teacher.predict(np.stack([frame(0), frame(1)]))
    assert probs is not None
    assert probs.shape == (2, 4, *SIZE)
    assert np.allclose(probs.sum(1), 1, atol=1e-5)
    assert np.array_equal(masks, probs.argmax(1))


@pytest.mark.parametrize("masks_alone", [False, True])
def test_a_model_contradicts_nothing_where_no_label_is(root: Path, masks_alone: bool) -> None:
    """Of one mask the object is empty: an error where it is background, none where it is ignored."""
    path = root / "train" / "masks" / "f2.png"
    mask = np.array(Image.open(path))

    def predict(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        masks, probs = oracle(frames)
        return masks, None if masks_alone else probs

    for value, listed in ((0, 1), (255, 0)):
        Image.fromarray(np.where((mask > 0) & (np.arange(SIZE[1]) > 0), value, mask).astype(np.uint8)).save(path)
        card = ModelCard(classes=CLASSES, size=SIZE, channels=3)
        found = inspect_folder(
            DataOptions(root=root, classes=CLASSES, ignore=255), given=frozenset({"classes"}), workers=1
        )
        found_errors = label_errors(found, Teacher(card, predict, "oracle"))
        assert sum(len(one.examples) for one in found_errors) == listed


def test_overlapping_classes_are_refused_in_one_line(root: Path) -> None:
    options = DataOptions(
        root=root, classes=("background", "all", "tool"), overlapping=True, label_map=("all=1,2", "tool=2")
    )
    found = inspect_folder(options, given=frozenset({"classes"}), workers=1)
    with pytest.raises(ValueError, match="classes may overlap, and --against compares one class a pixel"):
        label_errors(found, Teacher(ModelCard(classes=options.classes, size=SIZE, channels=3), oracle, "oracle"))
