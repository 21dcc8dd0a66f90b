"""What an ONNX file is made of, read from its bytes: operators, layers, and what must never reach a runtime.

The device has an inference runtime but seldom the `onnx` package, and nothing may be loaded unchecked: so
this walks the protocol-buffer fields itself. A weight is looked at for one thing only: whether it is a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

# field numbers of onnx.proto, by message: which fields hold which kind of message
_INSIDE = {
    "model": {7: "graph", 8: "opset", 25: "function"},
    "opset": {},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_IR_VERSION = 1  # of a model
_TAKES, _GIVES, _OP_TYPE, _OP_DOMAIN = 1, 2, 4, 7  # of a node
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2  # of an opset
_DATA_TYPE, _FLOATS, _NAME, _RAW, _DOUBLES = 2, 4, 8, 9, 10  # of a tensor
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor
_REAL = {1: "<f4", 10: "<f2", 11: "<f8", 16: "<u2"}  # data types with a NaN; 16 is bfloat16, looked at by its bits
_HALF = 10  # data type of half precision
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_STANDARD = ("", "ai.onnx")
_DEEPEST = 64


@dataclass(frozen=True)
class GraphFile:
    ops: Counter[str]
    external: bool  # some weight lies in another file
    foreign: tuple[str, ...] = ()  # operators that are not ONNX's own, as DOMAIN.NAME
    not_a_number: str | None = None  # the first weight that holds a NaN
    ir_version: int = 0
    opset: int = 0
    layers: Counter[str] = field(default_factory=Counter)  # what their weights are: "int8", "f16", "f32"


def read_graph_file(path: str | Path) -> GraphFile:
    """Raises ValueError, naming the file, when the bytes are no whole ONNX model."""
    data = memoryview(Path(path).read_bytes())
    found = _Walk()
    try:
        found.walk(data, "model", 0)
    except (IndexError, RecursionError) as error:
        raise ValueError(f"{path}: not a whole ONNX file ({error}); copy or export it again") from None
    if not found.graphs:
        raise ValueError(f"{path}: not a whole ONNX file (no graph inside); copy or export it again")
    foreign = tuple(sorted(found.foreign))
    return GraphFile(
        found.ops, found.external, foreign, found.not_a_number, found.ir_version, found.opset, found.layers()
    )


def refuse_unsafe(path: str | Path) -> None:
    """Raises ValueError for a graph that reads other files, runs code that is not the runtime's, or counts in NaN."""
    graph = read_graph_file(path)
    if graph.external:
        raise ValueError(f"{path}: keeps weights in another file; export it with external_data=False")
    if graph.foreign:
        shown = ", ".join(graph.foreign[:3])
        raise ValueError(f"{path}: has custom operators ({shown}), which only foreign code could run; export it again")
    if graph.not_a_number is not None:
        raise ValueError(f"{path}: weight {graph.not_a_number!r} holds NaN; train or export the model again")


class _Walk:
    def __init__(self) -> None:
        self.ops: Counter[str] = Counter()
        self.external = False
        self.foreign: set[str] = set()
        self.not_a_number: str | None = None
        self.ir_version = self.opset = self.graphs = 0
        self.weights: list[str] = []  # of layers, by name
        self.scaled: set[str] = set()  # what DequantizeLinear gives
        self.halves: set[str] = set()  # tensors in half precision

    def walk(self, data: memoryview, kind: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise IndexError("nested too deeply")
        if kind in ("tensor", "opset"):
            return self.tensor(data) if kind == "tensor" else self.imports(data)
        inside = _INSIDE[kind]
        words: dict[int, list[str]] = {_TAKES: [], _GIVES: [], _OP_TYPE: [""], _OP_DOMAIN: [""]}  # of a node
        for number, value in _fields(data):
            if isinstance(value, int):
                if kind == "model" and number == _IR_VERSION:
                    self.ir_version = value
            elif kind == "node" and number in words:
                words[number].append(_text(value))
            elif number in inside:
                self.graphs += inside[number] == "graph"
                self.walk(value, inside[number], depth + 1)
        if kind == "node":
            self.node(words[_OP_TYPE][-1], words[_OP_DOMAIN][-1], takes=words[_TAKES], gives=words[_GIVES])

    def node(self, name: str, domain: str, *, takes: list[str], gives: list[str]) -> None:
        self.ops[name] += 1
        if domain not in _STANDARD:
            self.foreign.add(f"{domain}.{name}")
        if name in _LAYERS and len(takes) > 1:
            self.weights.append(takes[1])
        if name == "DequantizeLinear":
            self.scaled.update(gives)

    def layers(self) -> Counter[str]:
        return Counter("int8" if w in self.scaled else "f16" if w in self.halves else "f32" for w in self.weights)

    def imports(self, data: memoryview) -> None:
        found = dict(_fields(data))
        domain, version = found.get(_OPSET_DOMAIN, b""), found.get(_OPSET_VERSION, 0)
        if isinstance(version, int) and not isinstance(domain, int) and _text(domain) in _STANDARD:
            self.opset = version

    def tensor(self, data: memoryview) -> None:
        found = dict(_fields(data))
        self.external |= _EXTERNAL_DATA in found or found.get(_DATA_LOCATION) == 1
        kind = found.get(_DATA_TYPE)
        title = found.get(_NAME, b"")
        name = "" if isinstance(title, int) else _text(title)
        if kind == _HALF:
            self.halves.add(name)
        numbers = [(_RAW, _REAL.get(kind, ""))] if isinstance(kind, int) else []
        for place, form in (*numbers, (_FLOATS, "<f4"), (_DOUBLES, "<f8")):
            value = found.get(place, 0)
            if form and not isinstance(value, int) and _holds_nan(value, form):
                self.not_a_number = self.not_a_number or name


def _holds_nan(data: memoryview, form: str) -> bool:
    if len(data) % np.dtype(form).itemsize:
        raise IndexError("a weight is cut short")
    values = np.frombuffer(data, form) if len(data) else np.empty(0, form)
    return bool(((values & 0x7FFF) > 0x7F80).any() if form == "<u2" else np.isnan(values).any())


def _text(data: memoryview | bytes) -> str:
    return bytes(data).decode("utf-8", "replace")


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of one message: a number is an int, anything with a length a view of its bytes."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise IndexError(f"unknown wire type {wire}")
        if at + size > end:
            raise IndexError("cut short")
        if wire == 2:
            yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        if at >= len(data):
            raise IndexError("cut short")
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
    raise IndexError("a number does not end")
