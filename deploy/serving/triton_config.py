"""config.pbtxt of Triton for a graph of a package: protocol-buffer text of ModelConfig, written without protobuf."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_WARM_CALLS = 10


class EnumValue(str):
    """A value of an enumeration, which is written without quotes."""


def triton_config(
    *,
    name: str,
    runtime: str,
    file: str,
    shape: tuple[int, ...],
    int8: bool,
    device: str,
    instances: int,
    warm: bool,
    outputs: Sequence[str] = ("mask",),
) -> str:
    """The text for uint8 frames of `shape` [1, H, W, K]. No batching: the batch size of the graph is 1.

    outputs: names of the graph's outputs, each uint8 [1, H, W].
    """
    frame = {"data_type": EnumValue("TYPE_UINT8"), "dims": list(shape)}
    message: dict[str, Any] = {
        "name": name,
        "backend": runtime,
        "default_model_filename": file,
        "max_batch_size": 0,
        "input": [{"name": "frame", **frame}],
        "output": [{"name": output, **frame, "dims": list(shape[:3])} for output in outputs],
        "version_policy": {"latest": {"num_versions": 1}},
        "instance_group": [{"count": instances, "kind": EnumValue("KIND_GPU" if device == "gpu" else "KIND_CPU")}],
        "model_warmup": [
            {
                "name": "golden" if warm else "zeros",
                "batch_size": 1,
                "inputs": [
                    {
                        "key": "frame",
                        "value": {**frame, **({"input_data_file": "frame"} if warm else {"zero_data": True})},
                    }
                ],
                "count": _WARM_CALLS,
            }
        ],
    }
    if runtime == "openvino":
        hint = {"PERFORMANCE_HINT": "LATENCY" if instances == 1 else "THROUGHPUT", "NUM_STREAMS": str(instances)}
        message["parameters"] = [{"key": key, "value": {"string_value": value}} for key, value in hint.items()]
    elif device == "gpu" and int8:  # only TensorRT has integer kernels for this form
        tensorrt = {"name": "tensorrt", "parameters": [{"key": "precision_mode", "value": "INT8"}]}
        message["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": [tensorrt]}}
    return protobuf_text(message)


def protobuf_text(message: Mapping[str, Any], indent: str = "") -> str:
    """Protocol-buffer text of {field: value}; mappings are messages, lists repeated fields, `EnumValue`s enumerated."""
    lines = []
    for field, value in message.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{field} {{\n{protobuf_text(value, indent + '  ')}{indent}}}\n")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines.extend(protobuf_text({field: inner}, indent) for inner in value)
        else:
            lines.append(f"{indent}{field}: {_scalar(value)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_scalar(inner) for inner in value)}]"
    if isinstance(value, EnumValue):
        return str(value)
    return json.dumps(value)
