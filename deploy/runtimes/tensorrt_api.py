"""The Python module of TensorRT or TensorRT for RTX: import, logger, and the precision of each layer of an engine."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from deploy.runtimes.runner import ErrorPatterns, import_runtime

PACKAGES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx_bindings"}


PIP = {
    "tensorrt": "tensorrt (on a Jetson JetPack brings it)",
    "tensorrt_rtx": "tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs",
}


ERRORS = ErrorPatterns(
    other_engine=r"plan file is not compatible|incompatible.{0,20}(version|device|platform)|serialization.{0,60}version"
    r"|magictag|engine.{0,60}generated on|cross-platform engine|compute capability|safedeserialize"
    r"|deserializ\w+ .{0,40}fail",
    no_device=r"cuda (failure|error) (35|100)|cuda driver version is insufficient|no cuda-capable device",
)


OLDEST = 10  # the first major version with the strongly typed networks that we build


_HEAVY = re.compile(r"conv|correlation|gemm|matmul|matrixmultiply", re.IGNORECASE)


_KINDS = {  # our name of a precision -> pattern for the names in the inspector, the first match counts
    "int8": r"int8",
    "fp8": r"fp8|float8",
    "bf16": r"bf16|bfloat16",
    "f16": r"fp16|half|float16",
    "f32": r"fp32|float",
}


def import_tensorrt(runtime: str) -> Any:
    """The Python module of runtime "tensorrt" or "tensorrt_rtx". Raises ValueError where it is missing or too old."""
    trt = import_runtime(PACKAGES[runtime], runtime, pip=PIP[runtime])
    if runtime == "tensorrt" and int(trt.__version__.split(".")[0]) < OLDEST:
        raise ValueError(
            f"runtime 'tensorrt': version {trt.__version__} is too old, {OLDEST} or newer is needed (JetPack 6.1)"
        )
    return trt


def make_logger(trt: Any) -> Any:
    """A TensorRT logger that collects errors and the list of layers, and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.layers = ""

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(text.split()))
            elif text.startswith("Layers:"):
                self.layers = text

    return Log()


def layer_precisions(text: str) -> Mapping[str, int]:
    """Precision -> number of heavy layers, from the JSON of an engine inspector or the list of the builder.

    Empty where the text lists no layers. Heavy layers are convolutions and matrix products.
    """
    kinds: Counter[str] = Counter()
    for layer, reads in _layers(text):
        if _HEAVY.search(layer):
            kinds.update(
                [next((kind for kind, pattern in _KINDS.items() if re.search(pattern, reads, re.IGNORECASE)), "")]
            )
    kinds.pop("", None)
    return kinds


def _layers(text: str) -> list[tuple[str, str]]:
    """(type of layer, data type of its first input) of each layer."""
    if text.startswith("Layers:"):
        found = re.finditer(r"LayerType: (\w+), Inputs: \[ \{[^}]*?Datatype: (\w+)", text)
        return [(match[1], match[2]) for match in found]
    try:
        layers = json.loads(text).get("Layers", []) if text else []
    except ValueError:
        return []
    layers_with_input = [layer for layer in layers if isinstance(layer, dict) and layer.get("Inputs")]
    return [
        (
            f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}",
            str(layer["Inputs"][0].get("Datatype") or layer["Inputs"][0].get("Format/Datatype", "")),
        )
        for layer in layers_with_input
    ]
