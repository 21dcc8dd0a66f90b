"""Which layers lose most in eight bits: each one quantized alone, its effect read where the classes are chosen.

No label is needed: a layer is judged by how far it moves the logits of unlabelled frames. Scales, rounded weights and
corrected biases are those of the INT8 graph at hand, so what is judged is what would run.

Shapes: N frames, H W input size, K image channels, C classes, h w the size of the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.export import INPUT, OUTPUT
from deploy.quantization.int8 import LAYERS, left_alone, name_nodes

if TYPE_CHECKING:
    import onnx

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_THROUGH = ("MaxPool", "Concat", "Reshape", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze", "Flatten", "Pad")


@dataclass(frozen=True)
class Sensitivity:
    """What one layer in eight bits does to the output, all others in float."""

    layer: str  # the node's name in the graph, for `quantize(keep=...)`
    kind: str  # its operator
    noise: float  # mean square change of the logits, as a share of their own variance
    changed: float  # share of pixels that get another class


@dataclass(frozen=True)
class _Inputs:
    """How a node of the INT8 graph reads: input number -> (scale, zero point), or the constant it really has."""

    scales: dict[int, tuple[np.ndarray, np.ndarray]]
    constants: dict[int, np.ndarray]


def sensitivity(
    exact: str | Path,
    small: str | Path,
    *,
    frames: Sequence[np.ndarray],
    progress: Callable[[int, int], object] | None = None,
) -> list[Sensitivity]:
    """Every quantized layer, the worst first. `exact` is a float graph and `small` what `quantize` made of it.

    `frames` are uint8 [1, H, W, K]; 8 to 32 are enough to tell layers apart. Raises ValueError without frames.
    """
    import onnx

    if not len(frames):
        raise ValueError(f"{small}: no frames to measure layers on; give some unlabelled ones")
    whole, reads = onnx.load(str(exact)), _quantized_inputs(onnx.load(str(small)))
    name_nodes(whole)
    scores = _scores(whole)
    whole.graph.output.append(onnx.helper.make_empty_tensor_value_info(scores))
    before = _run(whole, scores, frames)
    spread = float(before[0].var()) or 1.0
    found = []
    for number, node in enumerate(node for node in whole.graph.node if node.name in reads):
        after = _run(_alone(whole, node.name, reads[node.name]), scores, frames)
        noise = float(np.square(after[0] - before[0]).mean()) / spread
        found.append(Sensitivity(node.name, node.op_type, noise, float((after[1] != before[1]).mean())))
        if progress is not None:
            progress(number + 1, len(reads))
    return sorted(found, key=lambda layer: (-layer.noise, layer.layer))


def _scores(model: onnx.ModelProto) -> str:
    """The tensor that the classes are chosen from: what enters the first step of the choice."""
    made = {output for node in model.graph.node for output in node.output}
    alone, fixed = left_alone(model), {tensor.name for tensor in model.graph.initializer}
    by_layer = {output for node in model.graph.node if node.name not in alone for output in node.output}
    for node in model.graph.node:
        entering = [name for name in node.input if name in made - fixed and name in by_layer]
        if node.name in alone and entering:
            return str(entering[0])
    raise ValueError("no step that chooses the classes was found; export the model with EdgeMT")


def _quantized_inputs(model: onnx.ModelProto) -> dict[str, _Inputs]:
    """The nodes that read at least one tensor in eight bits, with the very numbers they read it by."""
    from onnx.numpy_helper import to_array

    constants = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    made_by = {output: node for node in model.graph.node for output in node.output}

    def above(name: str, *, layer: bool) -> Any:
        """The DequantizeLinear that a tensor comes from, for a layer also through steps that only move values."""
        node = made_by.get(name)
        while layer and node is not None and node.op_type in _THROUGH:
            node = made_by.get(node.input[0])
        return node if node is not None and node.op_type == _DEQUANTIZE else None

    found = {}
    for node in model.graph.node:
        if node.op_type in (_QUANTIZE, _DEQUANTIZE, *_THROUGH):
            continue
        scales, given = {}, {}
        for place, name in enumerate(node.input):
            source = above(name, layer=node.op_type in LAYERS)
            if source is not None and source.input[0] in constants:
                given[place] = _dequantized(source, constants)
            elif source is not None:
                scales[place] = (constants[source.input[1]], constants[source.input[2]])
            elif name in constants:  # a bias, which the quantizer may have corrected
                given[place] = constants[name]
        if scales:
            found[node.name] = _Inputs(scales, given)
    return found


def _dequantized(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> np.ndarray:
    values, scale, zero = (constants[name].astype(np.float32) for name in node.input[:3])
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    if scale.ndim:
        shape = [-1 if place == axis % values.ndim else 1 for place in range(values.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return (values - zero) * scale


def _alone(whole: onnx.ModelProto, name: str, reads: _Inputs) -> onnx.ModelProto:
    """The float graph with one node reading as it does in the INT8 graph."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(whole)
    place = next(i for i, node in enumerate(model.graph.node) if node.name == name)
    node, between = model.graph.node[place], []

    def constant(value: np.ndarray, what: str) -> str:
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, f"alone.{what}"))
        return f"alone.{what}"

    for number, (scale, zero) in reads.scales.items():
        pair = [constant(scale, f"scale{number}"), constant(zero, f"zero{number}")]
        for kind, source in ((_QUANTIZE, node.input[number]), (_DEQUANTIZE, f"alone.{_QUANTIZE}{number}")):
            between.append(onnx.helper.make_node(kind, [source, *pair], [f"alone.{kind}{number}"]))
        node.input[number] = f"alone.{_DEQUANTIZE}{number}"
    for number, value in reads.constants.items():
        node.input[number] = constant(value, f"constant{number}")
    for step, extra in enumerate(between):
        model.graph.node.insert(place + step, extra)
    return model


def _run(model: onnx.ModelProto, scores: str, frames: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, C, h, w] and masks [N, H, W], without the fusions that would compute in integers."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    out = [session.run([scores, OUTPUT], {INPUT: frame}) for frame in frames]
    return np.concatenate([pair[0] for pair in out]), np.concatenate([pair[1] for pair in out])
