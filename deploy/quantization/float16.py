"""float16 graphs: half precision in the types of the graph itself, the only form that TensorRT 11 accepts.

The same nodes stay in float32 as for INT8: normalisation of the frame and choice of the classes. Frame and mask stay
uint8.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.export import check, write_graph
from deploy.quantization.int8 import excluded_nodes, name_nodes

if TYPE_CHECKING:
    import onnx

LARGEST = 65504.0  # finite float16 number
_EXACT = {"Resize": (1, 2)}  # operator -> inputs that must be float32: region and scales


def to_float16(onnx_in: str | Path, onnx_out: str | Path) -> Path:
    """Write a copy of a float32 graph with layers and weights in float16.

    Raises ValueError for a weight beyond the range of float16.
    """
    import onnx

    check(onnx_in)
    model = onnx.shape_inference.infer_shapes(onnx.load(str(onnx_in)))
    name_nodes(model)
    graph, excluded = model.graph, excluded_nodes(model)
    real = _float_tensors(model)
    weights_by_name = {tensor.name: tensor for tensor in graph.initializer}
    made_in_half = {
        output for node in graph.node if node.name not in excluded for output in node.output if output in real
    }
    nodes: list[Any] = []
    converted: dict[str, str] = {}  # tensor -> its copy in the other type

    def in_other_type(name: str, *, half: bool) -> str:
        """Name of the tensor in the other type: a converted weight, or a new Cast node."""
        if name not in converted and name in weights_by_name:
            converted[name] = f"{name}.half"
            graph.initializer.append(_halved(weights_by_name[name], converted[name], path=onnx_in))
        elif name not in converted:
            converted[name] = f"{name}.{'half' if half else 'float'}"
            kind = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
            nodes.append(
                onnx.helper.make_node("Cast", [name], [converted[name]], to=kind, name=f"Cast_{converted[name]}")
            )
        return converted[name]

    for node in graph.node:
        half = node.name not in excluded
        for index, name in enumerate(node.input):
            if name in real and index not in _EXACT.get(node.op_type, ()) and (name in made_in_half) != half:
                node.input[index] = in_other_type(name, half=half)
        if half:
            _retype(node, path=onnx_in)
        nodes.append(node)
    _replace(graph, nodes)
    return write_graph(model, onnx_out)


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    import onnx

    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    real = {value.name for value in values if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    return real | {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}


def _halved(tensor: onnx.TensorProto, name: str, *, path: str | Path) -> onnx.TensorProto:
    from onnx.numpy_helper import from_array, to_array

    values = to_array(tensor)
    if values.size and not np.abs(values).max() <= LARGEST:
        raise ValueError(f"{path}: {tensor.name} holds {np.abs(values).max():g}, half precision ends at {LARGEST:g}")
    return from_array(values.astype(np.float16), name)


def _retype(node: onnx.NodeProto, *, path: str | Path) -> None:
    """Casts to float32 and float32 constants in the attributes of a node become float16."""
    import onnx

    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
            attribute.i = onnx.TensorProto.FLOAT16
        if attribute.HasField("t") and attribute.t.data_type == onnx.TensorProto.FLOAT:
            attribute.t.CopyFrom(_halved(attribute.t, attribute.t.name, path=path))


def _replace(graph: onnx.GraphProto, nodes: list[Any]) -> None:
    """Replace the nodes of the graph; unused weights are removed, inferred types are dropped."""
    new_nodes = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(new_nodes)
    used = {name for node in new_nodes for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    copies = [type(tensor).FromString(tensor.SerializeToString()) for tensor in weights]
    del graph.initializer[:]
    graph.initializer.extend(copies)
