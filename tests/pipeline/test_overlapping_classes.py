"""Overlapping classes through networks, graphs, packages and streams; the whole flow in the slow suite."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_flags import TINY
from tiny_package import CLASSES, SIZE, expected, frame, make_ship

torch = pytest.importorskip("torch")

from deploy.package.package import open_package  # noqa: E402
from deploy.stream.inference.mask_checks import InvalidMaskError, validate_mask  # noqa: E402
from deploy.stream.inference.mask_vote import MaskVote  # noqa: E402
from deploy.stream.outputs import open_output  # noqa: E402
from deploy.stream.state.overlay import outline  # noqa: E402
from edgemt.artefacts.network_folder import build_network  # noqa: E402
from edgemt.contract import Case  # noqa: E402
from edgemt.data.soft_labels import read_bank, write_bank  # noqa: E402
from edgemt.inference.predict import predict  # noqa: E402
from edgemt.io.class_regions import from_regions, in_class  # noqa: E402
from edgemt.io.contours import class_colours, contours  # noqa: E402
from edgemt.methods import METHODS  # noqa: E402
from edgemt.model_card import ModelCard  # noqa: E402
from edgemt.pipeline.recipe_checks import check_recipe  # noqa: E402
from edgemt.recipes import RECIPES  # noqa: E402

STUDENT = {"room": "students", "name": "test_efficientnet", "channels": 3, "heads": [], "overlapping": True}


def bits_of(logits: Any) -> np.ndarray:
    """The mask written out: bit k where logit k is above 0."""
    return from_regions([part for part in (logits > 0).numpy().swapaxes(0, 1)])


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("size", [(64, 96), (56, 72)])
def test_the_quick_mask_of_a_student_is_that_of_its_logits(classes: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = build_network({**STUDENT, "classes": classes, "options": {"pretrained": "never"}}).eval()
    assert network.overlapping
    image = torch.randn(2, 3, *size)
    with torch.inference_mode():
        logits = network(image).logits
        assert logits.shape[1] == classes
        network.head.bias -= logits.mean((0, 2, 3))  # so that each class is somewhere, and not everywhere
        mask, wanted = network.mask(image).numpy(), bits_of(network(image).logits)
    assert (mask == wanted).mean() > 0.999
    assert len(np.unique(wanted)) > classes


def test_a_card_has_the_field_only_where_it_is_used() -> None:
    plain, used = ModelCard(classes=CLASSES), ModelCard(classes=CLASSES, overlapping=True)
    assert "overlapping" not in json.loads(plain.to_json())
    assert ModelCard.from_json(used.to_json()).overlapping and not ModelCard.from_json(plain.to_json()).overlapping


def test_a_ship_of_too_many_overlapping_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="overlapping"):
        make_ship(tmp_path / "ship", classes=("background", *"abcdefgh"), overlapping=True)


def test_predict_writes_a_mask_of_each_class(tmp_path: Path) -> None:
    from PIL import Image

    make_ship(tmp_path / "ship", overlapping=True)
    (tmp_path / "in").mkdir()
    Image.fromarray(frame(5)).save(tmp_path / "in/a.png")
    written = list(predict(tmp_path / "ship", [tmp_path / "in"], out=tmp_path / "out", runtime="onnxruntime"))
    assert [path.name for path in written] == ["a.organ.mask.png", "a.tool.mask.png", "a.overlay.png"]
    bits = expected(frame(5))
    for k, name in enumerate(("organ", "tool"), 1):
        mask = np.asarray(Image.open(tmp_path / f"out/a.{name}.mask.png"))
        assert np.array_equal(mask, in_class(bits, k, overlapping=True))
    again = list(predict(tmp_path / "ship", [tmp_path / "in"], out=tmp_path / "out", runtime="onnxruntime"))
    assert again == written  # its own files are replaced, none gets a longer name


def test_a_bank_stores_every_class_and_no_background(tmp_path: Path) -> None:
    p = np.random.default_rng(0).random((1, 2, 4, 4), np.float32)
    case = Case("a", "a", "a.png")
    options: dict[str, Any] = {"classes": CLASSES, "size": (4, 4), "key": "k", "depth": lambda case: 1}
    write_bank(tmp_path / "bank", [case], predict=lambda case: p, overlapping=True, **options)
    with pytest.raises(ValueError, match="wanted"):
        write_bank(tmp_path / "other", [case], predict=lambda case: p, **options)
    assert np.allclose(read_bank(tmp_path / "bank", [case]), p, atol=1e-3)


def test_a_stream_draws_and_checks_every_class() -> None:
    inner, outer = np.zeros((2, 20, 20), bool)
    outer[2:18, 2:18], inner[6:12, 6:12] = True, True
    mask = from_regions([outer, inner])
    assert validate_mask(mask[None], size=(20, 20), classes=3, overlapping=True).max() == 3
    with pytest.raises(InvalidMaskError, match="the bits 7 of 2 classes"):
        validate_mask(mask[None] + np.uint8(4) * inner, size=(20, 20), classes=3, overlapping=True)
    colours = class_colours(3)
    drawn = outline(mask, size=(40, 40), colours=colours, overlapping=True)
    assert {tuple(colour) for colour in drawn.colour.tolist()} == {colours[1], colours[2]}
    picture = contours(np.zeros((20, 20), np.uint8), mask, colours=colours, scale=2, overlapping=True)
    assert all((np.abs(picture.astype(int) - colours[k]).sum(2) < 40).any() for k in (1, 2))


def test_a_vote_is_one_of_each_class() -> None:
    vote = MaskVote(3, classes=3, overlapping=True)
    masks = [np.full((1, 1), value, np.uint8) for value in (0b01, 0b11, 0b10)]
    for mask in masks[:-1]:
        vote.add(mask, epoch=0)
    assert int(vote.add(masks[-1], epoch=0)[0, 0]) == 0b11  # a mask that none of the three is


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: replace(r, teacher=replace(r.teacher, method=METHODS["cps"])), "teacher.method: CPS"),
        (lambda r: replace(r, student=replace(r.student, method=METHODS["bcp"])), "student.method: BCP"),
        (lambda r: replace(r, data=replace(r.data, classes=("background", "organ"))), "data.overlapping: one class"),
    ],
)
def test_what_takes_one_class_a_pixel_is_refused_before_training(change: Any, words: str) -> None:
    base = RECIPES["phantom"]()
    recipe = replace(base, data=replace(base.data, overlapping=True))
    check_recipe(recipe)
    with pytest.raises(ValueError) as error:
        check_recipe(change(recipe))
    assert str(error.value).startswith(words) and "overlapping" in str(error.value) and "\n" not in str(error.value)


def test_components_of_one_class_a_pixel_refuse_such_a_ship(tmp_path: Path) -> None:
    from deploy.adaptation.add_to_package import add_features
    from edgemt.data_report.against import open_teacher
    from edgemt.inference.evaluate_video import evaluate_video

    folder = tmp_path / "ship"
    card = make_ship(folder, overlapping=True).card
    attempts = [
        lambda: open_output("igtl", SimpleNamespace(card=card)),  # type: ignore[arg-type]
        lambda: open_teacher(folder),
        lambda: add_features(folder),
        lambda: evaluate_video(folder, [tmp_path]),
    ]
    for attempt in attempts:
        with pytest.raises(ValueError, match="has overlapping classes"):
            attempt()
    assert open_package(folder).card == card


@pytest.mark.parametrize("change", [{"uncertainty": "softmax"}, {"calibration_share": 0.5}, {"calibration": "9"}])
def test_uncertainty_and_calibration_are_no_longer_refused(change: dict[str, Any]) -> None:
    base = RECIPES["phantom"]()
    data = {name: value for name, value in change.items() if name != "uncertainty"}
    recipe = replace(base, data=replace(base.data, overlapping=True, **data))
    check_recipe(replace(recipe, uncertainty=change.get("uncertainty", "head")))


@pytest.mark.slow
def test_the_whole_flow_ships_masks_of_bits(tmp_path: Path) -> None:
    from edgemt.cli import main
    from edgemt.inference.evaluate_package import evaluate_ship

    extra = ["--uncertainty=softmax", "--data.calibration=12"]
    main(["run", "phantom", "--data.overlapping", "--out", str(tmp_path / "run"), *extra, *TINY])
    ship = open_package(tmp_path / "run/ship")
    assert ship.card.overlapping and ship.card.classes[1:] == ("liver", "gallbladder", "instrument")
    record = evaluate_ship(tmp_path / "run/ship", runtime="onnxruntime", file="fp32", precision="f32")
    assert record["dice"] == pytest.approx(record["card_dice"], abs=1e-6)
    assert "model.int8.onnx" in ship.card.files
    for file in ("model.onnx", "model.int8.onnx"):
        assert set(ship.card.contours[file].outer) == {"liver", "gallbladder", "instrument"}
    assert ship.card.measured["model.onnx"].uncertainty["source"] == "softmax"
    refused = [row for row in ship.card.given_up if row["wanted"] == "uncertainty in INT8"]
    assert bool(refused) != bool(ship.card.measured["model.int8.onnx"].uncertainty)  # its gate, on toy weights
    record = evaluate_ship(tmp_path / "run/ship", runtime="onnxruntime", file="int8", contours=True)
    assert record["contours"]["per_class"].keys() == ship.card.contours["model.int8.onnx"].outer.keys()
    record = evaluate_ship(tmp_path / "run/ship", runtime="onnxruntime", file="model.onnx")
    assert record["uncertainty"]["auroc"] == pytest.approx(
        ship.card.measured["model.onnx"].uncertainty["auroc"], abs=0.01
    )
    assert ship.card.size != SIZE
