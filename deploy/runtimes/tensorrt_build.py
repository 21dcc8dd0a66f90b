"""Build TensorRT engines from ONNX, by TensorRT 10 or 11 or TensorRT for RTX: one code path, no precision flags.

The network is strongly typed: its precision follows from the graph, INT8 where it has Q/DQ nodes, float16 where its
types are float16. TensorRT 10 accepts that form, TensorRT 11 requires it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from deploy.package.files import ONNX
from deploy.package.model_bytes import ModelBytes, read_model
from deploy.package.onnx_inspect import parse_graph
from deploy.package.package import Package
from deploy.runtimes import cuda_driver
from deploy.runtimes.cache_seal import read_sealed, write_sealed
from deploy.runtimes.runner import ModelRunner, precision_summary
from deploy.runtimes.tensorrt_api import PACKAGES, import_tensorrt, layer_precisions, make_logger
from deploy.runtimes.tensorrt_engine_cache import Engine, EngineKey, cache_folder, write_engine
from edgemt.errors import unknown_name_message

_ATTEMPTS = 3  # each with a quarter of the workspace of the attempt before


SelfTest = Callable[..., ModelRunner]  # (package, runtime=, file=, cache=, precision=) -> runner, or ValueError


@dataclass(frozen=True)
class BuildOptions:
    """`portable` gives up some speed for an engine that more than one kind of GPU runs."""

    precision: Literal["tf32", "f32"] = "tf32"  # how float32 layers are computed
    workspace_mib: int | None = None  # what a layer may use for scratch; a quarter of the free memory if not given
    portable: bool = False

    def __post_init__(self) -> None:
        if self.precision not in ("tf32", "f32"):
            raise ValueError(f"precision {self.precision!r}: tf32 or f32; half precision and INT8 are in the file")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise ValueError(f"workspace_mib {self.workspace_mib}: must be 1 or more")


def build(
    source: Path | ModelBytes, *, runtime: str, options: BuildOptions | None = None, folder: Path | None = None
) -> Engine:
    """Build the engine of one ONNX graph and store it with its key in `folder`, the user's cache if not given.

    Raises ValueError in one line where the parser refuses the graph, the builder runs out of memory, or engines cannot
    be built without a GPU.
    """
    options = options or BuildOptions()
    trt, gpu = import_tensorrt(runtime), cuda_driver.gpu()
    if gpu is None and runtime == "tensorrt":
        raise ValueError(
            "runtime 'tensorrt': engines are built on the device that runs them, and this machine has no NVIDIA GPU; "
            "--runtime tensorrt_rtx builds ahead of time"
        )
    model = source if isinstance(source, ModelBytes) else read_model(source)
    target = None if options.portable else gpu
    folder = Path(folder) if folder is not None else cache_folder() / "tensorrt"
    key = EngineKey.here(
        onnx_sha256=model.sha256,
        runtime=runtime,
        version=str(trt.__version__),
        gpu=target,
        options={"precision": options.precision, "portable": target is None},
    )
    log = make_logger(trt)
    timings = folder / f"timing.{runtime}.{key.version}.{(target.name if target else 'any').replace(' ', '_')}.bin"
    start = time.perf_counter()
    data = _serialised(trt, log, model, options=options, here=target, timings=timings)
    facts = {
        "layers": dict(layer_precisions(log.layers)),
        "built_s": round(time.perf_counter() - start, 2),
        "ahead_of_time": gpu is None,
    }
    return write_engine(folder, model.path, key=key, data=data, facts=facts)


def build_package(
    package: Package,
    *,
    runtime: str = "auto",
    file: str | None = None,
    options: BuildOptions | None = None,
    folder: Path | None = None,
    self_test: SelfTest,
) -> Iterator[tuple[Engine, str]]:
    """Build the engines of a package, one by one; yields each engine with a line that describes it.

    `file` is "int8", "fp16", "fp32" or a name on the card; None builds every ONNX file. Where there is a GPU each
    engine is loaded by `self_test`, which runs the golden frames and raises ValueError for an engine that fails them:
    give it `deploy.runtimes.load.runner`.
    """
    if runtime == "auto":
        runtime = "tensorrt" if find_spec("tensorrt") is not None and cuda_driver.gpu() is not None else "tensorrt_rtx"
    if runtime not in PACKAGES:
        raise ValueError(unknown_name_message("runtime to build engines for", runtime, ["auto", *PACKAGES]))
    import_tensorrt(runtime)
    names = (
        [ONNX.get(file, file)] if file is not None else [name for name in ONNX.values() if name in package.card.files]
    )
    for name in names:
        source = package.path(name)
        if source.suffix != ".onnx":
            raise ValueError(f"{source}: engines are built from .onnx; choose {', '.join(ONNX)}")
        engine = build(package.model(name), runtime=runtime, options=options, folder=folder)
        yield engine, _describe(package, name, engine, runtime, options, self_test)


def _describe(
    package: Package, name: str, engine: Engine, runtime: str, options: BuildOptions | None, self_test: SelfTest
) -> str:
    """Size and precision of an engine; where there is a GPU, after its self-test."""
    size = f"{name}: {engine.record['bytes'] / 2**20:.1f} MiB in {engine.record['built_s']:.1f} s"
    if engine.record["ahead_of_time"]:
        layers = precision_summary(engine.record["layers"])
        return f"{size}, layers {layers}; built ahead of time and not tried: no NVIDIA GPU and driver here"
    cache = engine.path.parent
    made = self_test(package, runtime=runtime, file=name, cache=cache, precision=options.precision if options else None)
    return f"{size}, runs in {made.precision} on {made.details['device']} and gives the golden masks"


def _serialised(
    trt: Any, log: Any, model: ModelBytes, *, options: BuildOptions, here: cuda_driver.Gpu | None, timings: Path
) -> bytes:
    source = model.path
    if parse_graph(model.data, source=source).external:
        raise ValueError(f"{source}: keeps weights in another file; export it with external_data=False")
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model.data):
        refusals = [str(parser.get_error(i).desc()).strip() for i in range(parser.num_errors)]
        raise ValueError(f"{source}: NVIDIA's parser refuses it ({(refusals or log.errors or ['no reason given'])[0]})")
    workspace = _workspace(options)
    for attempt in range(_ATTEMPTS):
        config, cache = _config(trt, builder, options=options, here=here, timings=timings)
        if workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace >> (2 * attempt))
        log.errors.clear()
        made = builder.build_serialized_network(network, config)
        if made is not None:
            if cache is not None and here is not None:
                write_sealed(timings, timings.name, bytes(cache.serialize()))
            return bytes(made)
        if workspace is None or not any("memory" in text.lower() for text in log.errors):
            break
    reason = log.errors[0] if log.errors else "no reason given"
    hint = "; give less: --workspace-mib 256" if "memory" in reason.lower() else ""
    raise ValueError(f"{source}: no engine can be built ({reason}){hint}")


def _config(
    trt: Any, builder: Any, *, options: BuildOptions, here: cuda_driver.Gpu | None, timings: Path
) -> tuple[Any, Any]:
    """(builder configuration, timing cache or None). Settings that the version of TensorRT lacks are omitted."""
    config = builder.create_builder_config()
    config.profiling_verbosity = (
        trt.ProfilingVerbosity.DETAILED
    )  # otherwise the precision of a layer cannot be read back
    if options.precision == "tf32":
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    ahead = hasattr(trt, "ComputeCapability")
    if ahead and here is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
    elif not ahead and here is None and hasattr(trt, "HardwareCompatibilityLevel"):
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if ahead or not hasattr(config, "create_timing_cache"):
        return config, None
    for stored in (read_sealed(timings, timings.name) or b"", b""):  # a damaged or foreign file is ignored
        cache = config.create_timing_cache(stored)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return config, cache
    return config, None


def _workspace(options: BuildOptions) -> int | None:
    if options.workspace_mib is not None:
        return options.workspace_mib << 20
    try:
        return cuda_driver.cuda().memory()[0] // 4
    except ValueError:
        return None
