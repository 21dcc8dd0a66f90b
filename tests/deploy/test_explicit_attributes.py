"""Attributes of convolutions that a graph leaves to the runtime are written out, and its outputs keep their bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from explicit_convolutions import incomplete_convolutions
from onnx import TensorProto, helper, numpy_helper

from deploy.explicit_attributes import write_out_attributes

ZOO = sorted(path.parent for path in Path(__file__).parents[2].glob("students/zoo/*/model.*.onnx"))
CASES: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {  # operator, shape of the weight, attributes
    "bare": ("Conv", (5, 4, 3, 3), {}),
    "pads": ("Conv", (5, 4, 3, 3), {"pads": [1, 2, 0, 1]}),
    "same upper": ("Conv", (5, 4, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    "same lower": ("Conv", (5, 4, 4, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    "dilated": ("Conv", (5, 4, 3, 3), {"dilations": [3, 2]}),
    "same of a small kernel": ("Conv", (5, 4, 1, 1), {"auto_pad": "SAME_UPPER", "strides": [3, 3]}),
    "valid": ("Conv", (5, 4, 2, 3), {"auto_pad": "VALID", "strides": [2, 2]}),
    "depthwise": ("Conv", (4, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
    "3-D": ("Conv", (2, 4, 2, 2, 2), {"auto_pad": "SAME_LOWER"}),
    "transposed": ("ConvTranspose", (4, 5, 3, 3), {"strides": [2, 2], "output_padding": [1, 0]}),
}


def one_layer(case: str, *, int8: bool = False) -> onnx.ModelProto:
    """A graph of one layer over [1, 4, 11, 10] or [1, 4, 7, 6, 5]; `int8` gives it a dequantized weight."""
    op, shape, attributes = CASES[case]
    draw = np.random.default_rng(0)
    weight = draw.integers(-127, 128, shape).astype(np.int8)
    constants = [numpy_helper.from_array(weight if int8 else weight.astype(np.float32) / 100, "w")]
    nodes, name = [], "w"
    if int8:
        constants.append(numpy_helper.from_array(np.array(0.01, np.float32), "step"))
        nodes, name = [helper.make_node("DequantizeLinear", ["w", "step"], ["real"])], "real"
    nodes.append(helper.make_node(op, ["x", name], ["y"], name="layer", **attributes))
    size = [11, 10] if len(shape) == 4 else [7, 6, 5]
    takes = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, *size])
    gives = helper.make_tensor_value_info("y", TensorProto.FLOAT, list("abcde")[: len(shape)])
    graph = helper.make_graph(nodes, "one", [takes], [gives], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def computed(model: onnx.ModelProto) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).normal(size=session.get_inputs()[0].shape).astype(np.float32)
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("case", CASES)
def test_attributes_are_written_out_and_outputs_keep_their_bits(case: str, tmp_path: Path) -> None:
    model = one_layer(case)
    before = computed(model)
    write_out_attributes(model)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(computed(model), before)
    onnx.save(model, tmp_path / "one.onnx")
    assert incomplete_convolutions(tmp_path) == []


def test_kernel_of_a_dequantized_weight_is_inferred() -> None:
    model = one_layer("bare", int8=True)
    write_out_attributes(model)
    layer = next(node for node in model.graph.node if node.name == "layer")
    assert {a.name: list(a.ints) for a in layer.attribute}["kernel_shape"] == [3, 3]


def test_complete_graph_keeps_its_bytes() -> None:
    model = one_layer("pads")
    write_out_attributes(model)
    once = model.SerializeToString(deterministic=True)
    write_out_attributes(model)
    assert model.SerializeToString(deterministic=True) == once


def test_weight_of_unknown_shape_is_named() -> None:
    model = one_layer("bare")
    model.graph.input.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, None))
    model.graph.node[0].input[1] = "v"
    with pytest.raises(ValueError, match="layer: the shape of its weight 'v' is unknown"):
        write_out_attributes(model)


@pytest.mark.parametrize("entry", ZOO, ids=lambda entry: entry.name)
def test_every_convolution_of_the_zoo_is_explicit(entry: Path) -> None:
    assert incomplete_convolutions(entry) == []
