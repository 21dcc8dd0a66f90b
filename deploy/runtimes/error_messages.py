"""Errors of the runtimes, each as one line that names the cause and the remedy.

Runtimes report failures as paragraphs with lines of source code. The failures that occur in practice (out of memory, a
runtime that is too old, an engine of another machine, a missing device) are recognised by the patterns of each runtime
(`RuntimeSpec.errors`); of any other error the most informative line is shown.
"""

from __future__ import annotations

import re
from pathlib import Path

from deploy.package.onnx_inspect import read_graph_file
from deploy.runtimes.registry import RUNTIMES
from deploy.runtimes.runner import out_of_memory

_MISSING = {  # group of `ErrorPatterns.too_new` -> how the message goes on
    "ir": "reads ONNX up to IR version",
    "most": "reads ONNX up to opset",
    "opset": "does not support opset",
}


def error_message(error: BaseException, *, path: str | Path, runtime: str, version: str = "") -> str:
    """The failure of `runtime` to load `path` as one line: the cause and the remedy."""
    text = f"{type(error).__name__}: {error}"
    named = f"{runtime} {version}".strip()
    if out_of_memory(error):
        return (
            f"{path}: {named} ran out of memory ({cause_of(error)}); close other programs, or use fewer streams or a "
            "smaller model"
        )
    if (match := _search("too_new", text)) is not None:
        name, value = next(((name, value) for name, value in match.groupdict().items() if value), ("", ""))
        missing = f"{_MISSING.get(name, 'does not support')} {value}"
        return f"{path}: is newer than {named}, which {missing}; {_made_of(path)}"
    if _search("other_engine", text):
        return (
            f"{path}: was built by another version or for another GPU than {named} finds here ({cause_of(error)}); "
            "build it again on this machine with edgemt build"
        )
    if (match := _search("no_device", text)) is not None:
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
    left = [_without_source(line) for line in lines]
    line = next(filter(None, left), lines[0] if lines else type(error).__name__)
    return line if len(line) <= 160 else f"{line[:157]}..."


def _search(kind: str, text: str) -> re.Match[str] | None:
    """The first match of a field of `ErrorPatterns`. Those of all runtimes count, since one may load another."""
    patterns = dict.fromkeys(getattr(spec.errors, kind) for spec in RUNTIMES.values())
    return next((m for p in patterns if p and (m := re.search(p, text, re.I | re.S)) is not None), None)


def _without_source(line: str) -> str:
    for pattern in dict.fromkeys(spec.errors.not_the_cause for spec in RUNTIMES.values()):
        line = re.sub(pattern, "", line, flags=re.I) if pattern else line
    return line


def _made_of(path: str | Path) -> str:
    """The ONNX versions that the file requires, and the advice to update the runtime."""
    try:
        graph = read_graph_file(path) if str(path).endswith(".onnx") else None
    except (OSError, ValueError):
        graph = None
    asks = f"it is ONNX IR {graph.ir_version}, opset {graph.opset}; " if graph is not None else ""
    return f"{asks}update the runtime"
