"""INT8 for every runtime from one file: NNCF's symmetric Q/DQ with one scale a tensor for the activations.

Symmetric, because NVIDIA's parser takes nothing else; one scale a tensor, because ONNX Runtime takes nothing
else; OpenVINO runs the result with the kernels it has for its own format.

Shapes: H W input size, K image channels.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.export import INPUT, check, quiet
from edgemt.io.atomic import atomic_write

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
    """Write an INT8 copy of a float graph, its ranges taken from at most `frames` frames uint8 [1, H, W, K].

    The steps before the first convolution and from argmax on stay as they are, and so do the nodes named in `keep`
    (`deploy.quantization.sensitivity` finds which are worth it). `bias_correction` runs the graph once a layer to
    adjust biases: off for a graph that is only timed. The same frames give the same file. Raises ValueError when there
    is no frame, one that does not fit the graph, and for a name in `keep` that no node has.
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
    strangers = sorted(set(keep) - {node.name for node in model.graph.node})
    if strangers:
        raise ValueError(f"{onnx_in}: keep names {', '.join(strangers)}, and no node is called so")
    quantized = _quantized(model, batch, alone=left_alone(model) | set(keep), bias=bias_correction)
    for message in (quantized, quantized.graph, *quantized.graph.node):
        message.doc_string = ""
        del message.metadata_props[:]
    with atomic_write(onnx_out) as part:
        part.write_bytes(quantized.SerializeToString(deterministic=True))
        check(part, name=str(onnx_out))
    return Path(onnx_out)


def name_nodes(model: onnx.ModelProto) -> None:
    """Gives every node without a name one that is the same each time, for `keep`."""
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"


def _quantized(
    model: onnx.ModelProto, batch: list[np.ndarray], *, alone: set[str], bias: bool = True
) -> onnx.ModelProto:
    talk = io.StringIO()
    with quiet(), contextlib.redirect_stdout(talk), contextlib.redirect_stderr(talk):
        import nncf
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            QuantizationParameters,
        )

        logging.getLogger("nncf").setLevel(logging.ERROR)  # its own function does that to handlers of others too
        return nncf.quantize(
            model,
            nncf.Dataset(batch, lambda frame: {INPUT: frame}),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(batch),
            ignored_scope=nncf.IgnoredScope(names=sorted(alone), validate=False),
            advanced_parameters=AdvancedQuantizationParameters(
                disable_bias_correction=not bias,
                activations_quantization_params=QuantizationParameters(per_channel=False),
            ),
        )


def left_alone(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes that no layer has touched yet (normalisation), and of those that choose the classes.

    The choice begins at argmax, or at the fixed upsampling of a network that makes its own mask: the
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
    return names


def accepted_by_nvidia_parser(path: str | Path, *, build: bool = False) -> list[str] | None:
    """What NVIDIA's ONNX parser objects to, and with `build` its engine builder too: no GPU needed.

    An empty list is a yes. None: TensorRT for RTX, whose wheels hold parser and builder, is not installed. A
    yes says that TensorRT takes the graph, not how fast it runs.
    """
    try:
        importlib.import_module("tensorrt_rtx_libs")
        trt: Any = importlib.import_module("tensorrt_rtx_bindings")
    except (ImportError, OSError):
        return None
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(Path(path).read_bytes()):
        return [str(parser.get_error(i).desc()).strip() for i in range(parser.num_errors)] or [
            "refused, no reason given"
        ]
    if build and builder.build_serialized_network(network, builder.create_builder_config()) is None:
        return ["parsed, but no engine could be built"]
    return []
