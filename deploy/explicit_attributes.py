"""Convolutions with every attribute written out, as graph compilers of NPUs need them.

The ONNX standard gives `kernel_shape`, `strides`, `dilations`, `group` and `pads` defaults, and runtimes infer what is
absent; VitisAI's compiler aborts where `kernel_shape` is. Nothing that a graph computes changes here.
Source: https://onnx.ai/onnx/operators/onnx__Conv.html
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

CONVOLUTIONS = ("Conv", "ConvTranspose")
ATTRIBUTES = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def write_out_attributes(model: onnx.ModelProto) -> None:
    """Give every convolution all of ATTRIBUTES, in place; padding that `auto_pad` leaves to the runtime becomes `pads`.

    A graph whose convolutions have them is left as it is. Raises ValueError where the shape of a weight, or for
    SAME padding that of the input, is unknown.
    """
    import onnx

    incomplete = [node for node in model.graph.node if node.op_type in CONVOLUTIONS and not _is_explicit(node)]
    if not incomplete:
        return
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
    shapes |= {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    for node in incomplete:
        _complete(node, shapes)


def _is_explicit(node: onnx.NodeProto) -> bool:
    found = {attribute.name: attribute for attribute in node.attribute}
    return set(ATTRIBUTES) <= set(found) and found["auto_pad"].s in (b"", b"NOTSET")


def _complete(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> None:
    from onnx import helper

    found: dict[str, Any] = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    weight = shapes.get(node.input[1], [])
    kernel = list(found.get("kernel_shape", weight[2:]))
    if not kernel or not all(kernel):
        raise ValueError(f"{node.name or node.op_type}: the shape of its weight {node.input[1]!r} is unknown")
    ones = [1] * len(kernel)
    strides, dilations = list(found.get("strides", ones)), list(found.get("dilations", ones))
    wanted: dict[str, Any] = {
        "auto_pad": "NOTSET",
        "dilations": dilations,
        "group": found.get("group", 1),
        "kernel_shape": kernel,
        "pads": list(found.get("pads", [0] * 2 * len(kernel))),
        "strides": strides,
    }
    rule, size = found.get("auto_pad", b"NOTSET").decode(), shapes.get(node.input[0], [])[2:]
    if rule.startswith("SAME"):
        if node.op_type != "Conv" or len(size) != len(kernel) or not all(size):
            raise ValueError(f"{node.name or node.op_type}: {rule} padding cannot be written out; pass it as numbers")
        wanted["pads"] = _same(size, kernel, strides, dilations, upper=rule == "SAME_UPPER")
    rest = [attribute for attribute in node.attribute if attribute.name not in ATTRIBUTES]
    explicit = [helper.make_attribute(name, value) for name, value in wanted.items()]
    copies = [type(attribute).FromString(attribute.SerializeToString()) for attribute in (*explicit, *rest)]
    del node.attribute[:]
    node.attribute.extend(sorted(copies, key=lambda attribute: attribute.name))


def _same(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], *, upper: bool
) -> list[int]:
    """`pads` of an output of ceil(size / stride); the odd pixel is at the end for SAME_UPPER."""
    begin, end = [], []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        begin.append(total // 2 if upper else total - total // 2)
        end.append(total - begin[-1])
    return [*begin, *end]
