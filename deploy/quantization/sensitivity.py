"""Sensitivity of layers to INT8: each layer is quantized alone, and the change of the logits is measured.

No label is needed: the measure is the change of the logits of unlabelled frames. Scales, rounded weights and corrected
biases are those of the given INT8 graph.

Shapes: N frames, H W input size, K image channels, C classes, h w the size of the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.export import INPUT, OUTPUT
from deploy.quantization.int8 import LAYERS, excluded_nodes, name_nodes, nodes_of_uncertainty

if TYPE_CHECKING:
    import onnx

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_THROUGH = ("MaxPool", "Concat", "Reshape", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze", "Flatten", "Pad")


@dataclass(frozen=True)
class LayerSensitivity:
    """Effect on the output of one layer in INT8, all others in float."""

    layer: str  # the node's name in the graph, for `quantize(keep=...)`
    kind: str  # its operator
    output_noise: float  # mean square change of the logits divided by their variance
    changed_fraction: float  # fraction of pixels whose class changes


@dataclass(frozen=True)
class _Inputs:
    """Inputs of a node in the INT8 graph, by number: (scale, zero point), or the constant as dequantized."""

    scales: dict[int, tuple[np.ndarray, np.ndarray]]
    constants: dict[int, np.ndarray]


def layer_sensitivities(
    float_graph: str | Path,
    int8_graph: str | Path,
    *,
    frames: Sequence[np.ndarray],
    progress: Callable[[int, int], object] | None = None,
) -> list[LayerSensitivity]:
    """Sensitivity of every quantized layer, the most sensitive first.

    `float_graph` is a float graph, `int8_graph` the file that `quantize` wrote from it. `frames` are uint8
    [1, H, W, K]; 8 to 32 are enough to rank layers. Raises ValueError without frames.
    """
    import onnx

    if not len(frames):
        raise ValueError(f"{int8_graph}: no frames to measure layers on; give some unlabelled ones")
    float_model, inputs = onnx.load(str(float_graph)), _quantized_inputs(onnx.load(str(int8_graph)))
    name_nodes(float_model)
    scores = _scores(float_model)
    float_model.graph.output.append(onnx.helper.make_empty_tensor_value_info(scores))
    before = _run(float_model, scores, frames)
    spread = float(before[0].var()) or 1.0
    results = []
    for number, node in enumerate(node for node in float_model.graph.node if node.name in inputs):
        after = _run(_alone(float_model, node.name, inputs[node.name]), scores, frames)
        output_noise = float(np.square(after[0] - before[0]).mean()) / spread
        results.append(LayerSensitivity(node.name, node.op_type, output_noise, float((after[1] != before[1]).mean())))
        if progress is not None:
            progress(number + 1, len(inputs))
    return sorted(results, key=lambda layer: (-layer.output_noise, layer.layer))


def _scores(model: onnx.ModelProto) -> str:
    """Name of the logits: the tensor that enters the first node of the choice of the classes."""
    made = {output for node in model.graph.node for output in node.output}
    excluded, fixed = (
        excluded_nodes(model) - nodes_of_uncertainty(model),
        {tensor.name for tensor in model.graph.initializer},
    )
    by_layer = {output for node in model.graph.node if node.name not in excluded for output in node.output}
    for node in model.graph.node:
        entering = [name for name in node.input if name in made - fixed and name in by_layer]
        if node.name in excluded and entering:
            return str(entering[0])
    raise ValueError("no step that chooses the classes was found; export the model with EdgeMT")


def _quantized_inputs(model: onnx.ModelProto) -> dict[str, _Inputs]:
    """Nodes that read at least one INT8 tensor -> the scales and constants of their inputs."""
    from onnx.numpy_helper import to_array

    constants = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    made_by = {output: node for node in model.graph.node for output in node.output}

    def above(name: str, *, layer: bool) -> Any:
        """The DequantizeLinear node that a tensor comes from; for a layer also through nodes that only move values."""
        node = made_by.get(name)
        while layer and node is not None and node.op_type in _THROUGH:
            node = made_by.get(node.input[0])
        return node if node is not None and node.op_type == _DEQUANTIZE else None

    nodes = {}
    for node in model.graph.node:
        if node.op_type in (_QUANTIZE, _DEQUANTIZE, *_THROUGH):
            continue
        scales, given = {}, {}
        for index, name in enumerate(node.input):
            source = above(name, layer=node.op_type in LAYERS)
            if source is not None and source.input[0] in constants:
                given[index] = _dequantized(source, constants)
            elif source is not None:
                scales[index] = (constants[source.input[1]], constants[source.input[2]])
            elif name in constants:  # a bias, which bias correction may have changed
                given[index] = constants[name]
        if scales:
            nodes[node.name] = _Inputs(scales, given)
    return nodes


def _dequantized(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> np.ndarray:
    values, scale, zero = (constants[name].astype(np.float32) for name in node.input[:3])
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    if scale.ndim:
        shape = [-1 if index == axis % values.ndim else 1 for index in range(values.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return (values - zero) * scale


def _alone(float_model: onnx.ModelProto, name: str, inputs: _Inputs) -> onnx.ModelProto:
    """The float graph with the inputs of one node quantized as in the INT8 graph."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(float_model)
    index = next(i for i, node in enumerate(model.graph.node) if node.name == name)
    node, between = model.graph.node[index], []

    def constant(value: np.ndarray, what: str) -> str:
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, f"alone.{what}"))
        return f"alone.{what}"

    for number, (scale, zero) in inputs.scales.items():
        pair = [constant(scale, f"scale{number}"), constant(zero, f"zero{number}")]
        for kind, source in ((_QUANTIZE, node.input[number]), (_DEQUANTIZE, f"alone.{_QUANTIZE}{number}")):
            between.append(onnx.helper.make_node(kind, [source, *pair], [f"alone.{kind}{number}"]))
        node.input[number] = f"alone.{_DEQUANTIZE}{number}"
    for number, value in inputs.constants.items():
        node.input[number] = constant(value, f"constant{number}")
    for step, extra in enumerate(between):
        model.graph.node.insert(index + step, extra)
    return model


def _run(model: onnx.ModelProto, scores: str, frames: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(logits [N, C, h, w], masks [N, H, W]), computed in float: no fusion into integer operators."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    out = [session.run([scores, OUTPUT], {INPUT: frame}) for frame in frames]
    return np.concatenate([pair[0] for pair in out]), np.concatenate([pair[1] for pair in out])
