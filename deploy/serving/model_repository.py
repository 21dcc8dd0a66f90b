"""A ship as a model repository, for NVIDIA Triton or OpenVINO Model Server: where one box is not enough.

    OUT/NAME/1/model.onnx  or  1/model.xml|.bin     one folder a version, the highest number is served
    OUT/NAME/config.pbtxt  warmup/frame             Triton: its configuration, and a golden frame to wake up with
    OUT/config.json                                 OpenVINO Model Server: every model of the repository
    OUT/NAME/card.json                              what the model is; the servers do not read it

The graph is the shipped one, so clients send raw uint8 frames [1, H, W, K] and get class masks [1, H, W].
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deploy.package.files import CARD
from deploy.package.golden import golden
from deploy.package.package import Ship
from deploy.serving.monai_bundle import write_bundle
from deploy.serving.triton_config import triton_config
from edgemt.errors import unknown_name_message
from edgemt.io.atomic import sha256, write_bytes, write_text
from edgemt.model_card import ModelCard

Server = Literal["triton", "ovms", "monai"]
SERVERS: dict[str, str] = {
    "triton": "NVIDIA Triton: config.pbtxt, warm-up, versions",
    "ovms": "OpenVINO Model Server: config.json, versions",
    "monai": "a MONAI bundle: metadata.json and the ONNX graphs",
}
_DEVICES = {"triton": ("cpu", "gpu"), "ovms": ("cpu", "gpu", "npu"), "monai": ("cpu",)}
_GRAPHS = {
    "openvino": {"int8": "openvino/model.int8.xml", "fp16": "openvino/model.fp16.xml", "fp32": "openvino/model.xml"},
    "onnxruntime": {"int8": "model.int8.onnx", "fp16": "model.fp16.onnx", "fp32": "model.onnx"},
}


@dataclass(frozen=True)
class ServeOptions:
    server: Server
    file: Literal["int8", "fp16", "fp32"] | None = None  # None: INT8 where it runs on OpenVINO, else float
    device: Literal["cpu", "gpu", "npu"] = "cpu"
    instances: int = 1  # frames that are worked on at the same time
    name: str = ""  # of the model; the ship's own if not given

    def __post_init__(self) -> None:
        if self.server not in SERVERS:
            raise ValueError(unknown_name_message("server", self.server, SERVERS))
        if self.device not in _DEVICES[self.server]:
            raise ValueError(
                f"serve.device = {self.device}: {self.server} runs a ship on {' or '.join(_DEVICES[self.server])}"
            )
        if self.instances < 1:
            raise ValueError(f"serve.instances = {self.instances}: must be 1 or more")


def serve(ship: Ship, out: str | Path, options: ServeOptions) -> Path:
    """Add the ship to the repository `out`, as a new version where the model is there already; returns its folder.

    A server sees a version when it is whole and not before. The same files again change nothing but the configuration.
    Raises ValueError for a name that means another model, a ship without the graph, and a full disk.
    """
    out = Path(out)
    name = model_name(options.name or ship.card.name or ship.folder.resolve().name)
    if options.server == "monai":
        return write_bundle(ship, out / name, name=name)
    runtime, file = _graph(ship, options)
    model = out / name
    stage = out / f".{name}.part"
    shutil.rmtree(stage, ignore_errors=True)  # of a run that was killed
    try:
        version = _next_version(model, ship, file)
        if version is not None:
            _copy(ship, file, stage / str(version))
        _describe(stage, ship, options, name=name, runtime=runtime, int8=".int8." in file, suffix=Path(file).suffix)
        _move(stage, model)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    if options.server == "ovms":
        _list_model(out / "config.json", name, options)
    return model


def model_name(name: str) -> str:
    """Letters, digits, dot, dash and underscore: what a folder and an address may hold."""
    plain = "".join(
        letter if (letter.isascii() and letter.isalnum()) or letter in "._-" else "-" for letter in name
    ).strip(".-")
    if not plain:
        raise ValueError(f"serve.name = {name!r}: holds no letter or digit; give another name")
    return plain


def _graph(ship: Ship, options: ServeOptions) -> tuple[str, str]:
    """Which runtime serves which file of the ship."""
    has_ir = any(file in ship.card.files for file in _GRAPHS["openvino"].values())
    runtime = "openvino" if options.server == "ovms" or (options.device == "cpu" and has_ir) else "onnxruntime"
    kind = options.file or ("int8" if runtime == "openvino" else "fp32")
    if kind not in _GRAPHS["onnxruntime"]:
        raise ValueError(unknown_name_message("serve.file", kind, _GRAPHS["onnxruntime"]))
    file = _GRAPHS[runtime].get(kind, "")
    if file not in ship.card.files:
        file = _GRAPHS["onnxruntime"][kind]  # OpenVINO reads ONNX too
    ship.path(file)
    return runtime, file


def _parts(ship: Ship, file: str) -> dict[str, str]:
    """File in a version folder -> file of the ship."""
    parts = {f"model{Path(file).suffix}": file}
    return parts | {"model.bin": f"{file.removesuffix('.xml')}.bin"} if file.endswith(".xml") else parts


def _next_version(model: Path, ship: Ship, file: str) -> int | None:
    """The number that a new version gets; None when the newest one is this very graph."""
    if not model.exists():
        return 1
    try:
        before = ModelCard.from_json((model / CARD).read_text(encoding="utf-8"), source=model / CARD)
    except OSError:
        raise ValueError(f"{model}: is there, but no card says what it is; give another name or folder") from None
    for field in ("size", "channels", "channel_order", "classes"):
        old, new = getattr(before, field), getattr(ship.card, field)
        if old != new:
            raise ValueError(f"{model}: {field} was {old}, this ship has {new}; clients would break, give another name")
    numbers = [int(path.name) for path in model.iterdir() if path.is_dir() and path.name.isdigit()]
    newest = model / str(max(numbers, default=0))
    held = {path.name for path in newest.iterdir()} if newest.is_dir() else set(_parts(ship, file))
    if held != set(_parts(ship, file)):
        raise ValueError(f"{newest}: holds {', '.join(sorted(held))}, another backend's files; give another name")
    if newest.is_dir() and all(sha256(newest / part) == ship.card.files[of] for part, of in _parts(ship, file).items()):
        return None
    return max(numbers, default=0) + 1


def _copy(ship: Ship, file: str, target: Path) -> None:
    for part, of in _parts(ship, file).items():
        write_bytes(target / part, ship.read(of))


def _describe(
    stage: Path, ship: Ship, options: ServeOptions, *, name: str, runtime: str, int8: bool, suffix: str
) -> None:
    stage.mkdir(parents=True, exist_ok=True)
    write_text(stage / CARD, ship.card.to_json())
    if options.server != "triton":
        return
    pairs = golden(ship)
    if pairs:
        write_bytes(stage / "warmup" / "frame", pairs[0].frame.tobytes())
    config = triton_config(
        name=name,
        runtime=runtime,
        file=f"model{suffix}",
        shape=(1, *ship.card.size, ship.card.channels),
        int8=int8,
        device=options.device,
        instances=options.instances,
        warm=bool(pairs),
    )
    write_text(stage / "config.pbtxt", config)


def _move(stage: Path, model: Path) -> None:
    """Everything to its place, a version folder last and in one go."""
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
    """Put the model into OpenVINO Model Server's list; the other models of the list stay as they are."""
    held: Any = {}
    if config.exists():
        try:
            held = json.loads(config.read_text(encoding="utf-8"))
            others = [entry for entry in held.get("model_config_list", []) if entry["config"]["name"] != name]
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
    held["model_config_list"] = [*others, {"config": entry}]
    write_text(config, json.dumps(held, indent=2) + "\n")
