"""Switches off what libraries report to their makers: called on import of edgemt and deploy, before any of them.

ONNX Runtime 1.29 and later sends events with file, graph and producer names and a device id, and resolves a host name;
it reads its variable once, when it is imported. Sources: microsoft/onnxruntime pull request 27379; the constants of
huggingface_hub; `openvino_telemetry` and `nncf.telemetry`, which use a stub where that package cannot be imported.
"""

from __future__ import annotations

import os
import sys
import warnings

OFF = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # of huggingface_hub, timm and transformers: versions and a session number
    "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers would ask a service to convert a model that it loads
    "DO_NOT_TRACK": "1",
}


def switch_off() -> None:
    """Set the variables of `OFF` for this process and its children, and hide `openvino_telemetry`.

    Warns, once, where ONNX Runtime or `openvino_telemetry` was imported earlier: its reporting cannot be stopped then.
    """
    late = "onnxruntime" in sys.modules and os.environ.get("ORT_DISABLE_TELEMETRY") != "1"
    os.environ.update(OFF)
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    names = ["onnxruntime"] * late + ["openvino_telemetry"] * (sys.modules["openvino_telemetry"] is not None)
    if names:
        warnings.warn(
            f"{' and '.join(names)} was imported before edgemt and may report to its maker; import edgemt first, "
            "or set ORT_DISABLE_TELEMETRY=1 in the environment",
            RuntimeWarning,
            stacklevel=3,
        )
