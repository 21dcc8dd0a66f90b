"""An engine on an NVIDIA GPU: pinned buffers, a stream of its own, and one CUDA graph a frame.

A call copies the frame into pinned memory, launches the recorded graph (copy in, network, copy out) and waits. Where
the engine cannot be recorded the same three steps are enqueued one by one, and the runner's details say so.

Shapes: H W size in pixels, K channels.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from deploy.package.model_bytes import ModelBytes
from deploy.package.onnx_inspect import parse_graph
from deploy.runtimes import cuda_driver, tensorrt_api
from deploy.runtimes.cache_seal import read_sealed, write_sealed
from deploy.runtimes.runner import Choice, Lane, Loaded, Stages, first_line, only_one, said
from deploy.runtimes.tensorrt_engine_cache import SUFFIX, Engine, Key, cache_folder, find_engine, open_engine


def load(model: ModelBytes, choice: Choice, *, runtime: str) -> Loaded:
    """`model`: an ONNX graph whose engine is looked up, or an engine. Raises ValueError for one that does not fit."""
    trt, driver = tensorrt_api.module(runtime), cuda_driver.cuda()
    if choice.device not in (None, "GPU"):
        raise ValueError(f"device {choice.device!r}: {runtime} runs on the GPU")
    driver.enter()
    engine = _engine(model, choice, runtime=runtime, version=str(trt.__version__), gpu=driver.gpu)
    log = tensorrt_api.logger(trt)
    plan = trt.Runtime(log)
    data = engine.read()
    loaded = plan.deserialize_cuda_engine(data)
    if loaded is None:
        reason = log.errors[0] if log.errors else "no reason given"
        raise ValueError(f"{engine.path}: {runtime} does not take it ({reason}); build it again")
    names = [loaded.get_tensor_name(i) for i in range(loaded.num_io_tensors)]
    modes = [loaded.get_tensor_mode(name) for name in names]
    inputs = [name for name, mode in zip(names, modes, strict=True) if mode == trt.TensorIOMode.INPUT]
    outputs = [name for name, mode in zip(names, modes, strict=True) if mode == trt.TensorIOMode.OUTPUT]
    only_one(inputs, outputs)
    takes, gives = (
        (tuple(loaded.get_tensor_shape(name)), str(loaded.get_tensor_dtype(name).name).lower())
        for name in (inputs[0], outputs[0])
    )
    kernels = _Kernels(loaded, engine) if runtime == "tensorrt_rtx" else None
    io = ((inputs[0], takes[0]), (outputs[0], gives[0]))
    streams = choice.streams or (2 if choice.hint == "throughput" else 1)

    def lane() -> _Lane:
        context = kernels.context() if kernels is not None else loaded.create_execution_context()
        if context is None:
            raise ValueError(f"{engine.path}: {runtime} makes no execution context ({'; '.join(log.errors[:1])})")
        return _Lane(driver, context, io, keep=(loaded, plan, log))

    first = lane()
    if kernels is not None:
        kernels.save()

    def lanes() -> Sequence[Lane]:
        return [first, *(lane() for _ in range(streams - 1))]

    return Loaded(
        call=first,
        takes=takes,
        gives=gives,
        precision=_precision(trt, loaded, engine, model),
        threads=1,
        device="GPU",
        lanes=lanes,
        streams=streams,
        stages=Stages(first.put, first.run, first.take),
        details={
            "device": driver.gpu.name,
            "capability": driver.gpu.capability,
            "driver": driver.gpu.driver,
            "engine": str(engine.path),
            "engine_bytes": len(data),
            "built_for": engine.key.gpu or "more than one GPU",
            "cuda_graph": first.graph is not None,
            "no_cuda_graph_because": first.no_graph_because,
        },
    )


def missing() -> str | None:
    """Why no engine can run on this machine; None where one can."""
    try:
        cuda_driver.cuda()
    except (ValueError, AttributeError) as error:
        return first_line(error)
    return None


def _engine(model: ModelBytes, choice: Choice, *, runtime: str, version: str, gpu: cuda_driver.Gpu) -> Engine:
    asked = {} if choice.precision is None else {"precision": choice.precision}
    onnx = "" if model.path.suffix == SUFFIX else model.sha256
    here = Key.here(onnx_sha256=onnx, runtime=runtime, version=version, gpu=gpu, options=asked)
    if model.path.suffix == SUFFIX:
        return open_engine(model.path, here)
    return find_engine(choice.cache or cache_folder() / "tensorrt", model.path, here)


def _precision(trt: Any, loaded: Any, engine: Engine, model: ModelBytes) -> str:
    """From the engine itself, else from the builder's list, else from the graph."""
    text = loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    kinds = dict(tensorrt_api.executed(text)) or dict(engine.record.get("layers", {}))
    if not kinds and model.path.suffix == ".onnx":
        quantized = "QuantizeLinear" in parse_graph(model.data, source=model.path).ops
        kinds = {"int8" if quantized else "f32": 1}
    if "f32" in kinds and engine.key.options.get("precision") == "tf32":
        kinds["tf32"] = kinds.pop("f32")
    return said(kinds) or "unknown"


