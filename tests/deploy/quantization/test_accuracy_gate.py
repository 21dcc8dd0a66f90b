"""The gates refuse what was measured worse, and say what to do."""

from __future__ import annotations

import numpy as np
import pytest

from deploy.quantization.accuracy_gate import GateError, check_agreement, gate, gate_classes


def test_a_drop_within_the_tolerance_passes_and_is_returned():
    assert gate(0.85, 0.845, tolerance=0.01, what="int8", hint="quantize.frames") == pytest.approx(0.005)


def test_a_drop_of_exactly_the_tolerance_passes_despite_rounding():
    gate(0.85, 0.84, tolerance=0.01, what="int8", hint="quantize.frames")


def test_a_gain_passes_as_a_negative_drop():
    assert gate(0.85, 0.86, tolerance=0.0, what="slim", hint="prune.share") < 0


def test_a_larger_drop_is_refused_in_one_line_with_numbers_and_knob():
    with pytest.raises(GateError) as caught:
        gate(0.85, 0.80, tolerance=0.01, what="int8/openvino", hint="quantize.frames")
    sentence = str(caught.value)
    assert "\n" not in sentence
    for part in ("int8/openvino", "0.8500", "0.8000", "0.0500", "0.01", "quantize.frames"):
        assert part in sentence
    assert caught.value.measured == 0.80 and caught.value.expected == 0.85


@pytest.mark.parametrize(("parent", "dice"), [(float("nan"), 0.8), (0.8, float("nan")), (float("inf"), 0.8)])
def test_a_dice_that_was_not_measured_never_passes(parent, dice):
    with pytest.raises(GateError, match="not measured"):
        gate(parent, dice, tolerance=1.0, what="slim", hint="prune.share")


@pytest.mark.parametrize("tolerance", [-0.01, float("nan"), float("inf")])
def test_a_tolerance_that_cannot_hold_is_named(tolerance):
    with pytest.raises(ValueError, match="tolerance"):
        gate(0.8, 0.8, tolerance=tolerance, what="slim", hint="prune.share")


def test_a_class_that_was_lost_is_refused_though_the_mean_rose():
    before, after = {"liver": 0.90, "vessel": 0.60}, {"liver": 0.96, "vessel": 0.57}
    assert sum(after.values()) > sum(before.values())
    with pytest.raises(GateError, match="'vessel'.*0.5700.*0.0300"):
        gate_classes(before, after, tolerance=0.01, what="int8", hint="int8.images up")


def test_the_drop_of_every_class_is_returned_and_one_that_nobody_saw_is_passed_over():
    drops = gate_classes(
        {"liver": 0.9, "rare": None}, {"liver": 0.895, "rare": None}, tolerance=0.01, what="int8", hint="int8.images"
    )
    assert drops == {"liver": pytest.approx(0.005)}


def test_a_class_that_became_unmeasurable_is_refused():
    with pytest.raises(GateError, match="'liver'.*not measured"):
        gate_classes({"liver": 0.9}, {"liver": None}, tolerance=0.01, what="int8", hint="int8.images")


def test_masks_that_differ_too_much_are_refused():
    masks = np.zeros((2, 8, 8), np.uint8)
    other = masks.copy()
    other[0, 0] = 1
    assert check_agreement(masks, masks.copy(), least=1.0, what="onnxruntime", hint="export.opset") == 1.0
    assert check_agreement(masks, other, least=0.9, what="onnxruntime", hint="export.opset") == pytest.approx(
        1 - 8 / 128
    )
    with pytest.raises(GateError, match=r"onnxruntime.*93\.75%.*export\.opset"):
        check_agreement(masks, other, least=0.99, what="onnxruntime", hint="export.opset")


def test_masks_of_different_shape_are_never_equal():
    with pytest.raises(ValueError, match="shape"):
        check_agreement(np.zeros((1, 8, 8)), np.zeros((8, 8)), least=0.0, what="openvino", hint="export.opset")
