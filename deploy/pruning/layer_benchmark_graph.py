"""One ONNX graph of many independent layers, each with its own input, weights and output, in float or INT8.

INT8 as in `deploy.quantization.int8`: symmetric, one scale per channel for weights and per tensor for activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deploy.pruning.latency_table import LayerShape

OPSET = 20


def layers_graph(layers: Sequence[LayerShape], *, int8: bool) -> tuple[bytes, list[str]]:
    """(serialised graph, node name of each layer), the names that appear in the profile of a runtime."""
    from onnx import TensorProto, helper, numpy_helper

    kind = TensorProto.INT8 if int8 else TensorProto.FLOAT
    draw = np.random.default_rng(0)
    step, zero = np.array(0.05, np.float32), np.array(0, np.int8)
    constants = [numpy_helper.from_array(step, "step"), numpy_helper.from_array(zero, "zero")] if int8 else []
    nodes: list[Any] = []
    inputs: list[Any] = []
    outputs: list[Any] = []
    names = [f"layer{number}" for number in range(len(layers))]
    for name, layer in zip(names, layers, strict=True):
        shape, made, weights = _shapes(layer)
        values = draw.integers(-127, 128, weights).astype(np.int8)
        takes, holds, gives = f"{name}.in", f"{name}.w", f"{name}.out"
        if int8:
            axis, scale = _scales(layer, values)
            constants += [numpy_helper.from_array(array, f"{name}.{key}") for key, array in scale.items()]
            nodes += [
                helper.make_node("DequantizeLinear", [takes, "step", "zero"], [f"{name}.x"], name=f"{name}.dx"),
                helper.make_node(
                    "DequantizeLinear", [f"{name}.q", f"{name}.s", f"{name}.z"], [holds], name=f"{name}.dw", axis=axis
                ),
            ]
        else:
            constants.append(numpy_helper.from_array(values.astype(np.float32) / 100, holds))
        nodes += _nodes(layer, name, f"{name}.x" if int8 else takes, holds, gives=f"{name}.y" if int8 else gives)
        if int8:
            nodes.append(helper.make_node("QuantizeLinear", [f"{name}.y", "step", "zero"], [gives], name=f"{name}.qy"))
        inputs.append(helper.make_tensor_value_info(takes, kind, shape))
        outputs.append(helper.make_tensor_value_info(gives, kind, made))
        constants += [numpy_helper.from_array(np.ones(layer.out_channels, np.float32), f"{name}.b")]
    graph = helper.make_graph(nodes, "layers", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return model.SerializeToString(), names


def _shapes(layer: LayerShape) -> tuple[list[int], list[int], tuple[int, ...]]:
    """Shapes of (input, output, weights)."""
    if layer.op == "MatMul":
        return (
            [1, *layer.spatial, layer.in_channels],
            [1, *layer.spatial, layer.out_channels],
            (layer.in_channels, layer.out_channels),
        )
    sizes = zip(layer.spatial, layer.kernel, layer.stride, layer.padding, layer.dilation, strict=True)
    if layer.op == "Conv":
        out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes]
        weights = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel)
    else:
        more = layer.output_padding or (0,) * len(layer.spatial)
        out = [(n - 1) * s - 2 * p + d * (k - 1) + 1 + e for (n, k, s, p, d), e in zip(sizes, more, strict=True)]
        weights = (layer.in_channels, layer.out_channels // layer.groups, *layer.kernel)
    return [1, layer.in_channels, *layer.spatial], [1, layer.out_channels, *out], weights


def _scales(layer: LayerShape, values: np.ndarray) -> tuple[int, dict[str, np.ndarray]]:
    axis = 0 if layer.op == "Conv" else 1
    count = values.shape[axis]
    return axis, {"q": values, "s": np.full(count, 0.01, np.float32), "z": np.zeros(count, np.int8)}


def _nodes(layer: LayerShape, name: str, takes: str, weights: str, *, gives: str) -> list[Any]:
    from onnx import helper

    if layer.op == "MatMul":
        return [
            helper.make_node("MatMul", [takes, weights], [f"{name}.m"], name=name),
            helper.make_node("Add", [f"{name}.m", f"{name}.b"], [gives], name=f"{name}.add"),
        ]
    options: dict[str, Any] = {
        "kernel_shape": layer.kernel,
        "strides": layer.stride,
        "pads": [*layer.padding, *layer.padding],
        "dilations": layer.dilation,
        "group": layer.groups,
    }
    if layer.op == "ConvTranspose":
        options["output_padding"] = layer.output_padding
    biased = (
        [f"{name}.b"] if layer.op == "Conv" else []
    )  # a transposed convolution with bias loses its name in OpenVINO
    return [
        helper.make_node(layer.op, [takes, weights, *biased], [f"{name}.c"], name=name, **options),
        helper.make_node("Relu", [f"{name}.c"], [gives], name=f"{name}.relu"),
    ]
