"""A package as a model repository for NVIDIA Triton or OpenVINO Model Server, or as a folder for a program in C++.

    OUT/NAME/1/model.onnx  or  1/model.xml|.bin     one folder a version, the highest number is served
    OUT/NAME/config.pbtxt  warmup/frame             Triton: its configuration, and a golden frame for warm-up
    OUT/config.json                                 OpenVINO Model Server: every model of the repository
    OUT/NAME/card.json                              the card of the package; servers ignore it

The graph is that of the package, so clients send raw uint8 frames [1, H, W, K] and get class masks [1, H, W]; where
the graph has the output `uncertainty`, Triton's configuration lists it too.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deploy.package.files import CARD, IR, ONNX
from deploy.package.golden import golden_pairs
from deploy.package.graph_outputs import output_names
from deploy.package.package import Package
from deploy.runtimes.runner import FEATURES
from deploy.serving.cpp_loop import write_cpp
from deploy.serving.monai_bundle import write_bundle
from deploy.serving.triton_config import triton_config
from edgemt.errors import unknown_name_message
from edgemt.io.atomic import sha256, write_bytes, write_text
from edgemt.model_card import ModelCard

Server = Literal["triton", "ovms", "monai", "cpp"]
SERVERS: dict[str, str] = {
    "triton": "NVIDIA Triton: config.pbtxt, warm-up, versions",
    "ovms": "OpenVINO Model Server: config.json, versions",
    "monai": "a MONAI bundle: metadata.json and the ONNX graphs",
    "cpp": "the reference loop in C++ with the graph and golden frames that it reads",
}
_DEVICES = {"triton": ("cpu", "gpu"), "ovms": ("cpu", "gpu", "npu"), "monai": ("cpu",), "cpp": ("cpu",)}
_GRAPHS = {"openvino": IR, "onnxruntime": ONNX}  # runtime -> precision -> file of a package


@dataclass(frozen=True)
class ServeOptions:
    """Server, file and device for `export_to_server`."""

    server: Server
    file: Literal["int8", "fp16", "fp32"] | None = None  # None: INT8 where it runs on OpenVINO, else float
    device: Literal["cpu", "gpu", "npu"] = "cpu"
    instances: int = 1  # frames that are processed at the same time
    name: str = ""  # of the model; that of the package if empty

    def __post_init__(self) -> None:
        if self.server not in SERVERS:
            raise ValueError(unknown_name_message("server", self.server, SERVERS))
        if self.device not in _DEVICES[self.server]:
            raise ValueError(
                f"serve.device = {self.device}: {self.server} runs a ship on {' or '.join(_DEVICES[self.server])}"
            )
        if self.instances < 1:
            raise ValueError(f"serve.instances = {self.instances}: must be 1 or more")
        if self.instances > 1 and self.server in ("monai", "cpp"):
            raise ValueError(f"serve.instances = {self.instances}: {self.server} describes no instances; leave it at 1")
        if self.file and self.server == "monai":
            raise ValueError(f"serve.file = {self.file}: a MONAI bundle has every graph of the ship; leave it out")


def export_to_server(package: Package, out: str | Path, options: ServeOptions) -> Path:
    """Add the package to the repository `out`, as a new version where the model exists; returns the model folder.

    A version appears only when it is complete. The same files again change only the configuration. Raises ValueError
    for a name that belongs to another model, a package without the graph, and a full disk.
    """
    out = Path(out)
    name = model_name(options.name or package.card.name or package.folder.resolve().name)
    if options.server == "monai":
        return write_bundle(package, out / name, name=name)
    if options.server == "cpp":
        return write_cpp(package, out / name, name=name, kind=options.file)
    runtime, file = _graph(package, options)
    model = out / name
    stage = out / f".{name}.part"
    shutil.rmtree(stage, ignore_errors=True)  # left by an interrupted run
    try:
        version = _next_version(model, package, file)
        if version is not None:
            _copy(package, file, stage / str(version))
        _describe(stage, package, options, name=name, runtime=runtime, file=file)
        _move(stage, model)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    if options.server == "ovms":
        _list_model(out / "config.json", name, options)
    return model


def model_name(name: str) -> str:
    """`name` with letters, digits, dot, dash and underscore only, as valid in folder names and URLs."""
    plain = "".join(
        letter if (letter.isascii() and letter.isalnum()) or letter in "._-" else "-" for letter in name
    ).strip(".-")
    if not plain:
        raise ValueError(f"serve.name = {name!r}: holds no letter or digit; give another name")
    return plain


def _graph(package: Package, options: ServeOptions) -> tuple[str, str]:
    """(runtime, file of the package) to serve."""
    has_ir = any(file in package.card.files for file in _GRAPHS["openvino"].values())
    runtime = "openvino" if options.server == "ovms" or (options.device == "cpu" and has_ir) else "onnxruntime"
    kind = options.file or ("int8" if runtime == "openvino" else "fp32")
    if kind not in _GRAPHS["onnxruntime"]:
        raise ValueError(unknown_name_message("serve.file", kind, _GRAPHS["onnxruntime"]))
    file = _GRAPHS[runtime].get(kind, "")
    if file not in package.card.files:
        file = _GRAPHS["onnxruntime"][kind]  # OpenVINO also reads ONNX
    package.path(file)
    return runtime, file


def _parts(package: Package, file: str) -> dict[str, str]:
    """File in a version folder -> file of the package."""
    parts = {f"model{Path(file).suffix}": file}
    return parts | {"model.bin": f"{file.removesuffix('.xml')}.bin"} if file.endswith(".xml") else parts


def _next_version(model: Path, package: Package, file: str) -> int | None:
    """Number of a new version; None where the newest version has the same files."""
    if not model.exists():
        return 1
    try:
        before = ModelCard.from_json((model / CARD).read_text(encoding="utf-8"), source=model / CARD)
    except OSError:
        raise ValueError(
            f"{model}: exists and has no card, so it is another model; give another name or folder"
        ) from None
    for field in ("size", "channels", "channel_order", "classes"):
        old, new = getattr(before, field), getattr(package.card, field)
        if old != new:
            raise ValueError(f"{model}: {field} was {old}, this ship has {new}; clients would break, give another name")
    numbers = [int(path.name) for path in model.iterdir() if path.is_dir() and path.name.isdigit()]
    newest = model / str(max(numbers, default=0))
    files = {path.name for path in newest.iterdir()} if newest.is_dir() else set(_parts(package, file))
    if files != set(_parts(package, file)):
        raise ValueError(f"{newest}: holds {', '.join(sorted(files))}, another backend's files; give another name")
    if newest.is_dir() and all(
        sha256(newest / part) == package.card.files[of] for part, of in _parts(package, file).items()
    ):
        return None
    return max(numbers, default=0) + 1


def _copy(package: Package, file: str, target: Path) -> None:
    for part, of in _parts(package, file).items():
        write_bytes(target / part, package.read(of))


def _describe(stage: Path, package: Package, options: ServeOptions, *, name: str, runtime: str, file: str) -> None:
    stage.mkdir(parents=True, exist_ok=True)
    write_text(stage / CARD, package.card.to_json())
    if options.server != "triton":
        return
    pairs = golden_pairs(package)
    if pairs:
        write_bytes(stage / "warmup" / "frame", pairs[0].frame.tobytes())
    config = triton_config(
        name=name,
        runtime=runtime,
        file=f"model{Path(file).suffix}",
        shape=(1, *package.card.size, package.card.channels),
        int8=".int8." in file,
        device=options.device,
        instances=options.instances,
        warm=bool(pairs),
        outputs=[name for name in output_names(package.read(file), source=file) if name != FEATURES],
    )
    write_text(stage / "config.pbtxt", config)


def _move(stage: Path, model: Path) -> None:
    """Move the files into the model folder; the version folder is moved last and atomically."""
    if not model.exists():
        os.replace(stage, model)
        return
    for path in sorted(stage.iterdir(), key=lambda path: path.name.isdigit()):
        if path.is_dir() and not path.name.isdigit():
            for inside in path.iterdir():
                (model / path.name).mkdir(exist_ok=True)
                os.replace(inside, model / path.name / inside.name)
        else:
            os.replace(path, model / path.name)


def _list_model(config: Path, name: str, options: ServeOptions) -> None:
    """Add the model to the configuration of OpenVINO Model Server; other models of the list stay."""
    settings_of_server: Any = {}
    if config.exists():
        try:
            settings_of_server = json.loads(config.read_text(encoding="utf-8"))
            others = [
                entry for entry in settings_of_server.get("model_config_list", []) if entry["config"]["name"] != name
            ]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{config}: is no configuration of OpenVINO Model Server ({error!r}); move it") from None
    else:
        others = []
    many = options.instances > 1
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "THROUGHPUT" if many else "LATENCY"}
    if many and options.device == "cpu":
        settings["NUM_STREAMS"] = str(options.instances)
    entry = {
        "name": name,
        "base_path": name,  # relative to this file
        "target_device": options.device.upper(),
        "model_version_policy": {"latest": {"num_versions": 1}},
        "plugin_config": settings,
    }
    settings_of_server["model_config_list"] = [*others, {"config": entry}]
    write_text(config, json.dumps(settings_of_server, indent=2) + "\n")
