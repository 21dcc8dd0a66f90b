"""Execution providers that ONNX Runtime loads from a package of their vendor, beside any build of onnxruntime.

A row for each package that offers `get_ep_name()` and `get_library_path()`: the library is registered once in this
process, and a session gets one of the devices that it finds. VitisAI has no such package: AMD's own builds of
onnxruntime contain it, `onnxruntime:VITISAI` (`deploy.runtimes.onnxruntime_backend`).
Source: https://onnxruntime.ai/docs/execution-providers/plugin-ep-libraries/usage.html

The packages were read at onnxruntime-ep-openvino 1.8.1, onnxruntime-qnn 2.7.0, onnxruntime-ep-nv-tensorrt-rtx 0.5.0;
of these, the first has run here, on a processor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from deploy.package.model_bytes import ModelBytes
from deploy.runtimes.onnxruntime_backend import Arithmetic, ProviderTarget, load_on
from deploy.runtimes.runner import LoadedModel, RuntimeOptions, first_line

_NEEDS = "1.23"  # the first onnxruntime with plug-in providers


@dataclass(frozen=True)
class Plugin:
    """What varies between the packages."""

    package: str  # Python module
    pip: str
    device: str  # the default one: CPU, GPU or NPU
    precisions: tuple[str, ...]  # arithmetic of float layers that a caller may request
    settings: Callable[[Any, Any, str, RuntimeOptions], Mapping[str, str]]  # package, device, kind, options
    default_kind: Callable[[Any], str]  # device -> arithmetic of float layers where none is requested


def _openvino_settings(package: Any, device: Any, kind: str, options: RuntimeOptions) -> Mapping[str, str]:
    """`cache_dir` is not used: the provider would run any blob in that folder."""
    config = {"PERFORMANCE_HINT": options.hint.upper(), "INFERENCE_PRECISION_HINT": kind}
    name = device.device.type.name
    if name == "CPU":
        config["INFERENCE_NUM_THREADS"] = str(options.threads)
    if options.streams is not None and name != "NPU":
        config["NUM_STREAMS"] = str(options.streams)
    return {"load_config": json.dumps({name: config})}


def _openvino_kind(device: Any) -> str:
    """What OpenVINO takes by default: half precision, on a processor bfloat16 where it computes in it."""
    if device.device.type.name != "CPU":
        return "f16"
    return "bf16" if "BF16" in device.ep_metadata.get("OPTIMIZATION_CAPABILITIES", "").split() else "f32"


def _qnn_settings(package: Any, device: Any, kind: str, options: RuntimeOptions) -> Mapping[str, str]:
    gpu = device.device.type.name == "GPU"
    return {"backend_path": package.get_qnn_gpu_path() if gpu else package.get_qnn_htp_path()}


PLUGINS: dict[str, Plugin] = {
    "openvino": Plugin(
        "onnxruntime_ep_openvino",
        "onnxruntime-ep-openvino",
        device="CPU",
        precisions=("f32", "bf16", "f16"),
        settings=_openvino_settings,
        default_kind=_openvino_kind,
    ),
    "qnn": Plugin(
        "onnxruntime_qnn",
        "onnxruntime-qnn",
        device="NPU",
        precisions=("f16",),
        settings=_qnn_settings,
        default_kind=lambda device: "f16",  # `enable_htp_fp16_precision`, on by default
    ),
    "tensorrt_rtx": Plugin(
        "onnxruntime_ep_nv_tensorrt_rtx",
        "onnxruntime-ep-nv-tensorrt-rtx",
        device="GPU",
        precisions=("tf32",),
        settings=lambda package, device, kind, options: {},
        default_kind=lambda device: "tf32",
    ),
}


def load(model: ModelBytes, options: RuntimeOptions, *, plugin: str) -> LoadedModel:
    """Load a graph on a device of a plug-in provider. Raises ValueError for a device or precision that it lacks."""
    row = PLUGINS[plugin]
    package = import_module(row.package)
    wanted = (options.device or row.device).upper()
    found = _devices(plugin)
    device = next((one for one in found if one.device.type.name == wanted), None)
    if device is None:
        there = ", ".join(dict.fromkeys(one.device.type.name for one in found)) or "no device"
        raise ValueError(f"device {wanted!r}: {row.pip} finds {there} here; is the driver installed?")
    kind = options.precision or row.default_kind(device)
    settings = dict(row.settings(package, device, kind, options))
    target = ProviderTarget(
        provider=package.get_ep_name(),
        device=wanted,
        arithmetic=Arithmetic(kind, kind if wanted == "CPU" else "f16"),
        add_to=lambda session_options: session_options.add_provider_for_devices([device], settings),
        details={"onnxruntime": import_module("onnxruntime").__version__, "vendor": device.ep_vendor},
    )
    return load_on(target, model, options)


def missing(plugin: str) -> str | None:
    """What this machine lacks besides the package: onnxruntime, a library, a device. None where nothing is missing."""
    row = PLUGINS[plugin]
    if find_spec(row.package) is None:
        return None  # the import error names what to install
    try:
        if _devices(plugin):
            return None
    except Exception as error:  # the library of the vendor does not load
        return first_line(error)
    return f"{row.pip} finds no device here; is the driver installed?"


@cache
def _devices(plugin: str) -> tuple[Any, ...]:
    """Devices of a provider, whose library is registered for the rest of this process. Raises ValueError."""
    row = PLUGINS[plugin]
    try:
        ort = import_module("onnxruntime")
    except ImportError:
        raise ValueError(f"{row.pip} needs onnxruntime; pip install onnxruntime") from None
    if not hasattr(ort, "register_execution_provider_library"):
        raise ValueError(f"{row.pip} needs onnxruntime {_NEEDS}, this is {ort.__version__}; update it")
    package = import_module(row.package)
    try:
        ort.register_execution_provider_library(f"edgemt-{plugin}", package.get_library_path())
    except Exception as error:  # its exceptions share no base class
        cause = first_line(error).rpartition("error: ")[2]
        raise ValueError(f"the library of {row.pip} does not load ({cause})") from None
    name = package.get_ep_name()
    return tuple(device for device in ort.get_ep_devices() if device.ep_name == name)
