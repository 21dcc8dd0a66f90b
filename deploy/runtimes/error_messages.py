"""Errors of the runtimes, each as one line that names the cause and the remedy.

Runtimes report failures as paragraphs with lines of source code. The failures that occur in practice (out of memory, a
runtime that is too old, an engine of another machine, a missing device) are recognised by patterns in the message; of
any other error the most informative line is shown.
"""

from __future__ import annotations

import re
from pathlib import Path

from deploy.package.onnx_inspect import read_graph_file
from deploy.runtimes.runner import out_of_memory

_TOO_NEW = re.compile(
    r"unsupported model ir version: \d+, max supported ir version: (?P<ir>\d+)"
    r"|opset (?P<opset>\d+) is under development.*?till opset (?P<most>\d+)"
    r"|unsupported opset: (?P<layer>opset\d+)|no conversion rule found for operations: (?P<rule>[^\n]+)"
    r"|no op registered for (?P<op>\S+) with domain_version",
    re.I | re.S,
)
_OTHER_ENGINE = re.compile(
    r"plan file is not compatible|incompatible.{0,20}(version|device|platform)|serialization.{0,60}version|magictag"
    r"|engine.{0,60}generated on|cross-platform engine|compute capability|safedeserialize|deserializ\w+ .{0,40}fail",
    re.I | re.S,
)
_NO_DEVICE = re.compile(
    r"is not registered in the openvino|cannot load library \"[^\"]*_(?P<plugin>gpu|npu)_|no available devices"
    r"|no supported devices|cuda (failure|error) (35|100)|cuda driver version is insufficient|no cuda-capable device"
    r"|provider.{0,40}(not (enabled|available)|is not in available)",
    re.I,
)
_SOURCE = re.compile(
    r"^(exception from |check '.*' failed at|frontend api failed|summary:|-- conversion is failed)", re.I
)


def error_message(error: BaseException, *, path: str | Path, runtime: str, version: str = "") -> str:
    """The failure of `runtime` to load `path` as one line: the cause and the remedy."""
    text = f"{type(error).__name__}: {error}"
    named = f"{runtime} {version}".strip()
    if out_of_memory(error):
        return (
            f"{path}: {named} ran out of memory ({cause_of(error)}); close other programs, or use fewer streams or a "
            "smaller model"
        )
    if (match := _TOO_NEW.search(text)) is not None:
        version_found = next((f"{name} {value}" for name, value in match.groupdict().items() if value), "")
        what = {
            "ir": "reads ONNX up to IR version",
            "most": "reads ONNX up to opset",
            "opset": "does not support opset",
        }
        name, _, value = version_found.partition(" ")
        return f"{path}: is newer than {named}, which {what.get(name, 'does not support')} {value}; {_made_of(path)}"
    if _OTHER_ENGINE.search(text):
        return (
            f"{path}: was built by another version or for another GPU than {named} finds here ({cause_of(error)}); "
            "build it again on this machine with edgemt build"
        )
    if (match := _NO_DEVICE.search(text)) is not None:
        device = (match.groupdict().get("plugin") or "").upper()
        return (
            f"{path}: {named} does not find the device{f' {device}' if device else ''} ({cause_of(error)}); install "
            "its driver or choose another device"
        )
    if isinstance(error, OSError):
        return f"{path}: {named} cannot read or write a file ({cause_of(error)}); check the path and its permissions"
    return f"{path}: {named} cannot load it ({cause_of(error)}); export it again"


def cause_of(error: BaseException) -> str:
    """The first line of an error message that is no source location, at most 160 characters."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not _SOURCE.match(line)] or lines or [type(error).__name__]
    line = re.sub(r"\S*/\S+\.(cc|cpp|h|hpp):\d+ .*?\) (?=[A-Z])", "", lines[0])  # signatures of C++ functions
    line = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", line)
    return line if len(line) <= 160 else f"{line[:157]}..."


def _made_of(path: str | Path) -> str:
    """The ONNX versions that the file requires, and the advice to update the runtime."""
    try:
        graph = read_graph_file(path) if str(path).endswith(".onnx") else None
    except (OSError, ValueError):
        graph = None
    asks = f"it is ONNX IR {graph.ir_version}, opset {graph.opset}; " if graph is not None else ""
    return f"{asks}update the runtime"
