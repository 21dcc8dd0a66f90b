"""Graphs on OpenVINO: processor, GPU or NPU of an Intel machine, one frame at a time or several in flight.

Shapes: H W size in pixels, K channels.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from deploy.package.model_bytes import ModelBytes
from deploy.runtimes.cache_seal import private_folder, read_sealed, write_sealed
from deploy.runtimes.runner import (
    AsyncSlot,
    CallStages,
    ErrorPatterns,
    LoadedGraph,
    LoadedModel,
    OutputIndices,
    RuntimeOptions,
    check_outputs,
    element_type,
    import_runtime,
    precision_summary,
)
from edgemt.io.atomic import NoSpaceError

_HEAVY = {"Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul"}
_NEEDS = {"f16": "FP16", "bf16": "BF16"}  # precision -> what a device must list to compute in it
ERRORS = ErrorPatterns(
    too_new=r"unsupported opset: (?P<layer>opset\d+)|no conversion rule found for operations: (?P<rule>[^\n]+)",
    no_device=r"is not registered in the openvino|cannot load library \"[^\"]*_(?P<plugin>gpu|npu)_"
    r"|no available devices|no supported devices",
    not_the_cause=r"^(exception from |check '.*' failed at|frontend api failed|summary:|-- conversion is failed).*",
)


@cache
def core() -> Any:
    """OpenVINO's Core, one for the whole process. Raises ValueError where OpenVINO is not installed.

    There must be only one: the CPU plugin of each Core gives the thread that created it a signal stack and frees it at
    the end. Two Cores that end in the order of their creation leave the thread with a freed stack, and the next Ctrl-C
    is a segmentation fault.
    """
    return import_runtime("openvino", "openvino").Core()


def load(model: ModelBytes, options: RuntimeOptions) -> LoadedModel:
    """Load a graph. Raises ValueError for a missing device and for a precision that the device does not compute in."""
    ov = import_module("openvino")
    device = (options.device or "CPU").upper()
    _check(device, options.precision)
    compiled, from_cache = _compiled(ov, model, device, options)
    outputs = check_outputs(compiled.inputs, [_name(port) for port in compiled.outputs])
    mask, second = outputs.mask, outputs.uncertainty
    input_spec, output_spec = _spec(compiled.input(0)), _spec(compiled.output(mask))
    plain = input_spec[1] == output_spec[1] == "uint8"
    first = _InferRequest(ov, compiled, input_spec[0], in_place=plain, outputs=outputs)
    count = int(_property(compiled, "OPTIMAL_NUMBER_OF_INFER_REQUESTS") or 1)
    streams = options.streams or (count if options.hint == "throughput" else 1)

    def make_slots() -> Sequence[AsyncSlot]:
        shape = input_spec[0]
        more = (_InferRequest(ov, compiled, shape, in_place=plain, outputs=outputs) for _ in range(streams - 1))
        return [first, *more]

    kinds = _executed(compiled)
    hint = _property(compiled, "INFERENCE_PRECISION_HINT")
    precision = precision_summary(kinds) or (element_type(hint.to_string()) if hint is not None else "unknown")
    return LoadedModel(
        call=first,
        input_spec=input_spec,
        output_spec=output_spec,
        read_uncertainty=None if second is None else first.uncertainty,
        uncertainty_spec=None if second is None else _spec(compiled.output(second)),
        read_features=None if outputs.features is None else first.features,
        precision=precision,
        threads=int(_property(compiled, "INFERENCE_NUM_THREADS") or 1),
        device=device,
        make_slots=make_slots,
        streams=streams,
        stages=CallStages(first.copy_in, first.infer, first.copy_out),
        details={
            "device": _property(compiled, "FULL_DEVICE_NAME") or _property(core(), "FULL_DEVICE_NAME", device),
            "hint": options.hint,
            "num_streams": _number(_property(compiled, "NUM_STREAMS")),
            "from_cache": from_cache,
        },
    )


def _spec(port: Any) -> tuple[tuple[int, ...], str]:
    return tuple(port.get_partial_shape().to_shape()), element_type(port.element_type.to_string())


def _name(port: Any) -> str:
    return str(port.get_any_name()) if port.get_names() else ""


def load_graph(model: ModelBytes, threads: int) -> LoadedGraph:
    """Load a graph with any inputs and outputs, in float32 on the processor."""
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = core().compile_model(read(model), "CPU", {**config, "INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()

    def run(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        request.infer(dict(feed))
        return {port.any_name: request.get_tensor(port).data.copy() for port in compiled.outputs}

    return run, {port.any_name: tuple(port.get_partial_shape().to_shape()) for port in compiled.inputs}


def read(model: ModelBytes) -> Any:
    """The bytes of a graph as a model of OpenVINO, not compiled."""
    if model.weights is None:
        return core().read_model(model.data)
    return core().read_model(model.data, model.weights)


def _config(device: str, options: RuntimeOptions) -> dict[str, Any]:
    config: dict[str, Any] = {"PERFORMANCE_HINT": options.hint.upper()}
    if device == "CPU":
        config["INFERENCE_NUM_THREADS"] = options.threads
    if options.streams is not None and device in ("CPU", "GPU"):
        config["NUM_STREAMS"] = options.streams
    if options.precision is not None:
        config["INFERENCE_PRECISION_HINT"] = options.precision
    return config


def _compiled(ov: Any, model: ModelBytes, device: str, options: RuntimeOptions) -> tuple[Any, bool]:
    """The compiled graph, and True where it came from `options.cache`.

    CACHE_DIR of OpenVINO runs any file in that folder, so it is not used. Our cached blobs are authenticated
    (`deploy.runtimes.cache_seal`) and named by everything they depend on; in place of a foreign or damaged one the
    graph is compiled again.
    """
    config = _config(device, options)
    if options.cache is None:
        return core().compile_model(read(model), device, config), False
    chip = str(_property(core(), "FULL_DEVICE_NAME", device))
    weights = hashlib.sha256(model.weights or b"").hexdigest()
    context = json.dumps([model.sha256, weights, device, chip, str(ov.get_version()), config], sort_keys=True)
    name = hashlib.sha256(context.encode()).hexdigest()[:16]
    file = private_folder(options.cache) / f"{model.path.stem}.{name}.blob"
    blob = read_sealed(file, context)
    if blob is not None:
        with suppress(RuntimeError):  # written by another driver
            return core().import_model(blob, device, config), True
    compiled = core().compile_model(read(model), device, config)
    with suppress(RuntimeError, OSError, NoSpaceError):  # the device cannot export, or the folder is full
        made = compiled.export_model()
        write_sealed(file, context, made if isinstance(made, bytes) else made.getvalue())
    return compiled, False


def _check(device: str, precision: str | None) -> None:
    there = [str(name) for name in core().available_devices]
    if device.split(".")[0] not in {name.split(".")[0] for name in there} and not device.startswith("AUTO"):
        raise ValueError(f"device {device!r}: OpenVINO finds {', '.join(there)} here; is its driver installed?")
    able = [str(kind) for kind in _property(core(), "OPTIMIZATION_CAPABILITIES", device) or ()]
    if precision in _NEEDS and able and _NEEDS[precision] not in able:
        raise ValueError(f"precision {precision!r}: {device} computes {', '.join(sorted(able))} here; choose f32")


class _InferRequest:
    """One inference request with an input buffer that the graph reads in place: half the overhead of passing arrays."""

    def __init__(
        self, ov: Any, compiled: Any, shape: tuple[int, ...], *, in_place: bool, outputs: OutputIndices
    ) -> None:
        self._request = compiled.create_infer_request()
        self._buffer = np.zeros(shape, np.uint8)
        if in_place:
            self._request.set_input_tensor(ov.Tensor(self._buffer, shared_memory=True))
        self._mask = self._request.get_output_tensor(outputs.mask).data
        self._uncertainty, self._features = (
            None if index is None else self._request.get_output_tensor(index).data for index in outputs[1:]
        )

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        np.copyto(self._buffer, frame)
        self._request.infer(share_outputs=True)
        return self._mask.copy()

    def uncertainty(self) -> np.ndarray:
        """The second output of the last call."""
        assert self._uncertainty is not None
        return self._uncertainty.copy()

    def features(self) -> np.ndarray:
        """The features of the last call."""
        assert self._features is not None
        return self._features.copy()

    def copy_in(self, frame: np.ndarray) -> None:
        np.copyto(self._buffer, frame)

    def infer(self) -> None:
        self._request.infer(share_outputs=True)

    def copy_out(self) -> np.ndarray:
        return self._mask.copy()

    def start(self, frame: np.ndarray) -> None:
        np.copyto(self._buffer, frame)
        self._request.start_async(share_inputs=True)

    def finish(self) -> np.ndarray:
        self._request.wait()
        return self._mask.copy()


def _executed(compiled: Any) -> Mapping[str, int]:
    """Precision -> number of heavy layers of the compiled graph; empty where the device does not report it."""
    kinds: Counter[str] = Counter()
    try:
        nodes = compiled.get_runtime_model().get_ops()
    except RuntimeError:
        return kinds
    for node in nodes:
        info = node.get_rt_info()
        if "layerType" in info and "runtimePrecision" in info and info["layerType"].value in _HEAVY:
            kind = info["runtimePrecision"].value
            kinds["int8" if kind in ("i8", "u8") else kind] += 1
    return kinds


def _property(of: Any, name: str, device: str | None = None) -> Any:
    try:
        return of.get_property(name) if device is None else of.get_property(device, name)
    except (RuntimeError, TypeError):  # not every device has every property
        return None


def _number(value: Any) -> int | None:
    return int(value) if value is not None and str(value).isdigit() else None
