"""One model, one runtime: uint8 frames in, class masks out. Runtimes are imported when they are asked for.

A runner says what it does and not what was asked of it: `precision` is read back from the compiled graph.

Shapes: N batch, H W size in pixels, K channels. Graphs have batch 1, so N frames are N calls.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np

from deploy.graph_file import read_graph_file
from deploy.machine import physical_cores
from deploy.runners import GraphRunner, Loaded, TorchRunner, checked_threads, first_line, imported
from deploy.ship import Ship, open_ship
from edgemt.contract import Runner
from edgemt.names import unknown

__all__ = ["RUNTIMES", "Runtime", "TorchRunner", "available", "physical_cores", "runner"]


@dataclass(frozen=True)
class Runtime:
    package: str
    files: dict[str, tuple[str, ...]]  # "int8" and "fp32" -> files of a ship, first choice first
    precisions: tuple[str, ...]  # what may be asked for
    load: Callable[[Path, int, str | None], Loaded] | None
    about: str


def runner(
    ship_or_path: Ship | str | Path,
    *,
    runtime: str = "auto",
    file: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
) -> Runner:
    """Load a ship, or one bare .onnx or .xml file, on a runtime.

    `file` is "int8", "fp32" or a name on the card; None takes what the runtime is usually quickest with.
    `precision` ("f32", "bf16") is the arithmetic of float layers; None leaves it to the runtime, and the
    runner's own `.precision` says what it chose. Raises ValueError in one line for an unknown or missing
    runtime, a ship that is refused and a file that does not load.
    """
    if runtime == "auto":
        runtime = _first_that_works()
    row = RUNTIMES.get(runtime)
    if row is None:
        raise ValueError(unknown("runtime", runtime, ["auto", *RUNTIMES]))
    if row.load is None:
        raise ValueError(f"runtime {runtime!r}: a ship holds no torch weights; choose onnxruntime or openvino")
    if precision is not None and precision not in row.precisions:
        raise ValueError(f"precision {precision!r}: {runtime} takes {' or '.join(row.precisions)} on this call")
    version = str(imported(row.package, runtime).__version__).split("-")[0]
    bare = not isinstance(ship_or_path, Ship) and Path(ship_or_path).suffix in (".onnx", ".xml")
    ship = None if bare else ship_or_path if isinstance(ship_or_path, Ship) else open_ship(ship_or_path)
    path = _bare(Path(ship_or_path)) if ship is None else _choose(ship, row, file)  # type: ignore[arg-type]
    count = checked_threads(threads) if threads is not None else physical_cores()
    try:
        loaded = row.load(path, count, precision)
    except Exception as error:  # each runtime has exceptions of its own
        if str(error).startswith(str(path)):
            raise ValueError(first_line(error)) from error
        raise ValueError(f"{path}: {runtime} cannot load it ({first_line(error)}); export it again") from error
    _check_face(path, loaded)
    name = path.name if ship is None else path.relative_to(ship.folder).as_posix()
    made = GraphRunner(loaded, runtime=runtime, file=name, version=version, path=path)
    if ship is not None and made.shape[1:] != (*ship.card.size, ship.card.channels):
        raise ValueError(f"{path}: takes {made.shape}, the card says {ship.card.size}; export the model again")
    return made


def available() -> dict[str, tuple[bool, str]]:
    """runtime -> (works, version or the reason why not). Imports each of them."""
    found = {}
    for name, row in RUNTIMES.items():
        try:
            import_module(row.package)
            found[name] = (True, metadata.version(row.package))
        except Exception as error:  # a broken install may raise anything
            found[name] = (False, first_line(error))
    return found


def _load_onnxruntime(path: Path, threads: int, precision: str | None) -> Loaded:
    ort = import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    quantized = "QuantizeLinear" in read_graph_file(path).ops
    with tempfile.TemporaryDirectory() as folder:
        fused = Path(folder) / "fused.onnx"
        if quantized:  # the only way to learn which layers really became integer ones
            options.optimized_model_filepath = str(fused)
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        ops = read_graph_file(fused).ops if quantized else Counter()
    whole = sum(n for op, n in ops.items() if op in _INTEGER_OPS)
    real = sum(n for op, n in ops.items() if op in _FLOAT_OPS)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    _only_one(inputs, outputs)
    name, run = inputs[0].name, session.run
    return Loaded(
        call=lambda frame: run(None, {name: frame})[0],
        takes=(tuple(inputs[0].shape), _plain(inputs[0].type)),
        gives=(tuple(outputs[0].shape), _plain(outputs[0].type)),
        precision=_said({"int8": whole, "f32": real}) if whole else "f32",
        threads=threads,
    )


def _load_openvino(path: Path, threads: int, precision: str | None) -> Loaded:
    ov = import_module("openvino")
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if precision is not None:
        config["INFERENCE_PRECISION_HINT"] = precision
    compiled = ov.Core().compile_model(str(path), "CPU", config)
    _only_one(compiled.inputs, compiled.outputs)
    ports = compiled.input(0), compiled.output(0)
    takes, gives = (
        (tuple(port.get_partial_shape().to_shape()), _plain(port.element_type.to_string())) for port in ports
    )
    kinds: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if info["layerType"].value in _OPENVINO_HEAVY:
            kind = info["runtimePrecision"].value
            kinds["int8" if kind in ("i8", "u8") else kind] += 1
    request = compiled.create_infer_request()
    # one buffer that the graph reads in place: half the overhead of handing an array over with each call
    buffer = np.zeros(takes[0], np.uint8)
    if takes[1] == gives[1] == "uint8":
        request.set_input_tensor(ov.Tensor(buffer, shared_memory=True))
    mask = request.get_output_tensor(0).data

    def call(frame: np.ndarray) -> np.ndarray:
        np.copyto(buffer, frame)
        request.infer(share_outputs=True)
        return mask.copy()

    hint = _plain(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
    used = int(compiled.get_property("INFERENCE_NUM_THREADS"))
    return Loaded(call, takes, gives, _said(kinds) if kinds else hint, used)


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
_OPENVINO_HEAVY = {"Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul"}

RUNTIMES: dict[str, Runtime] = {
    "openvino": Runtime(
        package="openvino",
        files={
            "int8": ("openvino/model.int8.xml", "model.int8.onnx"),
            "fp32": ("openvino/model.xml", "model.onnx"),
        },
        precisions=("f32", "bf16", "f16"),
        load=_load_openvino,
        about="CPU, latency hint; the quickest with INT8 on x86",
    ),
    "onnxruntime": Runtime(
        package="onnxruntime",
        # symmetric INT8, the only form that every runtime reads, is slower than float here on most CPUs
        files={"fp32": ("model.onnx",), "int8": ("model.int8.onnx",)},
        precisions=("f32",),
        load=_load_onnxruntime,
        about="CPU provider; runs everywhere",
    ),
    "torch": Runtime("torch", {}, ("f32",), None, "the network itself, for comparison; not from a ship"),
}


def _bare(path: Path) -> Path:
    """A graph on its own, as between two stages of the flow: no card vouches for it."""
    if not path.is_file():
        raise ValueError(f"{path}: no such model file")
    if path.suffix == ".onnx" and read_graph_file(path).external:
        raise ValueError(f"{path}: keeps weights in another file; export it with external_data=False")
    return path


def _choose(ship: Ship, row: Runtime, file: str | None) -> Path:
    """The first file of the ship that the runtime takes, of the asked kind."""
    kinds = list(row.files) if file is None else [file]
    names = [name for kind in kinds for name in row.files.get(kind, (kind,))]
    return ship.path(next((name for name in names if name in ship.card.files), names[-1]))


def _first_that_works() -> str:
    for name, row in RUNTIMES.items():
        if row.load is None:
            continue
        try:
            import_module(row.package)
        except ImportError:
            continue
        return name
    raise ValueError("runtime 'auto': neither openvino nor onnxruntime is installed; pip install openvino")


def _check_face(path: Path, loaded: Loaded) -> None:
    (takes, takes_type), (gives, gives_type) = loaded.takes, loaded.gives
    fits = len(takes) == 4 and takes[0] == 1 and tuple(gives) == tuple(takes[:3])
    if not fits or (takes_type, gives_type) != ("uint8", "uint8"):
        raise ValueError(
            f"{path}: takes {takes_type} {list(takes)} and gives {gives_type} {list(gives)}, wanted "
            "uint8 [1, H, W, K] and uint8 [1, H, W]; export the model with EdgeMT"
        )


def _only_one(inputs: Any, outputs: Any) -> None:
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs, wanted one of each")


def _said(kinds: dict[str, int]) -> str:
    """Commonest first: "int8", "int8+bf16"."""
    return "+".join(k for k, n in sorted(kinds.items(), key=lambda item: -item[1]) if n)


def _plain(kind: str) -> str:
    kind = kind.removeprefix("tensor(").removesuffix(")").removesuffix("_t")
    return {
        "u8": "uint8",
        "i32": "int32",
        "i64": "int64",
        "float32": "f32",
        "bfloat16": "bf16",
        "float16": "f16",
    }.get(kind, kind)
