"""Summary of an ONNX file from its bytes: operators, layers, and content that must never reach a runtime.

A device has an inference runtime but often not the `onnx` package, and no file may be loaded unchecked: so this module
parses the protocol-buffer fields itself. Weights are checked for NaN only.

Two parsers must not read one file differently, so only the canonical form, which exporters write, is accepted: numbers
and tags in as few bytes as possible, known fields with their own wire type, singular fields at most once, 32-bit fields
within 32 bits. Everything else is refused, even where protobuf accepts it.
Source: https://protobuf.dev/programming-guides/encoding and onnx/onnx.proto of ONNX 1.19.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from edgemt.io.plain_files import read_regular

# message -> field number in onnx.proto -> message that the field holds
_INSIDE = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "opset": {},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 12: "output", 15: "sparse"},
    "output": {},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_NUMBER, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # wire types
# singular fields that are read: field number -> wire type
_ONCE = {
    "model": {1: _NUMBER, 7: _BYTES},
    "opset": {1: _BYTES, 2: _NUMBER},
    "training": {1: _BYTES, 2: _BYTES},
    "graph": {},
    "output": {1: _BYTES},
    "function": {},
    "node": {4: _BYTES, 7: _BYTES},
    "attribute": {5: _BYTES, 6: _BYTES, 22: _BYTES},
    "sparse": {1: _BYTES, 2: _BYTES},
    "tensor": {2: _NUMBER, 8: _BYTES, 9: _BYTES, 14: _NUMBER},
}
_IR_VERSION = 1  # of a model
_OUTPUT_NAME, _OUTPUT_DEPTH = 1, 2  # of an output; outputs of subgraphs lie deeper
_TAKES, _GIVES, _OP_TYPE, _OP_DOMAIN = 1, 2, 4, 7  # of a node
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2  # of an opset
_DATA_TYPE, _FLOATS, _INTS, _NAME, _RAW, _DOUBLES = 2, 4, 5, 8, 9, 10  # of a tensor
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor
# data types that have a NaN -> dtype of numpy; 16 is bfloat16, 17 to 20 are float8
_REAL = {1: "<f4", 10: "<f2", 11: "<f8", 14: "<f4", 15: "<f8", 16: "<u2", 17: "u1", 18: "u1", 19: "u1", 20: "u1"}
_BFLOAT, _HALF = 16, 10  # data types of 16 bits
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_STANDARD = ("", "ai.onnx")
_DEEPEST = 64


@dataclass(frozen=True)
class OnnxSummary:
    """The parts of an ONNX model that matter before it is loaded."""

    ops: Counter[str]
    external: bool  # some weight is stored in another file
    custom_operators: tuple[str, ...] = ()  # operators outside the ONNX standard, as DOMAIN.NAME
    nan_weight: str | None = None  # name of the first weight that holds a NaN
    ir_version: int = 0
    opset: int = 0
    layers: Counter[str] = field(
        default_factory=Counter
    )  # type of the weights, "int8", "f16" or "f32" -> number of layers
    outputs: tuple[str, ...] = ()  # names


def read_graph_file(path: str | Path) -> OnnxSummary:
    """Summary of an ONNX file. Raises ValueError, naming the file, unless it is a complete model in canonical form."""
    return parse_graph(read_regular(path), source=path)


def parse_graph(content: bytes, *, source: str | Path) -> OnnxSummary:
    """Summary of the bytes of an ONNX file; `source` is named in errors.

    The latest ones are remembered by the hash of the bytes: a package is opened with the same graphs again and again.
    """
    digest = sha256(content).digest()
    summary = _LATEST.get(digest)
    if summary is None:
        summary = _LATEST[digest] = _summary(content, source=source)
        if len(_LATEST) > _MOST:
            _LATEST.pop(next(iter(_LATEST)), None)
    return summary


_LATEST: dict[bytes, OnnxSummary] = {}  # hash of the bytes of a file -> summary, the oldest first
_MOST = 32


def _summary(content: bytes, *, source: str | Path) -> OnnxSummary:
    found = _Walk()
    try:
        found.walk(memoryview(content), "model", 0)
    except (IndexError, RecursionError) as error:
        raise ValueError(f"{source}: not a whole ONNX file ({error}); copy or export it again") from None
    if not found.graphs:
        raise ValueError(f"{source}: not a whole ONNX file (no graph inside); copy or export it again")
    custom_operators = tuple(sorted(found.custom_operators))
    return OnnxSummary(
        found.ops,
        found.external,
        custom_operators,
        found.nan_weight,
        found.ir_version,
        found.opset,
        found.layers(),
        tuple(found.outputs),
    )


def check_safe(path: str | Path, content: bytes | None = None) -> None:
    """Raises ValueError for a graph with weights in other files, with custom operators, or with NaN weights.

    `content`: the bytes of the file, where they were read already.
    """
    graph = parse_graph(read_regular(path) if content is None else content, source=path)
    if graph.external:
        raise ValueError(f"{path}: keeps weights in another file; export it with external_data=False")
    if graph.custom_operators:
        shown = ", ".join(graph.custom_operators[:3])
        raise ValueError(f"{path}: has custom operators ({shown}), which only foreign code could run; export it again")
    if graph.nan_weight is not None:
        raise ValueError(f"{path}: weight {graph.nan_weight!r} holds NaN; train or export the model again")


class _Walk:
    def __init__(self) -> None:
        self.ops: Counter[str] = Counter()
        self.external = False
        self.custom_operators: set[str] = set()
        self.nan_weight: str | None = None
        self.ir_version = self.opset = self.graphs = 0
        self.outputs: list[str] = []
        self.weights: list[str] = []  # of layers, by name
        self.scaled: set[str] = set()  # outputs of DequantizeLinear
        self.halves: set[str] = set()  # tensors in half precision

    def walk(self, data: memoryview, kind: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise IndexError("nested too deeply")
        if kind in ("tensor", "opset"):
            return self.tensor(data) if kind == "tensor" else self.imports(data)
        inside = _INSIDE[kind]
        words: dict[int, list[str]] = {_TAKES: [], _GIVES: [], _OP_TYPE: [""], _OP_DOMAIN: [""]}  # of a node
        for number, wire, value in _message(data, kind):
            if kind == "model" and number == _IR_VERSION:
                self.ir_version = _int32(value)
            elif kind == "output" and number == _OUTPUT_NAME and depth == _OUTPUT_DEPTH:
                self.outputs.append(_text(_bytes(value, wire)))
            elif kind == "node" and number in words:
                words[number].append(_text(_bytes(value, wire)))
            elif number in inside:
                self.graphs += inside[number] == "graph"
                self.walk(_bytes(value, wire), inside[number], depth + 1)
        if kind == "node":
            self.node(words[_OP_TYPE][-1], words[_OP_DOMAIN][-1], takes=words[_TAKES], gives=words[_GIVES])

    def node(self, name: str, domain: str, *, takes: list[str], gives: list[str]) -> None:
        self.ops[name] += 1
        if domain not in _STANDARD:
            self.custom_operators.add(f"{domain}.{name}")
        if name in _LAYERS and len(takes) > 1:
            self.weights.append(takes[1])
        if name == "DequantizeLinear":
            self.scaled.update(gives)

    def layers(self) -> Counter[str]:
        return Counter("int8" if w in self.scaled else "f16" if w in self.halves else "f32" for w in self.weights)

    def imports(self, data: memoryview) -> None:
        domain, version = "", 0
        for number, wire, value in _message(data, "opset"):
            if number == _OPSET_DOMAIN:
                domain = _text(_bytes(value, wire))
            elif number == _OPSET_VERSION:
                version = _int32(value)
        if domain in _STANDARD:
            self.opset = version

    def tensor(self, data: memoryview) -> None:
        kind, name = 0, ""
        stored: list[tuple[int, int, int | memoryview]] = []
        for number, wire, value in _message(data, "tensor"):
            if number == _DATA_TYPE:
                kind = _int32(value)
            elif number == _NAME:
                name = _text(_bytes(value, wire))
            elif number == _DATA_LOCATION and _int32(value) > 1:
                raise IndexError("a weight lies nowhere")
            elif number in (_FLOATS, _INTS, _RAW, _DOUBLES):
                stored.append((number, wire, value))
            self.external |= number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value == 1)
        if kind == _HALF:
            self.halves.add(name)
        if any(_nan_in(number, wire, value, kind) for number, wire, value in stored):
            self.nan_weight = self.nan_weight or name


def _nan_in(number: int, wire: int, value: int | memoryview, kind: int) -> bool:
    """True where one data field of a tensor holds a NaN; the field is packed or a single number."""
    if number == _INTS:
        form = {_HALF: "<u2", _BFLOAT: "<u2", 17: "u1", 18: "u1", 19: "u1", 20: "u1"}.get(kind)
        if form is None:
            return False
        numbers = [_int32(value)] if wire == _NUMBER else [_int32(n) for n in _packed(_bytes(value, wire))]
        if any(n >> 8 * np.dtype(form).itemsize for n in numbers):
            raise IndexError("a weight has more bits than its type")
        return _holds_nan(memoryview(np.array(numbers, form).tobytes()), _REAL[kind], kind)
    form = {_FLOATS: "<f4", _DOUBLES: "<f8"}.get(number) or _REAL.get(kind, "")
    alone = {_FLOATS: _FOUR, _DOUBLES: _EIGHT}.get(number)
    if isinstance(value, int) or wire not in (_BYTES, alone):
        raise IndexError("a field is of another type than ONNX's")
    return bool(form) and _holds_nan(value, form, kind)


def _holds_nan(data: memoryview, form: str, kind: int = 0) -> bool:
    if len(data) % np.dtype(form).itemsize:
        raise IndexError("a weight is cut short")
    values = np.frombuffer(data, form) if len(data) else np.empty(0, form)
    if form == "<u2":  # bfloat16
        return bool(((values & 0x7FFF) > 0x7F80).any())
    if form == "u1":  # float8: E4M3FN, E5M2 and their FNUZ forms, whose only NaN is minus zero
        wrong = {17: (values & 0x7F) == 0x7F, 19: (values & 0x7F) > 0x7C}.get(kind, values == 0x80)
        return bool(wrong.any())
    return bool(np.isnan(values).any())


def _text(data: memoryview | bytes) -> str:
    return bytes(data).decode("utf-8", "replace")


def _bytes(value: int | memoryview, wire: int) -> memoryview:
    if isinstance(value, int) or wire != _BYTES:
        raise IndexError("a field is of another type than ONNX's")
    return value


def _int32(value: int | memoryview) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise IndexError("a number of 32 bits is too large")
    return value


def _message(data: memoryview, kind: str) -> Iterator[tuple[int, int, int | memoryview]]:
    """(field, wire type, value) of one message. Raises IndexError for a repeated singular field and a wrong type."""
    once, seen = _ONCE[kind], set[int]()
    for number, wire, value in _fields(data):
        if number in once:
            if wire != once[number]:
                raise IndexError("a field is of another type than ONNX's")
            if number in seen:
                raise IndexError(f"field {number} of a {kind} occurs twice")
            seen.add(number)
        yield number, wire, value


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """(field, wire type, value) of any message: a number as int, everything else as a view of its bytes."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise IndexError(f"no field has the number {number}")
        if wire == _NUMBER:
            value, at = _varint(data, at)
            yield number, wire, value
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_EIGHT, _FOUR):
            size = 8 if wire == _EIGHT else 4
        else:
            raise IndexError(f"unknown wire type {wire}")
        if at + size > end:
            raise IndexError("cut short")
        yield number, wire, data[at : at + size]
        at += size


def _packed(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """(number below 2**64, position after it), for a varint in its shortest form."""
    value = shift = 0
    while shift < 64:
        if at >= len(data):
            raise IndexError("cut short")
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            if (byte == 0 and shift) or value >= 1 << 64:
                raise IndexError("a number is longer than it needs to be")
            return value, at
        shift += 7
    raise IndexError("a number does not end")
