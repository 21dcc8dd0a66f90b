"""The end of a student's graph: from the logits of its classifier to the mask, in float also in an INT8 graph.

So the outputs of a quantized graph can be changed without calibrating it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

HEAD_WEIGHT = "network.head.weight"  # name that the exporter gives the weight of the classifier


def classifier_node(graph: onnx.GraphProto, *, source: str | Path) -> onnx.NodeProto:
    """The last 1x1 convolution: the one with its weight, as it is, in half precision or dequantized.

    Raises ValueError, naming `source`, for a graph without it.
    """
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) == 3 and HEAD_WEIGHT in node.input[1]:
            return node
    raise ValueError(f"{source}: has no 1x1 convolution {HEAD_WEIGHT!r} at its end; take a student of students/")


def with_tail_of(model: onnx.ModelProto, other: onnx.ModelProto, *, source: str | Path) -> onnx.ModelProto:
    """`model` up to its logits, then `other` from its logits on, with the outputs of `other`.

    Both are graphs of one student. Raises ValueError, naming `source`, where their logits differ in size, or where what
    follows them in `other` needs more than them.
    """
    import onnx
    from onnx.compose import merge_models
    from onnx.utils import Extractor

    body, tail = (onnx.shape_inference.infer_shapes(one) for one in (model, other))
    logits, given = (classifier_node(one.graph, source=source).output[0] for one in (body, tail))
    first = Extractor(body).extract_model([value.name for value in body.graph.input], [logits])
    last = Extractor(tail).extract_model([given], [value.name for value in tail.graph.output])
    sizes = [_sizes(first.graph.output[0]), _sizes(last.graph.input[0])]
    if sizes[0] != sizes[1]:
        raise ValueError(f"{source}: its logits are {sizes[0]}, those of the other graph {sizes[1]}: another student's")
    made = {name for node in last.graph.node for name in node.output}
    constant = {tensor.name for tensor in last.graph.initializer} | {given, ""}
    if missing := sorted({name for node in last.graph.node for name in node.input} - made - constant):
        raise ValueError(f"{source}: its outputs need {missing[0]!r} beside the logits")
    merged = merge_models(first, last, io_map=[(logits, given)], prefix1="", prefix2="tail/")
    _rename_outputs(merged, {f"tail/{value.name}": value.name for value in tail.graph.output})
    merged.ir_version = model.ir_version
    return merged


def _sizes(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _rename_outputs(model: onnx.ModelProto, names: dict[str, str]) -> None:
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
        node.input[:] = [names.get(name, name) for name in node.input]
    for value in model.graph.output:
        value.name = names.get(value.name, value.name)
