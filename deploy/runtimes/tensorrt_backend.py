"""TensorRT engines as runners: pinned buffers, one stream and one CUDA graph for each slot.

A call copies the frame into pinned memory, launches the recorded graph (copy in, inference, copy out) and waits. Where
the engine cannot be recorded, the same three steps are enqueued one by one, and `details` of the runner has the reason.

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
from deploy.runtimes.runner import (
    AsyncSlot,
    CallStages,
    LoadedModel,
    RuntimeOptions,
    check_outputs,
    first_line,
    precision_summary,
)
from deploy.runtimes.tensorrt_engine_cache import SUFFIX, Engine, EngineKey, cache_folder, find_engine, open_engine


def load(model: ModelBytes, options: RuntimeOptions, *, runtime: str) -> LoadedModel:
    """Load an engine. `model` is the engine itself, or an ONNX graph whose engine is looked up in the cache folder.

    Raises ValueError for an engine that does not run on this machine, and EngineNotBuiltError where there is none.
    """
    trt, driver = tensorrt_api.import_tensorrt(runtime), cuda_driver.cuda()
    if options.device not in (None, "GPU"):
        raise ValueError(f"device {options.device!r}: {runtime} runs on the GPU")
    driver.enter()
    engine = _engine(model, options, runtime=runtime, version=str(trt.__version__), gpu=driver.gpu)
    log = tensorrt_api.make_logger(trt)
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
    found = check_outputs(inputs, outputs)
    outputs = [outputs[index] for index in found if index is not None]  # mask, uncertainty, features
    input_spec, output_spec, *more = (
        (tuple(loaded.get_tensor_shape(name)), str(loaded.get_tensor_dtype(name).name).lower())
        for name in (inputs[0], *outputs)
    )
    shapes = [output_spec[0], *(shape for shape, _ in more)]
    if found.features is not None:  # as bytes, in the last place
        shapes[-1] = (*shapes[-1], np.dtype(np.float32).itemsize)
    kernels = _JitKernelCache(loaded, engine) if runtime == "tensorrt_rtx" else None
    io = ((inputs[0], input_spec[0]), *zip(outputs, shapes, strict=True))
    streams = options.streams or (2 if options.hint == "throughput" else 1)

    def new_slot() -> _EngineSlot:
        context = kernels.context() if kernels is not None else loaded.create_execution_context()
        if context is None:
            raise ValueError(f"{engine.path}: {runtime} makes no execution context ({'; '.join(log.errors[:1])})")
        return _EngineSlot(driver, context, io, keep=(loaded, plan, log))

    first = new_slot()
    if kernels is not None:
        kernels.save()

    def make_slots() -> Sequence[AsyncSlot]:
        return [first, *(new_slot() for _ in range(streams - 1))]

    return LoadedModel(
        call=first,
        input_spec=input_spec,
        output_spec=output_spec,
        read_uncertainty=None if found.uncertainty is None else first.uncertainty,
        uncertainty_spec=None if found.uncertainty is None else more[0],
        read_features=None if found.features is None else first.features,
        precision=_precision(trt, loaded, engine, model),
        threads=1,
        device="GPU",
        make_slots=make_slots,
        streams=streams,
        stages=CallStages(first.copy_in, first.infer, first.copy_out),
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
    """Why engines cannot run on this machine; None where they can."""
    try:
        cuda_driver.cuda()
    except (ValueError, AttributeError) as error:
        return first_line(error)
    return None


def _engine(model: ModelBytes, options: RuntimeOptions, *, runtime: str, version: str, gpu: cuda_driver.Gpu) -> Engine:
    options_of_key = {} if options.precision is None else {"precision": options.precision}
    onnx = "" if model.path.suffix == SUFFIX else model.sha256
    here = EngineKey.here(onnx_sha256=onnx, runtime=runtime, version=version, gpu=gpu, options=options_of_key)
    if model.path.suffix == SUFFIX:
        return open_engine(model.path, here)
    return find_engine(options.cache or cache_folder() / "tensorrt", model.path, here)


def _precision(trt: Any, loaded: Any, engine: Engine, model: ModelBytes) -> str:
    """Precision of the heavy layers: from the engine itself, else from the record of the build, else from the graph."""
    text = loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    kinds = dict(tensorrt_api.layer_precisions(text)) or dict(engine.record.get("layers", {}))
    if not kinds and model.path.suffix == ".onnx":
        quantized = "QuantizeLinear" in parse_graph(model.data, source=model.path).ops
        kinds = {"int8" if quantized else "f32": 1}
    if "f32" in kinds and engine.key.options.get("precision") == "tf32":
        kinds["tf32"] = kinds.pop("f32")
    return precision_summary(kinds) or "unknown"


class _JitKernelCache:
    """Kernels that TensorRT for RTX compiles at the first use of an engine, cached for the next start."""

    def __init__(self, engine: Any, of: Engine) -> None:
        self._engine, self._file = engine, of.path.with_suffix(".jit")
        self._context = f"kernels of {of.record['engine_sha256']}"
        self._config = engine.create_runtime_config()
        self._cache = self._config.create_runtime_cache()
        kernels = read_sealed(self._file, self._context)
        self._from_file = kernels is not None and bool(self._cache.deserialize(kernels))
        self._config.set_runtime_cache(self._cache)

    def context(self) -> Any:
        return self._engine.create_execution_context(self._config)

    def save(self) -> None:
        if self._from_file:
            return
        with suppress(OSError, ValueError):  # without a writable folder the next start compiles again
            write_sealed(self._file, self._context, bytes(self._cache.serialize()))


class _EngineSlot:
    """One frame in flight: an execution context with its buffers, its stream and its CUDA graph."""

    def __init__(self, driver: cuda_driver.Cuda, context: Any, io: Any, *, keep: tuple[Any, ...]) -> None:
        """io: name and shape in bytes of the input, of the mask and, if the engine has them, of the other outputs."""
        (input_name, input_shape), *outputs = io
        self._driver, self._context, self._keep = driver, context, keep
        driver.enter()
        resources = _DriverResources(driver)
        weakref.finalize(self, resources.free)
        self._frame, self._outputs = resources.pinned(input_shape), [resources.pinned(shape) for _, shape in outputs]
        self._mask = self._outputs[0]
        self._frame_on_device = resources.on_device(self._frame.size)
        self._on_device = [resources.on_device(output.size) for output in self._outputs]
        self._stream = resources.stream()
        context.set_tensor_address(input_name, self._frame_on_device)
        for (name, _), address in zip(outputs, self._on_device, strict=True):
            context.set_tensor_address(name, address)
        self._enqueue()  # work of the first launch only must not be recorded
        driver.call("cuStreamSynchronize", self._stream, doing="the first inference")
        self.graph: int | None = None
        self.no_graph_because: str | None = None
        try:
            self.graph = resources.graph(self._stream, self._enqueue)
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

    def uncertainty(self) -> np.ndarray:
        """The second output of the last call."""
        return self._outputs[1].copy()

    def features(self) -> np.ndarray:
        """The last output of the last call, float32 [1, D, h, w]."""
        return self._outputs[-1].copy().view(np.float32)[..., 0]

    def copy_in(self, frame: np.ndarray) -> None:
        self._driver.enter()
        np.copyto(self._frame, frame)
        self._copy_in()
        self._wait()

    def infer(self) -> None:
        self._compute()
        self._wait()

    def copy_out(self) -> np.ndarray:
        self._copy_out()
        self._wait()
        return self._mask.copy()

    def _enqueue(self) -> None:
        self._copy_in()
        self._compute()
        self._copy_out()

    def _copy_in(self) -> None:
        size = self._frame.size
        self._driver.call("cuMemcpyHtoDAsync_v2", self._frame_on_device, self._frame.ctypes.data, size, self._stream)

    def _compute(self) -> None:
        if not self._context.execute_async_v3(self._stream):
            raise ValueError(
                f"the engine does not start ({'; '.join(self._keep[-1].errors[-1:]) or 'no reason given'})"
            )

    def _copy_out(self) -> None:
        for output, address in zip(self._outputs, self._on_device, strict=True):
            self._driver.call("cuMemcpyDtoHAsync_v2", output.ctypes.data, address, output.size, self._stream)

    def _wait(self) -> None:
        self._driver.call("cuStreamSynchronize", self._stream)


class _DriverResources:
    """Resources of the driver (memory, streams, graphs), released in the reverse order of their allocation."""

    def __init__(self, driver: cuda_driver.Cuda) -> None:
        self._driver = driver
        self._to_release: list[tuple[str, Any]] = []

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        array = self._driver.pinned(shape)
        self._to_release.append(("cuMemFreeHost", array.ctypes.data))
        return array

    def on_device(self, size: int) -> int:
        address = self._driver.on_device(size)
        self._to_release.append(("cuMemFree_v2", address))
        return address

    def stream(self) -> int:
        handle = self._driver.stream()
        self._to_release.append(("cuStreamDestroy_v2", handle))
        return handle

    def graph(self, stream: int, work: Any) -> int:
        handle = self._driver.recorded(stream, work)
        self._to_release.append(("cuGraphExecDestroy", handle))
        return handle

    def free(self) -> None:
        try:
            self._driver.enter()
            while self._to_release:
                self._driver.call(*self._to_release.pop())
        except ValueError:  # the driver is unloaded or the device has failed: nothing can be released
            self._to_release.clear()
