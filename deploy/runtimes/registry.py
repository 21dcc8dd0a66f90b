"""The table of runtimes: one `RuntimeSpec` holds everything that differs between them.

A new runtime is a backend module and a row here. No runtime is imported until a model is loaded on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from deploy.package.files import IR, IR_FP16, IR_FP32, IR_INT8, ONNX, ONNX_FP16, ONNX_FP32, ONNX_INT8, PTE_INT8
from deploy.package.model_bytes import ModelBytes
from deploy.runtimes import (
    executorch_backend,
    layer_profiles,
    onnxruntime_backend,
    onnxruntime_plugins,
    openvino_backend,
    tensorrt_api,
    tensorrt_backend,
)
from deploy.runtimes.runner import ErrorPatterns, LoadedGraph, LoadedModel, RuntimeOptions, first_line, import_runtime

FILE_TYPES = {
    ".onnx": "an ONNX graph",
    ".xml": "an OpenVINO graph",
    ".engine": "a TensorRT engine",
    ".pte": "an ExecuTorch program",
}


@dataclass(frozen=True)
class RuntimeSpec:
    """What varies from runtime to runtime."""

    package: str  # Python module
    files: dict[str, tuple[str, ...]]  # "int8", "fp16", "fp32" -> files of a package, first choice first
    precisions: tuple[str, ...]  # arithmetic of float layers that a caller may request
    load: Callable[[ModelBytes, RuntimeOptions], LoadedModel] | None  # None: cannot run files of a package
    about: str
    measured_files: tuple[str, ...] = ()  # files of a package that are measured on this runtime when it is made
    file_types: tuple[str, ...] = (".onnx",)
    reference_precision: str | None = None  # precision comparable with other runtimes, where it is not the default
    pip: str | None = None  # what to install, where it is not called `package`
    distributions: tuple[str, ...] = ()  # whose installed versions belong to the record of a measurement
    errors: ErrorPatterns = ErrorPatterns()
    load_graph: Callable[[ModelBytes, int], LoadedGraph] | None = None  # with threads; None: no prompts
    missing_requirement: Callable[[], str | None] = lambda: None  # what this machine lacks besides the Python package
    channel_block: int | None = None  # channels that its kernels compute at once; None: pruning cannot target it
    profile_layers: Callable[[bytes, int], dict[str, float]] | None = None  # ONNX bytes, threads -> layer -> ms
    own_quantization: bool = False  # its INT8 file has other ranges than the INT8 ONNX graph, so other masks


def _requirement_for_running() -> str | None:
    lack = tensorrt_backend.missing()
    return None if lack is None else f"{lack}; it builds engines all the same"


_TENSORRT: dict[str, Any] = {
    "files": {kind: (file,) for kind, file in ONNX.items()},
    "precisions": ("f32", "tf32"),
    "file_types": (".onnx", ".engine"),
    "errors": tensorrt_api.ERRORS,
    "channel_block": 32,  # of NVIDIA's integer tensor cores
}

# Channel block 16 was measured for OpenVINO, INT8 and float, on AVX-512: a convolution's time rises in steps of 16.
RUNTIMES: dict[str, RuntimeSpec] = {
    "openvino": RuntimeSpec(
        package="openvino",
        files={kind: (IR[kind], ONNX[kind]) for kind in ("int8", "fp32", "fp16")},
        precisions=("f32", "bf16", "f16"),
        load=openvino_backend.load,
        about="processor, GPU or NPU; the quickest with INT8 on x86",
        measured_files=(IR_INT8, IR_FP32, IR_FP16),
        file_types=(".xml", ".onnx"),
        reference_precision="f32",
        distributions=("openvino",),
        errors=openvino_backend.ERRORS,
        load_graph=openvino_backend.load_graph,
        channel_block=16,
        profile_layers=layer_profiles.openvino_layers,
    ),
    "onnxruntime": RuntimeSpec(
        package="onnxruntime",
        # symmetric INT8, the only form that every runtime reads, is slower than float here on most CPUs
        files={kind: (ONNX[kind],) for kind in ("fp32", "int8", "fp16")},
        precisions=("f32", "tf32", "f16"),
        load=onnxruntime_backend.load,
        about="processor, CUDA or TensorRT provider; runs everywhere",
        distributions=("onnxruntime", "onnxruntime-gpu"),
        errors=onnxruntime_backend.ERRORS,
        load_graph=onnxruntime_backend.load_graph,
        measured_files=(ONNX_INT8, ONNX_FP32, ONNX_FP16),
        channel_block=16,
        profile_layers=layer_profiles.onnxruntime_layers,
    ),
    "tensorrt": RuntimeSpec(
        package=tensorrt_api.PACKAGES["tensorrt"],
        load=partial(tensorrt_backend.load, runtime="tensorrt"),
        about="NVIDIA GPU, engines from `edgemt build`",
        pip=tensorrt_api.PIP["tensorrt"],
        distributions=("tensorrt",),
        missing_requirement=tensorrt_backend.missing,
        **_TENSORRT,
    ),
    "tensorrt_rtx": RuntimeSpec(
        package=tensorrt_api.PACKAGES["tensorrt_rtx"],
        load=partial(tensorrt_backend.load, runtime="tensorrt_rtx"),
        about="NVIDIA RTX GPU, engines from `edgemt build`, which needs no GPU",
        pip=tensorrt_api.PIP["tensorrt_rtx"],
        distributions=("tensorrt-rtx-cu13-bindings",),
        missing_requirement=_requirement_for_running,
        **_TENSORRT,
    ),
    "executorch": RuntimeSpec(
        package="executorch",
        files={"int8": (PTE_INT8,)},
        precisions=("f32",),
        load=executorch_backend.load,
        about="processor; programs from `edgemt export --format executorch`, each for one version of it",
        file_types=(".pte",),
        pip=executorch_backend.INSTALL,
        distributions=("executorch",),
        missing_requirement=executorch_backend.missing,
        own_quantization=True,
    ),
    "torch": RuntimeSpec(
        package="torch",
        files={},
        precisions=("f32",),
        load=None,
        about="the network itself, for comparison; not from a ship",
        distributions=("torch",),
        file_types=(),
    ),
}


_ABOUT = {
    "openvino": "OpenVINO inside ONNX Runtime: processor, GPU or NPU of Intel",
    "qnn": "NPU or GPU of Qualcomm, inside ONNX Runtime",
    "tensorrt_rtx": "NVIDIA RTX GPU, inside ONNX Runtime; nothing is built before",
}
RUNTIMES |= {
    f"onnxruntime_{name}": RuntimeSpec(
        package=plugin.package,
        files={kind: (ONNX[kind],) for kind in ("int8", "fp32", "fp16")},
        precisions=plugin.precisions,
        load=partial(onnxruntime_plugins.load, plugin=name),
        about=_ABOUT[name],
        pip=plugin.pip,
        reference_precision="f32" if "f32" in plugin.precisions else None,
        distributions=(plugin.pip,),
        errors=onnxruntime_backend.ERRORS,
        missing_requirement=partial(onnxruntime_plugins.missing, name),
    )
    for name, plugin in onnxruntime_plugins.PLUGINS.items()
}

# file of a package -> runtime that it is measured, tested and timed on when the package is made
RUNTIME_OF: dict[str, str] = {file: name for name, spec in RUNTIMES.items() for file in spec.measured_files}
CHECKED = tuple(name for name, spec in RUNTIMES.items() if spec.measured_files)  # these runtimes
DISTRIBUTIONS = tuple(distribution for spec in RUNTIMES.values() for distribution in spec.distributions)
INSTALL = f"pip install {' or '.join(CHECKED)}"  # what to do where no runtime works


def import_version(name: str) -> str:
    """Import the runtime `name` and return its version. Raises ValueError, naming what to install."""
    spec = RUNTIMES[name]
    module = import_runtime(spec.package, name, pip=spec.pip)
    return str(getattr(module, "__version__", None) or version(spec.distributions[0])).split("-")[0]


def available() -> dict[str, tuple[bool, str]]:
    """By runtime (works here, its version or the reason why not). Imports each runtime that could work."""
    found = {}
    for name, spec in RUNTIMES.items():
        try:
            missing = spec.missing_requirement() if find_spec(spec.package) is not None else None
            if missing is not None:
                found[name] = (False, f"installed, but {missing}")
                continue
            found[name] = (True, import_version(name))
        except Exception as error:  # a broken install may raise anything
            found[name] = (False, first_line(error))
    return found


def can_run_packages(name: str) -> bool:
    """True where the runtime `name` is known, runs files of a package, and works on this machine."""
    spec = RUNTIMES.get(name)
    if spec is None or spec.load is None or spec.missing_requirement() is not None:
        return False
    try:
        import_runtime(spec.package, name)
    except ValueError:
        return False
    return True


def first_available() -> str:
    """The first runtime of the table that works here. Raises ValueError where none does."""
    for name in filter(can_run_packages, RUNTIMES):
        return name
    raise ValueError(f"runtime 'auto': neither {' nor '.join(CHECKED)} is installed; {INSTALL}")
