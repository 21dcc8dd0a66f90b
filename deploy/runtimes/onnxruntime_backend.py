"""Graphs on ONNX Runtime with its CPU, CUDA or TensorRT provider; a silent fallback to another provider is refused.

Shapes: H W size in pixels, K channels.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from deploy.package.model_bytes import ModelBytes
from deploy.package.onnx_inspect import parse_graph
from deploy.runtimes.cache_seal import private_folder
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

PROVIDERS = {"CPU": "CPUExecutionProvider", "CUDA": "CUDAExecutionProvider", "TENSORRT": "TensorrtExecutionProvider"}
_PRECISIONS = {"CPU": ("f32",), "CUDA": ("f32", "tf32"), "TENSORRT": ("f32", "tf32", "f16")}
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


def load(model: ModelBytes, options: RuntimeOptions) -> LoadedModel:
    """Load a graph. Raises ValueError for a provider that this installation lacks or that does not start."""
    ort = import_module("onnxruntime")
    device = (options.device or "CPU").upper()
    graph = parse_graph(model.data, source=model.path)
    providers = _providers(ort, device, options, quantized="QuantizeLinear" in graph.ops)
    streams = options.streams or (options.threads if options.hint == "throughput" and device == "CPU" else 1)
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = max(options.threads // streams, 1)
    session_options.inter_op_num_threads = 1
    session_options.log_severity_level = 3
    fuses = "QuantizeLinear" in graph.ops and device != "TENSORRT"
    if fuses:  # the optimised graph shows which layers run in integers
        with _scratch() as fused:
            session_options.optimized_model_filepath = str(fused)
            session = ort.InferenceSession(model.data, session_options, providers=providers)
            layers = _fused(parse_graph(fused.read_bytes(), source=model.path).ops)
    else:
        session, layers = ort.InferenceSession(model.data, session_options, providers=providers), graph.layers
    if PROVIDERS[device] not in session.get_providers():  # ONNX Runtime falls back to the processor silently
        raise ValueError(f"device {device!r}: {PROVIDERS[device]} does not start here; check its CUDA and cuDNN")
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
        precision=executed(layers, device=device, precision=options.precision),
        threads=options.threads,
        device=device,
        make_slots=lambda: _slots(binding, streams),
        streams=streams,
        stages=CallStages(binding.copy_in, binding.infer, binding.copy_out) if device == "CPU" else None,
        details={"provider": PROVIDERS[device], "hint": options.hint},
    )


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


def executed(layers: Mapping[str, int], *, device: str, precision: str | None) -> str:
    """The precisions that layers with weights of these types are computed in, commonest first: "f16+tf32".

    layers: "int8", "f16", "f32" -> number of layers. The processor computes float16 weights in float32. On a GPU
    float32 is computed in TF32 unless `precision` is "f32", and TensorRT computes it in float16 for "f16".
    """
    kind = precision or ("f32" if device == "CPU" else "tf32")
    found: Counter[str] = Counter()
    for weights, count in layers.items():
        found[kind if weights == "f32" or (weights == "f16" and device == "CPU") else weights] += count
    return precision_summary(found) or kind


def _providers(ort: Any, device: str, options: RuntimeOptions, *, quantized: bool) -> list[Any]:
    if device not in PROVIDERS:
        raise ValueError(f"device {device!r}: onnxruntime takes {', '.join(PROVIDERS)}")
    installed = ort.get_available_providers()
    if PROVIDERS[device] not in installed:
        short = ", ".join(name.removesuffix("ExecutionProvider") for name in installed)
        raise ValueError(f"device {device!r}: this onnxruntime has {short} only; pip install onnxruntime-gpu")
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
