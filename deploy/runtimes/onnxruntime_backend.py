"""Graphs on ONNX Runtime with its CPU, CUDA, TensorRT or VitisAI provider, or a plug-in one (`onnxruntime_plugins`).

A provider that does not start is refused. Nodes that a provider leaves to the processor are reported, or refused too.

Shapes: H W size in pixels, K channels.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deploy.package.model_bytes import ModelBytes
from deploy.package.onnx_inspect import parse_graph
from deploy.runtimes.cache_seal import private_folder
from deploy.runtimes.onnxruntime_placement import Placement, counted, fallback, record_placement, short_name
from deploy.runtimes.runner import (
    AsyncSlot,
    CallStages,
    ErrorPatterns,
    LoadedGraph,
    LoadedModel,
    RuntimeOptions,
    check_outputs,
    element_type,
    import_runtime,
    precision_summary,
)

PROVIDERS = {
    "CPU": "CPUExecutionProvider",
    "CUDA": "CUDAExecutionProvider",
    "TENSORRT": "TensorrtExecutionProvider",
    "VITISAI": "VitisAIExecutionProvider",
}
_PRECISIONS = {"CPU": ("f32",), "CUDA": ("f32", "tf32"), "TENSORRT": ("f32", "tf32", "f16"), "VITISAI": ()}
_FROM = {"VITISAI": "an onnxruntime with it comes with AMD's Ryzen AI or Vitis AI software"}
log = logging.getLogger("edgemt.deploy")
ERRORS = ErrorPatterns(
    too_new=r"unsupported model ir version: \d+, max supported ir version: (?P<ir>\d+)"
    r"|opset (?P<opset>\d+) is under development.*?till opset (?P<most>\d+)"
    r"|no op registered for (?P<op>\S+) with domain_version",
    no_device=r"provider.{0,40}(not (enabled|available)|is not in available)",
    not_the_cause=r"\S*/\S+\.(cc|cpp|h|hpp):\d+ .*?\) (?=(?-i:[A-Z]))|^\[ONNXRuntimeError\] : \d+ : \w+ : ",
)
_INTEGER_OPS = {
    "QLinearConv",
    "QGemm",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "MatMulIntegerToFloat",
}
_FLOAT_OPS = {
    "Conv",
    "FusedConv",
    "NhwcFusedConv",
    "ConvTranspose",
    "Gemm",
    "FusedGemm",
    "MatMul",
    "FusedMatMul",
}


class Arithmetic(NamedTuple):
    """What a provider computes layers in that are not INT8, by the type of their weights."""

    of_float32: str
    of_float16: str


class ProviderTarget(NamedTuple):
    """Where a session runs: an execution provider and its device."""

    provider: str  # full name
    device: str
    arithmetic: Arithmetic
    add_to: Callable[[Any], None]  # adds a plug-in provider to the options of a session
    providers: Sequence[Any] | None = None  # of a provider that is part of onnxruntime: the list for the session
    details: Mapping[str, Any] = {}


def load(model: ModelBytes, options: RuntimeOptions) -> LoadedModel:
    """Load a graph. Raises ValueError for a provider that this installation lacks or that does not start."""
    ort = import_module("onnxruntime")
    device = (options.device or "CPU").upper()
    quantized = "QuantizeLinear" in parse_graph(model.data, source=model.path).ops
    providers = _providers(ort, device, options, quantized=quantized)
    target = ProviderTarget(
        provider=PROVIDERS[device],
        device=device,
        arithmetic=arithmetic_on(device, options.precision),
        add_to=lambda session_options: None,
        providers=providers,
    )
    return load_on(target, model, options)


def load_on(target: ProviderTarget, model: ModelBytes, options: RuntimeOptions) -> LoadedModel:
    """Load a graph on one provider; nodes that it does not take run on the processor, which is logged in one line.

    Raises ValueError where the provider does not start, and for such nodes unless `options.cpu_fallback`.
    """
    ort = import_module("onnxruntime")
    on_cpu = target.device == "CPU"
    streams = options.streams or (options.threads if options.hint == "throughput" and on_cpu else 1)
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = max(options.threads // streams, 1)
    session_options.inter_op_num_threads = 1
    session_options.log_severity_level = 3
    target.add_to(session_options)
    session, layers, placement = _session(ort, target, model, session_options)
    if text := fallback(placement, target.provider):
        if not options.cpu_fallback:
            raise ValueError(f"{text}; leave out --no-cpu-fallback to accept that, or choose another runtime")
        _warn_once(f"{model.path}: {text}")
    elif not placement and not options.cpu_fallback:
        raise ValueError(f"onnxruntime {ort.__version__} does not report where nodes run without a temporary folder")
    inputs, outputs = session.get_inputs(), session.get_outputs()
    found = check_outputs(inputs, [output.name for output in outputs])
    mask, second, third = outputs[found.mask], found.uncertainty, found.features
    wanted = [mask.name, *(outputs[index].name for index in (second, third) if index is not None)]
    name, run = inputs[0].name, session.run
    binding = _IoBinding(lambda frame: run(wanted, {name: frame}))
    return LoadedModel(
        call=binding.call,
        input_spec=(tuple(inputs[0].shape), element_type(inputs[0].type)),
        output_spec=_spec(mask),
        read_uncertainty=None if second is None else binding.uncertainty,
        uncertainty_spec=None if second is None else _spec(outputs[second]),
        read_features=None if third is None else binding.last,
        precision=executed(layers, target.arithmetic),
        threads=options.threads,
        device=target.device,
        make_slots=lambda: _slots(binding, streams),
        streams=streams,
        stages=CallStages(binding.copy_in, binding.infer, binding.copy_out) if on_cpu else None,
        details={
            "provider": target.provider,
            "hint": options.hint,
            "placement": counted(placement),
            **target.details,
        },
    )


def _session(
    ort: Any, target: ProviderTarget, model: ModelBytes, session_options: Any
) -> tuple[Any, Mapping[str, int], Placement]:
    """(session, precision of the weights -> number of layers, where its nodes run).

    The optimised graph of onnxruntime's own kernels shows which layers run in integers.
    """
    graph = parse_graph(model.data, source=model.path)
    chosen = {} if target.providers is None else {"providers": target.providers}
    read_placement = record_placement(
        ort, session_options, provider=target.provider, operators=tuple(graph.ops.elements())
    )
    if "QuantizeLinear" in graph.ops and target.provider in (PROVIDERS["CPU"], PROVIDERS["CUDA"]):
        with _scratch() as fused:
            session_options.optimized_model_filepath = str(fused)
            session = ort.InferenceSession(model.data, session_options, **chosen)
            layers: Mapping[str, int] = _fused(parse_graph(fused.read_bytes(), source=model.path).ops)
    else:
        session, layers = ort.InferenceSession(model.data, session_options, **chosen), graph.layers
    if target.provider not in session.get_providers():  # ONNX Runtime falls back to the processor silently
        advice = "check its CUDA and cuDNN" if target.device in ("CUDA", "TENSORRT") else "check its driver"
        raise ValueError(f"device {target.device!r}: {target.provider} does not start here; {advice}")
    return session, layers, read_placement(session)


@cache
def _warn_once(text: str) -> None:
    log.warning("%s", text)


def _spec(value: Any) -> tuple[tuple[int, ...], str]:
    return tuple(value.shape), element_type(value.type)


def load_graph(model: ModelBytes, threads: int) -> LoadedGraph:
    """Load a graph with any inputs and outputs, in float32 on the processor. Raises ValueError where it cannot."""
    ort = import_runtime("onnxruntime", "onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    try:
        session = ort.InferenceSession(model.data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class
        raise ValueError(str(error)) from None
    names = [value.name for value in session.get_outputs()]

    def run(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, dict(feed)), strict=True))

    return run, {value.name: tuple(value.shape) for value in session.get_inputs()}


@contextmanager
def _scratch() -> Iterator[Path]:
    """A file that the runtime may write: in memory where possible, so that a read-only root needs no folder."""
    try:
        descriptor = os.memfd_create("fused.onnx")  # type: ignore[attr-defined, unused-ignore]
    except (AttributeError, OSError):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "fused.onnx"
        return
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _fused(ops: Mapping[str, int]) -> dict[str, int]:
    """Precision -> number of layers, from the operators of the optimised graph."""
    return {
        "int8": sum(n for op, n in ops.items() if op in _INTEGER_OPS),
        "f32": sum(n for op, n in ops.items() if op in _FLOAT_OPS),
    }


def arithmetic_on(device: str, precision: str | None) -> Arithmetic:
    """The processor computes float16 weights in float32. On NVIDIA's GPUs float32 is TF32 unless another is requested.

    What AMD's provider makes of float layers is not known here.
    """
    of_float32 = precision or {"CPU": "f32", "VITISAI": "unknown"}.get(device, "tf32")
    return Arithmetic(of_float32, of_float32 if device == "CPU" else "f16")


def executed(layers: Mapping[str, int], arithmetic: Arithmetic) -> str:
    """The precisions that layers with weights of these types are computed in, commonest first: "f16+tf32".

    layers: "int8", "f16", "f32" -> number of layers.
    """
    kinds = {"f32": arithmetic.of_float32, "f16": arithmetic.of_float16}
    found: Counter[str] = Counter()
    for weights, count in layers.items():
        found[kinds.get(weights, weights)] += count
    return precision_summary(found) or arithmetic.of_float32


def _providers(ort: Any, device: str, options: RuntimeOptions, *, quantized: bool) -> list[Any]:
    if device not in PROVIDERS:
        raise ValueError(f"device {device!r}: onnxruntime takes {', '.join(PROVIDERS)}")
    installed = ort.get_available_providers()
    if PROVIDERS[device] not in installed:
        short = ", ".join(short_name(name) for name in installed)
        advice = _FROM.get(device, "pip install onnxruntime-gpu")
        raise ValueError(f"device {device!r}: this onnxruntime has {short} only; {advice}")
    if options.precision not in (None, *_PRECISIONS[device]):
        raise ValueError(f"precision {options.precision!r}: onnxruntime on {device} takes {_PRECISIONS[device]}")
    settings: dict[str, Any] = {}
    if device == "CUDA":
        settings = {"use_tf32": int(options.precision != "f32")}
    elif device == "TENSORRT":
        settings = {"trt_fp16_enable": options.precision == "f16", "trt_int8_enable": quantized}
        if options.cache is not None and not options.signed:  # the engines of the provider carry no MAC
            private_folder(options.cache)
            settings |= {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(options.cache)}
    return [(PROVIDERS[device], settings)]


class _IoBinding:
    """Input and output of a session for a call in three steps; the session reads the frame without a copy."""

    def __init__(self, compute: Any) -> None:
        self.compute = compute
        self._frame = np.zeros(0, np.uint8)
        self._outputs: list[np.ndarray] = []  # mask; uncertainty and features if the graph has them

    def call(self, frame: np.ndarray) -> np.ndarray:
        self._outputs = self.compute(frame)
        return self._outputs[0]

    def uncertainty(self) -> np.ndarray:
        return self._outputs[1]

    def last(self) -> np.ndarray:
        """The last output: the features of a graph that has them."""
        return self._outputs[-1]

    def copy_in(self, frame: np.ndarray) -> None:
        self._frame = frame

    def infer(self) -> None:
        self._outputs = self.compute(self._frame)

    def copy_out(self) -> np.ndarray:
        return self._outputs[0]


class _ThreadSlot:
    """One frame in flight: a thread of a pool that runs the session, which several threads may do at once."""

    def __init__(self, pool: ThreadPoolExecutor, compute: Any) -> None:
        self._pool, self._compute = pool, compute
        self._future: Future[list[np.ndarray]] | None = None

    def start(self, frame: np.ndarray) -> None:
        self._future = self._pool.submit(self._compute, frame.copy())  # the caller may reuse its buffer

    def finish(self) -> np.ndarray:
        assert self._future is not None
        return self._future.result()[0]


def _slots(binding: _IoBinding, count: int) -> Sequence[AsyncSlot]:
    pool = ThreadPoolExecutor(count, thread_name_prefix="slot")
    return [_ThreadSlot(pool, binding.compute) for _ in range(count)]
