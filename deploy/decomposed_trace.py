"""A trace of a network that the ONNX exporter need not trace a second time.

Before it translates a program of `torch.export`, the exporter decomposes it: it traces the whole program again, which
takes half of the time of an export. Where the program has operators alone that the decomposition would leave as they
are, and a few whose decomposition is one operator, `traced` does the same in place.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

ATEN = torch.ops.aten


def traced(module: nn.Module, *example: Tensor) -> ExportedProgram | nn.Module:
    """The program of a module for inputs like `example`, for `torch.onnx.export`; the module where it cannot be traced.

    The exporter then tries it in further ways and gives the reason. Layers of the module no longer work in place.
    """
    for layer in module.modules():
        if getattr(layer, "inplace", False):
            layer.inplace = False  # type: ignore[assignment]
    try:
        program = torch.export.export(module, example, strict=False)
    except Exception:  # of many types
        return module
    program.run_decompositions = MethodType(_decomposed, program)  # type: ignore[method-assign]
    return program


def _decomposed(program: ExportedProgram, table: dict[Any, Any] | None = None, **options: Any) -> ExportedProgram:
    nodes = [node for node in program.graph.nodes if node.op not in ("placeholder", "output")]
    if table is None or options or not all(_simple(node, table) for node in nodes):
        return ExportedProgram.run_decompositions(program, table, **options)
    for node in nodes:
        if node.target in REPLACE:
            with program.graph.inserting_before(node):
                new = REPLACE[node.target](node)
            node.replace_all_uses_with(new)
            program.graph_signature.replace_all_uses(node.name, new.name)  # of an output
            program.graph.erase_node(node)
    program.graph_module.recompile()
    return program


def _simple(node: Any, table: dict[Any, Any]) -> bool:
    """Whether the decomposition leaves a node as it is, or makes of it what REPLACE does."""
    target = node.target
    if node.op != "call_function" or target in table:
        return False
    if not isinstance(target, torch._ops.OpOverload):
        return target is operator.getitem
    if target is ATEN.to.dtype:
        return len(node.args) == 2 and not node.kwargs
    if target is ATEN.reshape.default:
        return all(isinstance(size, int) for size in node.meta["val"].shape)
    if target is ATEN.batch_norm.default:
        return len(node.args) == 9 and not node.args[5] and node.args[3] is not None
    if target in REPLACE or target in UNCHANGED:
        return True
    return not target._schema.is_mutable and not torch._C._dispatch_has_kernel_for_dispatch_key(
        target.name(), "CompositeImplicitAutograd"
    )


def _call(node: Any, target: Any, *args: Any, **options: Any) -> fx.Node:
    name = target.__name__.partition(".")[0]
    new = node.graph.create_node("call_function", target, args, options, name)
    new.meta = dict(node.meta)
    return new


def _to(node: Any) -> fx.Node:
    tensor, dtype = node.args
    if tensor.meta["val"].dtype == dtype:
        return tensor
    return _call(node, ATEN._to_copy.default, tensor, dtype=dtype)


def _reshape(node: Any) -> fx.Node:
    tensor, size = node.args[0], list(node.meta["val"].shape)
    try:
        tensor.meta["val"].view(size)
    except (RuntimeError, ValueError):  # its strides allow no view
        value = tensor.meta["val"].contiguous()
        tensor = _call(node, ATEN.clone.default, tensor, memory_format=torch.contiguous_format)
        tensor.meta["val"] = value
    return _call(node, ATEN.view.default, tensor, size)


def _chunk(node: Any) -> fx.Node:
    dim = node.args[2] if len(node.args) > 2 else 0
    return _call(node, ATEN.split.Tensor, node.args[0], node.meta["val"][0].shape[dim], dim)


def _batch_norm(node: Any) -> fx.Node:
    tensor, weight, bias, mean, variance, _, momentum, eps, _ = node.args
    norm = ATEN._native_batch_norm_legit_no_training.default
    new = _call(node, norm, tensor, weight, bias, mean, variance, momentum, eps)
    value = node.meta["val"]
    new.meta["val"] = (value, value.new_empty(0), value.new_empty(0))
    return _call(node, operator.getitem, new, 0)


REPLACE: dict[Any, Callable[[fx.Node], fx.Node]] = {
    ATEN.to.dtype: _to,
    ATEN.reshape.default: _reshape,
    ATEN.chunk.default: _chunk,
    ATEN.batch_norm.default: _batch_norm,
}
UNCHANGED = {  # composite operators that the exporter translates whole
    ATEN.conv2d.default,
    ATEN.linear.default,
    ATEN.pad.default,
    ATEN.upsample_bilinear2d.vec,
    ATEN.where.ScalarSelf,
}
