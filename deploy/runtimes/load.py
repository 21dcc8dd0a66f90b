"""One model, one runtime: uint8 frames in, class masks out. Runtimes are imported when they are asked for.

A runner says what it does and not what was asked of it: `precision` is read back from the compiled graph. One that
comes from a ship has given the golden masks before anybody gets it.

Shapes: N batch, H W size in pixels, K channels. Graphs have batch 1, so N frames are N calls.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from deploy.benchmark.choose_variant import decide
from deploy.benchmark.variants import fastest, undecided
from deploy.hardware.machine import physical_cores
from deploy.package.model_bytes import ModelBytes, read_model
from deploy.package.onnx_inspect import parse_graph
from deploy.package.package import Ship, open_ship, self_test
from deploy.package.signing import require_signed
from deploy.runtimes import onnxruntime_backend, openvino_backend, tensorrt_backend
from deploy.runtimes.cache_seal import mac, private_folder
from deploy.runtimes.error_messages import explain
from deploy.runtimes.runner import Choice, GraphRunner, Loaded, TorchRunner, checked_threads, first_line, imported
from deploy.runtimes.tensorrt_engine_cache import NoEngine, cache_folder
from edgemt.contract import Runner
from edgemt.errors import unknown_name_message

log = logging.getLogger("edgemt.deploy")

__all__ = ["RUNTIMES", "Runtime", "TorchRunner", "available", "physical_cores", "runner"]


@dataclass(frozen=True)
class Runtime:
    package: str
    files: dict[str, tuple[str, ...]]  # "int8", "fp16", "fp32" -> files of a ship, first choice first
    precisions: tuple[str, ...]  # what may be asked for
    load: Callable[[ModelBytes, Choice], Loaded] | None
    about: str
    reads: tuple[str, ...] = (".onnx",)  # kinds of file
    exact: str | None = None  # the precision in which it can be compared with the others, if not what it does unasked
    pip: str | None = None  # what to install, where it is not the package's own name
    lacks: Callable[[], str | None] = lambda: None  # what this machine lacks to run it, beside the package


def runner(
    ship_or_path: Ship | str | Path,
    *,
    runtime: str = "auto",
    file: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    device: str | None = None,
    hint: Literal["latency", "throughput"] = "latency",
    streams: int | None = None,
    cache: str | Path | None = None,
    tested: bool = True,
) -> GraphRunner:
    """Load a ship, or one bare .onnx, .xml or .engine file, on a runtime.

    `file` is "int8", "fp16", "fp32" or a name on the card; None takes the one that was the quickest when the ship was
    made (`deploy.benchmark.variants`; `runtime` "auto" the quickest of all that work here), or, where a card does not
    say, what the runtime is usually quickest with.
    `precision` is the arithmetic of float layers ("f32", "bf16", "f16", "tf32": RUNTIMES says who has which); None
    leaves it to the runtime, and the runner's own `.precision` says what it chose. `device` is CPU, GPU or NPU for
    OpenVINO, CPU, CUDA or TENSORRT for ONNX Runtime; `runtime` may carry it: "openvino:GPU". `hint` and `streams`
    (frames in flight) matter to `infer_many`. `cache` is a folder for compiled graphs and engines.
    `tested` runs the golden frames of a ship first: a runner that fails them is refused.
    Raises ValueError in one line for an unknown or missing runtime or device, a ship that is refused, a file that
    does not load or is another runtime's, and a model that does not give its golden masks here; and for a bare file
    where EDGEMT_TRUSTED_KEY is set, as only a ship has a signature.
    """
    runtime, _, carried = runtime.partition(":")
    bare = not isinstance(ship_or_path, Ship) and (Path(ship_or_path).suffix in _KINDS or Path(ship_or_path).is_file())
    if runtime != "auto" and runtime not in RUNTIMES:
        raise ValueError(unknown_name_message("runtime", runtime, ["auto", *RUNTIMES]))
    ship = None
    if not bare:
        ship = ship_or_path if isinstance(ship_or_path, Ship) else open_ship(ship_or_path)
    require_signed(ship_or_path if ship is None else ship.folder, signed=ship is not None and ship.signed)  # type: ignore[arg-type]
    if ship is not None and not (file or precision or device or carried):
        runtime, file, precision = _quickest(ship, runtime)
    if runtime == "auto":
        runtime = _first_that_works()
    row = RUNTIMES[runtime]
    if row.load is None:
        raise ValueError(f"runtime {runtime!r}: a ship holds no torch weights; choose onnxruntime or openvino")
    if precision is not None and precision not in row.precisions:
        raise ValueError(f"precision {precision!r}: {runtime} takes {' or '.join(row.precisions)} on this call")
    if streams is not None and streams < 1:
        raise ValueError(f"streams {streams}: must be 1 or more")
    if hint not in ("latency", "throughput"):
        raise ValueError(f"hint {hint!r}: latency or throughput")
    version = str(imported(row.package, runtime, pip=row.pip).__version__).split("-")[0]
    if ship is None:
        model = _bare(Path(ship_or_path))  # type: ignore[arg-type]
        name = model.path.name
        _refuse_foreign(model.path, runtime, row)
    else:
        name = _choose(ship, row, file)
        _refuse_foreign(ship.path(name), runtime, row)
        model = ship.model(name)
    path = model.path
    choice = Choice(
        threads=checked_threads(threads) if threads is not None else physical_cores(),
        precision=precision,
        device=device or carried or None,
        hint=hint,
        streams=streams,
        cache=_cache(cache, runtime, device or carried),
        signed=ship is not None and ship.signed,
    )
    loaded = _loaded(model, runtime, version, row.load, choice)
    _check_face(path, loaded)
    made = GraphRunner(loaded, runtime=runtime, file=name, version=version, path=path)
    if ship is not None and made.shape[1:] != (*ship.card.size, ship.card.channels):
        raise ValueError(f"{path}: takes {made.shape}, the card says {ship.card.size}; export the model again")
    if ship is not None and tested:
        _prove(ship, made)
    return made


def available() -> dict[str, tuple[bool, str]]:
    """runtime -> (works, version or the reason why not). Imports each of them that could work."""
    found = {}
    for name, row in RUNTIMES.items():
        try:
            lacks = row.lacks() if find_spec(row.package) is not None else None
            if lacks is not None:
                found[name] = (False, f"installed, but {lacks}")
                continue
            found[name] = (True, str(imported(row.package, name, pip=row.pip).__version__).split("-")[0])
        except Exception as error:  # a broken install may raise anything
            found[name] = (False, first_line(error))
    return found


_FLOAT, _SMALL = "model.onnx", "model.int8.onnx"
_HALF = "model.fp16.onnx"
_KINDS = {".onnx": "an ONNX graph", ".xml": "an OpenVINO graph", ".engine": "a TensorRT engine"}


def _no_gpu_but_builds() -> str | None:
    lack = tensorrt_backend.missing()
    return None if lack is None else f"{lack}; it builds engines all the same"


_ENGINES: dict[str, Any] = {
    "files": {"int8": (_SMALL,), "fp16": (_HALF,), "fp32": (_FLOAT,)},
    "precisions": ("f32", "tf32"),
    "reads": (".onnx", ".engine"),
    "lacks": tensorrt_backend.missing,
}

RUNTIMES: dict[str, Runtime] = {
    "openvino": Runtime(
        package="openvino",
        files={
            "int8": ("openvino/model.int8.xml", _SMALL),
            "fp32": ("openvino/model.xml", _FLOAT),
            "fp16": ("openvino/model.fp16.xml", _HALF),
        },
        precisions=("f32", "bf16", "f16"),
        load=openvino_backend.load,
        about="processor, GPU or NPU; the quickest with INT8 on x86",
        reads=(".xml", ".onnx"),
        exact="f32",
    ),
    "onnxruntime": Runtime(
        package="onnxruntime",
        # symmetric INT8, the only form that every runtime reads, is slower than float here on most CPUs
        files={"fp32": (_FLOAT,), "int8": (_SMALL,), "fp16": (_HALF,)},
        precisions=("f32", "tf32", "f16"),
        load=onnxruntime_backend.load,
        about="processor, CUDA or TensorRT provider; runs everywhere",
    ),
    "tensorrt": Runtime(
        package="tensorrt",
        load=partial(tensorrt_backend.load, runtime="tensorrt"),
        about="NVIDIA GPU, engines from `edgemt build`",
        pip="tensorrt (on a Jetson JetPack brings it)",
        **_ENGINES,
    ),
    "tensorrt_rtx": Runtime(
        package="tensorrt_rtx_bindings",
        load=partial(tensorrt_backend.load, runtime="tensorrt_rtx"),
        about="NVIDIA RTX GPU, engines from `edgemt build`, which needs no GPU",
        pip="tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs",
        **{**_ENGINES, "lacks": _no_gpu_but_builds},
    ),
    "torch": Runtime("torch", {}, ("f32",), None, "the network itself, for comparison; not from a ship", reads=()),
}


def _loaded(
    model: ModelBytes, runtime: str, version: str, load: Callable[[ModelBytes, Choice], Loaded], choice: Choice
) -> Loaded:
    path = model.path
    try:
        return load(model, choice)
    except NoEngine:
        raise
    except ValueError as error:  # ours: it says what to do
        said = first_line(error)
        raise ValueError(said if str(path) in said else f"{path}: {said}") from error
    except Exception as error:  # each runtime has exceptions of its own
        raise ValueError(explain(error, path=path, runtime=runtime, version=version)) from error


def _cache(asked: str | Path | None, runtime: str, device: str | None) -> Path | None:
    """Compiling for a GPU or an NPU takes long enough to store the result; for a processor it does not.

    Where nothing can be stored, as on a read-only root without a home folder, each start compiles.
    """
    if asked is not None:
        return Path(asked)
    if runtime != "openvino" or not device or device.upper() == "CPU":
        return None
    try:
        mac("probe", b"")
        return private_folder(cache_folder() / runtime)
    except ValueError as error:
        log.warning("compiled graphs are not stored: %s", error)
        return None


def _bare(path: Path) -> ModelBytes:
    """A graph on its own, as between two stages of the flow: no card vouches for it."""
    if not path.is_file():
        raise ValueError(f"{path}: no such model file")
    if path.suffix not in _KINDS:
        raise ValueError(f"{path}: no graph that a runtime here reads; give a ship folder, .onnx, .xml or .engine")
    model = read_model(path)
    if path.suffix == ".onnx" and parse_graph(model.data, source=path).external:
        raise ValueError(f"{path}: keeps weights in another file; export it with external_data=False")
    return model


def _refuse_foreign(path: Path, runtime: str, row: Runtime) -> None:
    if path.suffix in row.reads:
        return
    able = [name for name, other in RUNTIMES.items() if path.suffix in other.reads]
    what = _KINDS.get(path.suffix, f"a {path.suffix or 'nameless'} file")
    hint = f"; choose runtime {' or '.join(able)}" if able else ""
    raise ValueError(f"{path}: is {what}, {runtime} reads {' and '.join(row.reads)}{hint}")


def _choose(ship: Ship, row: Runtime, file: str | None) -> str:
    """The first file of the ship that the runtime takes, of the asked kind."""
    kinds = list(row.files) if file is None else [file]
    names = [name for kind in kinds for name in row.files.get(kind, (kind,))]
    return next((name for name in names if name in ship.card.files), names[-1])


def _quickest(ship: Ship, runtime: str) -> tuple[str, str | None, str | None]:
    """Runtime, file and precision that were the quickest when the ship was made, of those that work here; where that
    is undecided, what this device finds the quickest."""
    for name, record in fastest(ship.card).items():
        if runtime == name or (runtime == "auto" and _works(name)):
            return name, str(record["file"]), record.get("asked")
    if undecided(ship.card) and (found := decide(ship, runtime=runtime)) is not None:
        return found.runtime, found.file, found.asked
    return runtime, None, None


def _works(name: str) -> bool:
    row = RUNTIMES.get(name)
    if row is None or row.load is None or row.lacks() is not None:
        return False
    try:
        imported(row.package, name)
    except ValueError:
        return False
    return True


def _first_that_works() -> str:
    for name in filter(_works, RUNTIMES):
        return name
    raise ValueError("runtime 'auto': neither openvino nor onnxruntime is installed; pip install openvino")


class _Watched:
    """A runner that notes which classes it has given."""

    def __init__(self, made: Runner) -> None:
        self.runtime, self.file, self.precision, self.threads = made.runtime, made.file, made.precision, made.threads
        self.classes: set[int] = set()
        self._made = made

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        masks = self._made(frames)
        self.classes.update(np.unique(masks).tolist())
        return masks


def _prove(ship: Ship, made: GraphRunner) -> None:
    """Nobody gets a runner that does not give the golden masks. A ship without golden frames proves nothing.

    How near an INT8 file comes is measured when the ship is made; until then it must only not say the same everywhere.
    """
    watched = _Watched(made)
    test = self_test(ship, watched)
    if not test.frames:
        return
    known = "int8" not in made.precision or "golden_pixels" in ship.card.measured.get(made.file, {})
    constant = len(watched.classes) == 1
    if constant and not test.ok:
        test = replace(test, message=f"it gives class {watched.classes.pop()} everywhere, as NaN weights would")
    if not test.ok and (known or constant):
        raise ValueError(f"{made.path}: fails its self-test on {made.runtime}: {test.message}")


def _check_face(path: Path, loaded: Loaded) -> None:
    (takes, takes_type), (gives, gives_type) = loaded.takes, loaded.gives
    fits = len(takes) == 4 and takes[0] == 1 and tuple(gives) == tuple(takes[:3])
    if not fits or (takes_type, gives_type) != ("uint8", "uint8"):
        raise ValueError(
            f"{path}: takes {takes_type} {list(takes)} and gives {gives_type} {list(gives)}, wanted "
            "uint8 [1, H, W, K] and uint8 [1, H, W]; export the model with EdgeMT"
        )
