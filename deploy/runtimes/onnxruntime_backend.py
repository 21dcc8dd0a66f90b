"""A graph on ONNX Runtime: its processor, CUDA or TensorRT provider, refused where another would step in unseen.

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
from deploy.runtimes.runner import Choice, Lane, Loaded, Stages, element_type, only_one, said

PROVIDERS = {"CPU": "CPUExecutionProvider", "CUDA": "CUDAExecutionProvider", "TENSORRT": "TensorrtExecutionProvider"}
_PRECISIONS = {"CPU": ("f32",), "CUDA": ("f32", "tf32"), "TENSORRT": ("f32", "tf32", "f16")}
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


def load(model: ModelBytes, choice: Choice) -> Loaded:
    """Raises ValueError for a provider that this installation lacks or that does not start."""
    ort = import_module("onnxruntime")
    device = (choice.device or "CPU").upper()
    graph = parse_graph(model.data, source=model.path)
    asked = _providers(ort, device, choice, quantized="QuantizeLinear" in graph.ops)
    streams = choice.streams or (choice.threads if choice.hint == "throughput" and device == "CPU" else 1)
    options = ort.SessionOptions()
    options.intra_op_num_threads = max(choice.threads // streams, 1)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    fuses = "QuantizeLinear" in graph.ops and device != "TENSORRT"
    if fuses:  # the only way to find out which layers really became integer ones
        with _scratch() as fused:
            options.optimized_model_filepath = str(fused)
            session = ort.InferenceSession(model.data, options, providers=asked)
            layers = _fused(parse_graph(fused.read_bytes(), source=model.path).ops)
    else:
        session, layers = ort.InferenceSession(model.data, options, providers=asked), graph.layers
    if PROVIDERS[device] not in session.get_providers():  # it falls back to the processor without a word
        raise ValueError(f"device {device!r}: {PROVIDERS[device]} does not start here; check its CUDA and cuDNN")
    inputs, outputs = session.get_inputs(), session.get_outputs()
    only_one(inputs, outputs)
    name, run = inputs[0].name, session.run
    held = _Held(lambda frame: run(None, {name: frame})[0])
    return Loaded(
        call=held.compute,
        takes=(tuple(inputs[0].shape), element_type(inputs[0].type)),
        gives=(tuple(outputs[0].shape), element_type(outputs[0].type)),
        precision=executed(layers, device=device, precision=choice.precision),
        threads=choice.threads,
        device=device,
        lanes=lambda: _lanes(held, streams),
        streams=streams,
        stages=Stages(held.put, held.run, held.take) if device == "CPU" else None,
        details={"provider": PROVIDERS[device], "hint": choice.hint},
    )


@contextmanager
def _scratch() -> Iterator[Path]:
    """A file that the runtime may write: in memory where the system can, so that a read-only root needs no folder."""
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
    """Layers by what they became: operators of the graph as the runtime made it."""
    return {
        "int8": sum(n for op, n in ops.items() if op in _INTEGER_OPS),
        "f32": sum(n for op, n in ops.items() if op in _FLOAT_OPS),
    }


def executed(layers: Mapping[str, int], *, device: str, precision: str | None) -> str:
    """What layers of these weights ("int8", "f16", "f32") are computed in, commonest first: "f16+tf32".

    The processor widens half precision to float. On a GPU float is TF32 unless "f32" is asked for, and TensorRT may be
    asked to compute it in "f16".
    """
    kind = precision or ("f32" if device == "CPU" else "tf32")
    found: Counter[str] = Counter()
    for weights, count in layers.items():
        found[kind if weights == "f32" or (weights == "f16" and device == "CPU") else weights] += count
    return said(found) or kind


def _providers(ort: Any, device: str, choice: Choice, *, quantized: bool) -> list[Any]:
    if device not in PROVIDERS:
        raise ValueError(f"device {device!r}: onnxruntime takes {', '.join(PROVIDERS)}")
    there = ort.get_available_providers()
    if PROVIDERS[device] not in there:
        short = ", ".join(name.removesuffix("ExecutionProvider") for name in there)
        raise ValueError(f"device {device!r}: this onnxruntime has {short} alone; pip install onnxruntime-gpu")
    if choice.precision not in (None, *_PRECISIONS[device]):
        raise ValueError(f"precision {choice.precision!r}: onnxruntime on {device} takes {_PRECISIONS[device]}")
    settings: dict[str, Any] = {}
    if device == "CUDA":
        settings = {"use_tf32": int(choice.precision != "f32")}
    elif device == "TENSORRT":
        settings = {"trt_fp16_enable": choice.precision == "f16", "trt_int8_enable": quantized}
        if choice.cache is not None and not choice.signed:  # its engines cannot be authenticated
            private_folder(choice.cache)
            settings |= {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(choice.cache)}
    return [(PROVIDERS[device], settings)]


class _Held:
    """A frame on its way through a session, which reads it where it lies."""

    def __init__(self, compute: Any) -> None:
        self.compute = compute
        self._frame = self._mask = np.zeros(0, np.uint8)

    def put(self, frame: np.ndarray) -> None:
        self._frame = frame

    def run(self) -> None:
        self._mask = self.compute(self._frame)

    def take(self) -> np.ndarray:
        return self._mask


class _Threaded:
    """A session may be run by several threads at once: a lane is a thread that waits."""

    def __init__(self, pool: ThreadPoolExecutor, compute: Any) -> None:
        self._pool, self._compute = pool, compute
        self._future: Future[np.ndarray] | None = None

    def start(self, frame: np.ndarray) -> None:
        self._future = self._pool.submit(self._compute, frame.copy())  # the caller may reuse its buffer

    def finish(self) -> np.ndarray:
        assert self._future is not None
        return self._future.result()


def _lanes(held: _Held, count: int) -> Sequence[Lane]:
    pool = ThreadPoolExecutor(count, thread_name_prefix="lane")
    return [_Threaded(pool, held.compute) for _ in range(count)]
