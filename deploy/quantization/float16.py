"""Half precision in the graph's own types, the only form that TensorRT 11 still takes: no builder flag is left.

What stays in float is what stays so in INT8: the normalisation of the frame and the choice of the classes. Frame and
mask are uint8 as ever.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.export import check
from deploy.quantization.int8 import left_alone, name_nodes
from edgemt.io.atomic import atomic_write

if TYPE_CHECKING:
    import onnx

LARGEST = 65504.0  # of half precision
_EXACT = {"Resize": (1, 2)}  # inputs that the standard wants in float32: region and scales


def halve(onnx_in: str | Path, onnx_out: str | Path) -> Path:
    """Write a copy of a float graph with layers and weights in half precision.

    Raises ValueError for a weight that half precision cannot hold.
    """
    import onnx

    check(onnx_in)
    model = onnx.shape_inference.infer_shapes(onnx.load(str(onnx_in)))
    name_nodes(model)
    graph, alone = model.graph, left_alone(model)
    real = _float_tensors(model)
    held = {tensor.name: tensor for tensor in graph.initializer}
    made_in_half = {output for node in graph.node if node.name not in alone for output in node.output if output in real}
    nodes: list[Any] = []
    known: dict[str, str] = {}  # tensor -> its copy in the other type

    def turned(name: str, *, half: bool) -> str:
        """The tensor in half precision, or in float."""
        if name not in known and name in held:
            known[name] = f"{name}.half"
            graph.initializer.append(_halved(held[name], known[name], path=onnx_in))
        elif name not in known:
            known[name] = f"{name}.{'half' if half else 'float'}"
            kind = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
            nodes.append(onnx.helper.make_node("Cast", [name], [known[name]], to=kind, name=f"Cast_{known[name]}"))
        return known[name]

    for node in graph.node:
        half = node.name not in alone
        for place, name in enumerate(node.input):
            if name in real and place not in _EXACT.get(node.op_type, ()) and (name in made_in_half) != half:
                node.input[place] = turned(name, half=half)
        if half:
            _retype(node, path=onnx_in)
        nodes.append(node)
    _replace(graph, nodes)
    with atomic_write(onnx_out) as part:
        part.write_bytes(model.SerializeToString(deterministic=True))
        check(part, name=str(onnx_out))
    return Path(onnx_out)


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
    """Casts and constants that a node carries in its attributes."""
    import onnx

    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
            attribute.i = onnx.TensorProto.FLOAT16
        if attribute.HasField("t") and attribute.t.data_type == onnx.TensorProto.FLOAT:
            attribute.t.CopyFrom(_halved(attribute.t, attribute.t.name, path=path))


def _replace(graph: onnx.GraphProto, nodes: list[Any]) -> None:
    """The nodes as they are now, in order; weights that nobody reads any more go, types are inferred anew."""
    kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    copies = [type(tensor).FromString(tensor.SerializeToString()) for tensor in weights]
    del graph.initializer[:]
    graph.initializer.extend(copies)
