"""INT8 graphs that every runtime reads: symmetric Q/DQ of NNCF with one scale per tensor for the activations.

Symmetric, since NVIDIA's parser requires it; one scale per tensor, since ONNX Runtime requires it; OpenVINO runs the
result with the same kernels as its own format.

Shapes: H W input size, K image channels.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deploy.export import INPUT, UNCERTAINTY, check, silence, write_graph

if TYPE_CHECKING:
    import onnx

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def quantize(
    onnx_in: str | Path,
    onnx_out: str | Path,
    *,
    calibration: Iterable[np.ndarray],
    frames: int = 300,
    keep: Collection[str] = (),
    bias_correction: bool = True,
) -> Path:
    """Write an INT8 copy of a float graph, calibrated with at most `frames` frames uint8 [1, H, W, K].

    Nodes before the first convolution and from argmax on stay in float, and so do the nodes named in `keep` (see
    `deploy.quantization.sensitivity`). `bias_correction` runs the graph once for each layer to adjust biases: switch it
    off for a graph that is only timed. The same frames give the same file. Raises ValueError without frames, for a
    frame that does not fit the graph, and for a name in `keep` that no node has.
    """
    import onnx

    if frames < 1:
        raise ValueError(f"quantize.frames = {frames}: must be 1 or more; 100 to 300 are enough")
    check(onnx_in)
    model = onnx.load(str(onnx_in))
    wanted = tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
    batch: list[np.ndarray] = []
    for frame in islice(calibration, frames):
        if frame.shape != wanted or frame.dtype != np.uint8:
            raise ValueError(
                f"{onnx_in}: takes uint8 frames {wanted}, one for calibration is {frame.dtype} {frame.shape}"
            )
        batch.append(frame)
    if not batch:
        raise ValueError(f"{onnx_in}: no calibration frames; quantization needs real ones, unlabelled images do")
    name_nodes(model)
    unknown = sorted(set(keep) - {node.name for node in model.graph.node})
    if unknown:
        raise ValueError(f"{onnx_in}: keep names {', '.join(unknown)}, and no node has that name")
    quantized = _quantized(model, batch, excluded=excluded_nodes(model) | set(keep), bias=bias_correction)
    for message in (quantized, quantized.graph, *quantized.graph.node):
        message.doc_string = ""
        del message.metadata_props[:]
    return write_graph(quantized, onnx_out)


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node without a name a reproducible one, for `keep`."""
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"


def _quantized(
    model: onnx.ModelProto, batch: list[np.ndarray], *, excluded: set[str], bias: bool = True
) -> onnx.ModelProto:
    output = io.StringIO()
    with silence(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        import nncf
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            QuantizationParameters,
        )

        logging.getLogger("nncf").setLevel(
            logging.ERROR
        )  # nncf's own function changes the handlers of other loggers too
        return nncf.quantize(
            model,
            nncf.Dataset(batch, lambda frame: {INPUT: frame}),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(batch),
            ignored_scope=nncf.IgnoredScope(names=sorted(excluded), validate=False),
            advanced_parameters=AdvancedQuantizationParameters(
                disable_bias_correction=not bias,
                activations_quantization_params=QuantizationParameters(per_channel=False),
            ),
        )


def excluded_nodes(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes before the first layer (normalisation), and of those that choose the classes.

    The choice of the classes begins at argmax, or at the fixed upsampling of a network with its own `mask`: the
    convolution whose weight is the buffer `phases`.
    """
    raw = {model.graph.input[0].name}  # depends on the frame, and on no layer
    final = {tensor.name for tensor in model.graph.initializer if tensor.name.endswith("phases")}
    names: set[str] = set()
    for node in model.graph.node:  # in topological order, by the standard
        if node.op_type in ("ArgMax", "TopK") or final & set(node.input):
            final |= set(node.output)
            names.add(node.name)
        elif raw & set(node.input) and node.op_type not in LAYERS:
            raw |= set(node.output)
            names.add(node.name)
    return names | nodes_of_uncertainty(model)


def nodes_of_uncertainty(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes after the last layer of the uncertainty head; empty for a graph without that output.

    Eight bits before the square root would leave few values near 0.
    """
    producers = {output: node for node in model.graph.node for output in node.output}
    names: set[str] = set()
    open_tensors = [value.name for value in model.graph.output if value.name == UNCERTAINTY]
    while open_tensors:
        node = producers.get(open_tensors.pop())
        if node is None or (node.op_type in LAYERS and not any(name.endswith("phases") for name in node.input)):
            continue
        names.add(node.name)
        open_tensors += node.input
    return names
