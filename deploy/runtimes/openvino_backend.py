"""A graph on OpenVINO: processor, GPU or NPU of an Intel machine, one frame at a time or several in flight.

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
from deploy.runtimes.runner import Choice, Lane, Loaded, Stages, element_type, imported, only_one, said
from edgemt.io.atomic import NoSpaceError

_HEAVY = {"Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul"}
_NEEDS = {"f16": "FP16", "bf16": "BF16"}  # precision -> what a device must list to compute in it


@cache
def core() -> Any:
    """OpenVINO's Core, one for the whole process. Raises ValueError where OpenVINO is not installed.

    Each one's CPU plugin gives the thread that made it a stack for signals, and takes that away when it goes. Two
    that go in the order they came leave the thread with one that is gone, and the next Ctrl-C is a segmentation fault.
    """
    return imported("openvino", "openvino").Core()


def load(model: ModelBytes, choice: Choice) -> Loaded:
    """Raises ValueError for a device that is not there and a precision that it does not compute in."""
    ov = import_module("openvino")
    device = (choice.device or "CPU").upper()
    _check(device, choice.precision)
    compiled, from_cache = _compiled(ov, model, device, choice)
    only_one(compiled.inputs, compiled.outputs)
    ports = compiled.input(0), compiled.output(0)
    takes, gives = (
        (tuple(port.get_partial_shape().to_shape()), element_type(port.element_type.to_string())) for port in ports
    )
    plain = takes[1] == gives[1] == "uint8"
    first = _Request(ov, compiled, takes[0], in_place=plain)
    count = int(_property(compiled, "OPTIMAL_NUMBER_OF_INFER_REQUESTS") or 1)
    streams = choice.streams or (count if choice.hint == "throughput" else 1)

    def lanes() -> Sequence[Lane]:
        return [first, *(_Request(ov, compiled, takes[0], in_place=plain) for _ in range(streams - 1))]

    kinds = _executed(compiled)
    hint = _property(compiled, "INFERENCE_PRECISION_HINT")
    return Loaded(
        call=first,
        takes=takes,
        gives=gives,
        precision=said(kinds) if kinds else element_type(hint.to_string()) if hint is not None else "unknown",
        threads=int(_property(compiled, "INFERENCE_NUM_THREADS") or 1),
        device=device,
        lanes=lanes,
        streams=streams,
        stages=Stages(first.put, first.run, first.take),
        details={
            "device": _property(compiled, "FULL_DEVICE_NAME") or _property(core(), "FULL_DEVICE_NAME", device),
            "hint": choice.hint,
            "num_streams": _number(_property(compiled, "NUM_STREAMS")),
            "from_cache": from_cache,
        },
    )


def read(model: ModelBytes) -> Any:
    """OpenVINO's model of a graph's bytes."""
    if model.weights is None:
        return core().read_model(model.data)
    return core().read_model(model.data, model.weights)


def _config(device: str, choice: Choice) -> dict[str, Any]:
    config: dict[str, Any] = {"PERFORMANCE_HINT": choice.hint.upper()}
    if device == "CPU":
        config["INFERENCE_NUM_THREADS"] = choice.threads
    if choice.streams is not None and device in ("CPU", "GPU"):
        config["NUM_STREAMS"] = choice.streams
    if choice.precision is not None:
        config["INFERENCE_PRECISION_HINT"] = choice.precision
    return config


def _compiled(ov: Any, model: ModelBytes, device: str, choice: Choice) -> tuple[Any, bool]:
    """The compiled graph, and whether it came from `choice.cache`.

    OpenVINO's own CACHE_DIR would run whatever lies there. A blob of ours is sealed (`deploy.runtimes.cache_seal`) and
    named by all that it depends on; a foreign or damaged one is compiled anew.
    """
    config = _config(device, choice)
    if choice.cache is None:
        return core().compile_model(read(model), device, config), False
    chip = str(_property(core(), "FULL_DEVICE_NAME", device))
    weights = hashlib.sha256(model.weights or b"").hexdigest()
    context = json.dumps([model.sha256, weights, device, chip, str(ov.get_version()), config], sort_keys=True)
    name = hashlib.sha256(context.encode()).hexdigest()[:16]
    file = private_folder(choice.cache) / f"{model.path.stem}.{name}.blob"
    blob = read_sealed(file, context)
    if blob is not None:
        with suppress(RuntimeError):  # of another driver
            return core().import_model(blob, device, config), True
    compiled = core().compile_model(read(model), device, config)
    with suppress(RuntimeError, OSError, NoSpaceError):  # a device that cannot export, a folder that takes no more
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


class _Request:
    """One inference request with a buffer that the graph reads in place: half the overhead of handing arrays over."""

    def __init__(self, ov: Any, compiled: Any, shape: tuple[int, ...], *, in_place: bool) -> None:
        self._request = compiled.create_infer_request()
        self._buffer = np.zeros(shape, np.uint8)
        if in_place:
            self._request.set_input_tensor(ov.Tensor(self._buffer, shared_memory=True))
        self._mask = self._request.get_output_tensor(0).data

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        np.copyto(self._buffer, frame)
        self._request.infer(share_outputs=True)
        return self._mask.copy()

    def put(self, frame: np.ndarray) -> None:
        np.copyto(self._buffer, frame)

    def run(self) -> None:
        self._request.infer(share_outputs=True)

    def take(self) -> np.ndarray:
        return self._mask.copy()

    def start(self, frame: np.ndarray) -> None:
        np.copyto(self._buffer, frame)
        self._request.start_async(share_inputs=True)

    def finish(self) -> np.ndarray:
        self._request.wait()
        return self._mask.copy()


def _executed(compiled: Any) -> Mapping[str, int]:
    """Precision of each heavy layer as compiled; empty where a device does not tell."""
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
