"""The card of a folder and card.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgemt.io import zoo_paths
from edgemt.model_card import FileMetrics, ModelCard, Normalisation

FULL = FileMetrics(
    dice=0.8,
    drop=0.01,
    runtime="openvino",
    per_class={"organ": {"dice": 0.8, "hd95": None}},
    cases=({"name": "a", "organ": {"dice": 0.8}},),
    unit="px",
    nsd_tolerance=2.0,
    list_key="0123",
    stride=(16, 16, 8),
    windows_per_volume=4.5,
    golden_pixels=1.0,
    quantization={"rung": "calibrated", "kept": []},
)
CARD = ModelCard(
    classes=("background", "organ"),
    size=(8, 16),
    normalise=Normalisation((0.1, 0.2, 0.3), (1.0, 1.0, 1.0)),
    measured={"model.onnx": FULL, "weights.safetensors": FileMetrics()},
    latency=({"runtime": "openvino", "p50_ms": 1.5},),
    patch=(4, 4, 2),
)


def written(**fields: Any) -> str:
    return json.dumps({**json.loads(CARD.to_json()), **fields})


def test_card_is_the_same_after_writing_and_reading() -> None:
    assert ModelCard.from_json(CARD.to_json()) == CARD


def test_keys_of_a_file_are_those_of_earlier_cards() -> None:
    record = json.loads(CARD.to_json())["measured"]
    assert record["model.onnx"]["list"] == "0123" and "other" not in record["model.onnx"]
    assert "agreement" not in record["model.onnx"]
    assert record["weights.safetensors"] == {"dice": None}
    assert FileMetrics(runtime="torch").to_dict() == {"dice": None, "drop": None, "runtime": "torch"}


def test_keys_that_no_version_uses_are_still_written_and_need_not_be_there() -> None:
    record = json.loads(CARD.to_json())
    assert (record.pop("postprocess"), record.pop("spacing_mm")) == ("argmax", None)
    assert ModelCard.from_json(json.dumps(record)) == CARD


@pytest.mark.parametrize("name", sorted(zoo_paths.names()))
def test_cards_of_the_zoo_are_written_as_they_were_read(name: str) -> None:
    text = Path(zoo_paths.HOME, name, "card.json").read_text(encoding="utf-8")
    card = ModelCard.from_json(text)
    assert card.to_json() == text
    assert all(metrics.dice is not None and not metrics.other for metrics in card.measured.values())


def test_figures_of_a_later_version_are_written_back() -> None:
    text = written(measured={"model.onnx": {"dice": 0.5, "sharpness": 0.25}})
    card = ModelCard.from_json(text)
    assert card.measured["model.onnx"].other == {"sharpness": 0.25}
    assert json.loads(card.to_json())["measured"] == json.loads(text)["measured"]
    changed = replace(card.measured["model.onnx"], drop=0.1, runtime="torch")
    assert changed.to_dict() == {"dice": 0.5, "drop": 0.1, "runtime": "torch", "sharpness": 0.25}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"size": [8]}, "size has 1 values instead of 2"),
        ({"size": [8, "16"]}, "size is no int"),
        ({"classes": "organ"}, "classes is no list"),
        ({"classes": ["organ", None]}, "classes is no str"),
        ({"latency": [1]}, "latency is no dict"),
        ({"normalise": {"mean": [True]}}, "mean is no number"),
        ({"normalise": {"median": [0.5]}}, "unknown fields median"),
        ({"measured": {"model.onnx": 0.5}}, "measured.model.onnx is no dict"),
        ({"measured": {"model.onnx": {"dice": "0.5"}}}, "dice is no number"),
        ({"measured": {"model.onnx": {"per_class": {"organ": 0.5}}}}, "per_class.organ is no dict"),
        ({"params": 1.5}, "params is no int"),
        ({"colour": "red"}, "unknown fields colour"),
        ({"format": 2}, "format 2"),
    ],
)
def test_card_with_a_field_of_another_type_is_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named) as error:
        ModelCard.from_json(written(**fields), source="ship/card.json")
    assert str(error.value).startswith("ship/card.json: not a readable card") and "\n" not in str(error.value)