class _Kernels:
    """The kernels that TensorRT for RTX compiles when an engine is first used, kept for the next start."""

    def __init__(self, engine: Any, of: Engine) -> None:
        self._engine, self._file = engine, of.path.with_suffix(".jit")
        self._context = f"kernels of {of.record['engine_sha256']}"
        self._config = engine.create_runtime_config()
        self._cache = self._config.create_runtime_cache()
        kernels = read_sealed(self._file, self._context)
        self._stood = kernels is not None and bool(self._cache.deserialize(kernels))
        self._config.set_runtime_cache(self._cache)

    def context(self) -> Any:
        return self._engine.create_execution_context(self._config)

    def save(self) -> None:
        if self._stood:
            return
        with suppress(OSError, ValueError):  # a folder that cannot be written costs time at the next start, no more
            write_sealed(self._file, self._context, bytes(self._cache.serialize()))


class _Lane:
    """One execution context with its buffers, its stream and its graph."""

    def __init__(self, driver: cuda_driver.Cuda, context: Any, io: Any, *, keep: tuple[Any, ...]) -> None:
        (takes, takes_shape), (gives, gives_shape) = io
        self._driver, self._context, self._keep = driver, context, keep
        driver.enter()
        held = _Held(driver)
        weakref.finalize(self, held.free)
        self._frame, self._mask = held.pinned(takes_shape), held.pinned(gives_shape)
        self._frame_there, self._mask_there = held.on_device(self._frame.size), held.on_device(self._mask.size)
        self._stream = held.stream()
        context.set_tensor_address(takes, self._frame_there)
        context.set_tensor_address(gives, self._mask_there)
        self._enqueue()  # what is done at the first launch alone must not be recorded
        driver.call("cuStreamSynchronize", self._stream, doing="the first inference")
        self.graph: int | None = None
        self.no_graph_because: str | None = None
        try:
            self.graph = held.graph(self._stream, self._enqueue)
        except ValueError as error:
            self.no_graph_because = str(error)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        self.start(frame)
        return self.finish()

    def start(self, frame: np.ndarray) -> None:
        self._driver.enter()
        np.copyto(self._frame, frame)
        if self.graph is not None:
            self._driver.call("cuGraphLaunch", self.graph, self._stream)
        else:
            self._enqueue()

    def finish(self) -> np.ndarray:
        self._driver.enter()
        self._driver.call("cuStreamSynchronize", self._stream, doing="inference")
        return self._mask.copy()

    def put(self, frame: np.ndarray) -> None:
        self._driver.enter()
        np.copyto(self._frame, frame)
        self._copy_in()
        self._wait()

    def run(self) -> None:
        self._compute()
        self._wait()

    def take(self) -> np.ndarray:
        self._copy_out()
        self._wait()
        return self._mask.copy()

    def _enqueue(self) -> None:
        self._copy_in()
        self._compute()
        self._copy_out()

    def _copy_in(self) -> None:
        size = self._frame.size
        self._driver.call("cuMemcpyHtoDAsync_v2", self._frame_there, self._frame.ctypes.data, size, self._stream)

    def _compute(self) -> None:
        if not self._context.execute_async_v3(self._stream):
            raise ValueError(
                f"the engine does not start ({'; '.join(self._keep[-1].errors[-1:]) or 'no reason given'})"
            )

    def _copy_out(self) -> None:
        size = self._mask.size
        self._driver.call("cuMemcpyDtoHAsync_v2", self._mask.ctypes.data, self._mask_there, size, self._stream)

    def _wait(self) -> None:
        self._driver.call("cuStreamSynchronize", self._stream)


class _Held:
    """What was taken from the driver and has to go back, the last thing first."""

    def __init__(self, driver: cuda_driver.Cuda) -> None:
        self._driver = driver
        self._back: list[tuple[str, Any]] = []

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        array = self._driver.pinned(shape)
        self._back.append(("cuMemFreeHost", array.ctypes.data))
        return array

    def on_device(self, size: int) -> int:
        address = self._driver.on_device(size)
        self._back.append(("cuMemFree_v2", address))
        return address

    def stream(self) -> int:
        handle = self._driver.stream()
        self._back.append(("cuStreamDestroy_v2", handle))
        return handle

    def graph(self, stream: int, work: Any) -> int:
        handle = self._driver.recorded(stream, work)
        self._back.append(("cuGraphExecDestroy", handle))
        return handle

    def free(self) -> None:
        try:
            self._driver.enter()
            while self._back:
                self._driver.call(*self._back.pop())
        except ValueError:  # the driver is gone or the device has failed: nothing is left to give back
            self._back.clear()
