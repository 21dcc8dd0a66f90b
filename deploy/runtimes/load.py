"""`runner`: one file of a package, or one bare graph, on one runtime; uint8 frames in, class masks out.

Four steps: resolve the package or file, choose the variant (runtime, file, precision), load it, verify it. The
precision of a runner is read back from the compiled graph, and a runner of a package has reproduced the golden masks
before it is returned.

Shapes: N batch, H W size in pixels, K channels. Graphs have batch 1, so N frames are N calls.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from deploy.hardware.machine import physical_cores
from deploy.measurement.variants import fastest, undecided
from deploy.package.golden import self_test
from deploy.package.model_bytes import ModelBytes, read_model
from deploy.package.onnx_inspect import parse_graph
from deploy.package.package import Package, open_package
from deploy.package.signing import require_signed
from deploy.runtimes import choose_variant
from deploy.runtimes.cache_seal import mac, private_folder
from deploy.runtimes.choose_variant import FastestVariant
from deploy.runtimes.error_messages import error_message
from deploy.runtimes.registry import FILE_TYPES, RUNTIMES, can_run_packages, first_available, import_version
from deploy.runtimes.runner import LoadedModel, ModelRunner, RuntimeOptions, checked_threads, first_line
from deploy.runtimes.tensorrt_engine_cache import EngineNotBuiltError, cache_folder
from edgemt.contract import Runner
from edgemt.errors import unknown_name_message

log = logging.getLogger("edgemt.deploy")


class Variant(NamedTuple):
    """What to load: `file` and `precision` None leave the choice to the runtime."""

    runtime: str
    file: str | None
    precision: str | None


def runner(
    package_or_path: Package | str | Path,
    *,
    runtime: str = "auto",
    file: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    device: str | None = None,
    hint: Literal["latency", "throughput"] = "latency",
    streams: int | None = None,
    cache: str | Path | None = None,
    cpu_fallback: bool = True,
    tested: bool = True,
) -> ModelRunner:
    """Load a package, or one bare .onnx, .xml or .engine file, on a runtime.

    `file` is "int8", "fp16", "fp32" or a name on the card; None takes the file that was the quickest when the package
    was made (`deploy.measurement.variants`; with `runtime` "auto" the quickest of all that work here), or, where the
    card names none, the one that is usually the quickest on the runtime.
    `precision` is the arithmetic of float layers ("f32", "bf16", "f16", "tf32"; RUNTIMES lists which runtime has
    which); None leaves it to the runtime, and `.precision` of the runner names the one in use. `device` is CPU, GPU or
    NPU for OpenVINO, CPU, CUDA, TENSORRT or VITISAI for ONNX Runtime; `runtime` may carry it: "openvino:GPU". `hint`
    and `streams` (frames in flight) matter to `infer_many`. `cache` is a folder for compiled graphs and engines.
    ONNX Runtime lets the processor compute what its provider does not: `details["placement"]` of the runner counts
    nodes by provider, one line is logged, and without `cpu_fallback` such a graph is refused.
    `tested` runs the golden frames of a package first and refuses a runner that fails them.

    Raises ValueError in one line for an unknown or missing runtime or device, a refused package, a file that does not
    load or belongs to another runtime, a model that does not reproduce its golden masks here, and for a bare file where
    EDGEMT_TRUSTED_KEY is set, since only a package has a signature.
    """
    runtime, _, device_of_runtime = runtime.partition(":")
    device = device or device_of_runtime or None
    if runtime != "auto" and runtime not in RUNTIMES:
        raise ValueError(unknown_name_message("runtime", runtime, ["auto", *RUNTIMES]))
    source = _resolve(package_or_path)
    variant = _choose(source, Variant(runtime, file, precision), device=device)
    _check_options(variant, hint=hint, streams=streams)
    version = import_version(variant.runtime)
    name, model = _read(source, variant)
    options = RuntimeOptions(
        threads=checked_threads(threads) if threads is not None else physical_cores(),
        precision=variant.precision,
        device=device,
        hint=hint,
        streams=streams,
        cache=_cache(cache, variant.runtime, device),
        cpu_fallback=cpu_fallback,
        signed=isinstance(source, Package) and source.signed,
    )
    loaded = _load(model, variant.runtime, version, options)
    made = ModelRunner(loaded, runtime=variant.runtime, file=name, version=version, path=model.path)
    _verify(source, made, loaded, run_golden_frames=tested)
    return made


def fastest_here(package: Package, *, runtime: str = "auto") -> FastestVariant | None:
    """The quickest variant of the package on this machine, measured now or before (`choose_variant`)."""
    return choose_variant.fastest_here(package, runtime=runtime, load=runner)


def _resolve(package_or_path: Package | str | Path) -> Package | Path:
    """Step 1: an opened package, or the path of a single model file; where a key is trusted, only a signed package."""
    if not isinstance(package_or_path, Package):
        path = Path(package_or_path)
        if path.suffix in FILE_TYPES or path.is_file():
            require_signed(package_or_path, signed=False)
            return path
        package_or_path = open_package(package_or_path)
    require_signed(package_or_path.folder, signed=package_or_path.signed)
    return package_or_path


def _choose(source: Package | Path, wanted: Variant, *, device: str | None) -> Variant:
    """Step 2: the variant that the caller named, or else the quickest one of the package."""
    if isinstance(source, Package) and not (wanted.file or wanted.precision or device):
        wanted = _fastest(source, wanted.runtime)
    return wanted._replace(runtime=first_available()) if wanted.runtime == "auto" else wanted


def _fastest(package: Package, runtime: str) -> Variant:
    """The variant that the card lists as the quickest, of those that work here.

    Where the card is undecided, the one that this machine measures as the quickest.
    """
    for name, record in fastest(package.card).items():
        if runtime == name or (runtime == "auto" and can_run_packages(name)):
            return Variant(name, str(record["file"]), record.get("asked"))
    if undecided(package.card) and (measured := fastest_here(package, runtime=runtime)) is not None:
        return Variant(measured.runtime, measured.file, measured.precision)
    return Variant(runtime, None, None)


def _check_options(variant: Variant, *, hint: str, streams: int | None) -> None:
    runtime, precision, spec = variant.runtime, variant.precision, RUNTIMES[variant.runtime]
    if spec.load is None:
        raise ValueError(f"runtime {runtime!r}: a ship holds no torch weights; choose onnxruntime or openvino")
    if precision is not None and precision not in spec.precisions:
        raise ValueError(f"precision {precision!r}: {runtime} takes {' or '.join(spec.precisions)} on this call")
    if streams is not None and streams < 1:
        raise ValueError(f"streams {streams}: must be 1 or more")
    if hint not in ("latency", "throughput"):
        raise ValueError(f"hint {hint!r}: latency or throughput")


def _read(source: Package | Path, variant: Variant) -> tuple[str, ModelBytes]:
    """(name of the file, its bytes), for a file that the runtime reads."""
    if isinstance(source, Path):
        model = _read_bare(source)
        _check_file_type(source, variant.runtime)
        return source.name, model
    name = _file_of(source, variant)
    _check_file_type(source.path(name), variant.runtime)
    return name, source.model(name)


def _read_bare(path: Path) -> ModelBytes:
    """A graph on its own, as between two stages of the pipeline: no card lists its hash."""
    if not path.is_file():
        raise ValueError(f"{path}: no such model file")
    if path.suffix not in FILE_TYPES:
        raise ValueError(f"{path}: no graph that a runtime here reads; give a ship folder, .onnx, .xml or .engine")
    model = read_model(path)
    if path.suffix == ".onnx" and parse_graph(model.data, source=path).external:
        raise ValueError(f"{path}: keeps weights in another file; export it with external_data=False")
    return model


def _file_of(package: Package, variant: Variant) -> str:
    """The first file of the package that the runtime takes, of the requested precision."""
    files = RUNTIMES[variant.runtime].files
    kinds = list(files) if variant.file is None else [variant.file]
    names = [name for kind in kinds for name in files.get(kind, (kind,))]
    return next((name for name in names if name in package.card.files), names[-1])


def _check_file_type(path: Path, runtime: str) -> None:
    types = RUNTIMES[runtime].file_types
    if path.suffix in types:
        return
    able = [name for name, spec in RUNTIMES.items() if path.suffix in spec.file_types]
    what = FILE_TYPES.get(path.suffix, f"a {path.suffix or 'nameless'} file")
    hint = f"; choose runtime {' or '.join(able)}" if able else ""
    raise ValueError(f"{path}: is {what}, {runtime} reads {' and '.join(types)}{hint}")


def _cache(folder: str | Path | None, runtime: str, device: str | None) -> Path | None:
    """Compiling for a GPU or an NPU takes long enough to store the result; for a processor it does not.

    Where nothing can be stored, as on a read-only root without a home folder, each start compiles.
    """
    if folder is not None:
        return Path(folder)
    if runtime != "openvino" or not device or device.upper() == "CPU":
        return None
    try:
        mac("probe", b"")
        return private_folder(cache_folder() / runtime)
    except ValueError as error:
        log.warning("compiled graphs are not stored: %s", error)
        return None


def _load(model: ModelBytes, runtime: str, version: str, options: RuntimeOptions) -> LoadedModel:
    """Step 3: the model on its runtime; a failure of the runtime becomes a ValueError of one line."""
    path, load = model.path, RUNTIMES[runtime].load
    assert load is not None
    try:
        return load(model, options)
    except EngineNotBuiltError:
        raise
    except ValueError as error:  # raised by our backend: it already names the remedy
        message = first_line(error)
        raise ValueError(message if str(path) in message else f"{path}: {message}") from error
    except Exception as error:  # each runtime has exceptions of its own
        raise ValueError(error_message(error, path=path, runtime=runtime, version=version)) from error


def _verify(source: Package | Path, made: ModelRunner, loaded: LoadedModel, *, run_golden_frames: bool) -> None:
    """Step 4: input and output as expected, the size of the card, and the golden masks reproduced."""
    _check_io(made.path, loaded)
    if isinstance(source, Path):
        return
    if made.shape[1:] != (*source.card.size, source.card.channels):
        raise ValueError(f"{made.path}: takes {made.shape}, the card lists {source.card.size}; export the model again")
    if run_golden_frames:
        _self_test(source, made)


def _check_io(path: Path, loaded: LoadedModel) -> None:
    (input_shape, input_type), (output_shape, output_type) = loaded.input_spec, loaded.output_spec
    fits = len(input_shape) == 4 and input_shape[0] == 1 and tuple(output_shape) == tuple(input_shape[:3])
    if not fits or (input_type, output_type) != ("uint8", "uint8"):
        raise ValueError(
            f"{path}: takes {input_type} {list(input_shape)} and gives {output_type} {list(output_shape)}, wanted "
            "uint8 [1, H, W, K] and uint8 [1, H, W]; export the model with EdgeMT"
        )
    if loaded.uncertainty_spec not in (None, loaded.output_spec):
        shape, kind = loaded.uncertainty_spec or ((), "")
        raise ValueError(
            f"{path}: its uncertainty is {kind} {list(shape)}, wanted the mask's type; export it with EdgeMT"
        )


class _ClassRecorder:
    """A runner that records which classes occur in its masks."""

    def __init__(self, made: Runner) -> None:
        self.runtime, self.file, self.precision, self.threads = made.runtime, made.file, made.precision, made.threads
        self.classes: set[int] = set()
        self._made = made

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        masks = self._made(frames)
        self.classes.update(np.unique(masks).tolist())
        return masks


def _self_test(package: Package, made: ModelRunner) -> None:
    """Raises ValueError where the runner does not reproduce the golden masks. Without golden frames nothing is tested.

    How near an INT8 file comes is measured when the package is made; before that it fails only where it gives one class
    everywhere.
    """
    recorder = _ClassRecorder(made)
    test = self_test(package, recorder)
    if not test.frames:
        return
    metrics = package.card.measured.get(made.file)
    measured = "int8" not in made.precision or (metrics is not None and metrics.golden_pixels is not None)
    constant = len(recorder.classes) == 1
    if constant and not test.ok:
        test = replace(test, message=f"it gives class {recorder.classes.pop()} everywhere, as NaN weights would")
    if not test.ok and (measured or constant):
        raise ValueError(f"{made.path}: fails its self-test on {made.runtime}: {test.message}")
