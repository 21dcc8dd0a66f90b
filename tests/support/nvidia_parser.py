"""NVIDIA's ONNX parser and engine builder, from the wheels of TensorRT for RTX: no GPU needed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


def accepted_by_nvidia_parser(path: str | Path, *, build: bool = False) -> list[str] | None:
    """The objections of NVIDIA's ONNX parser to a graph, and with `build` those of its engine builder.

    Empty where the graph is accepted, whatever its speed. None where TensorRT for RTX is not installed.
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
