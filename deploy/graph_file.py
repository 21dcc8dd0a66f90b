"""What an ONNX file is made of, read from its bytes: which operators, and whether its weights lie elsewhere.

The device has an inference runtime but seldom the `onnx` package, and nothing may be loaded unchecked: so
this walks the protocol-buffer fields itself and never decodes a weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# field numbers of onnx.proto, by message: which fields hold which kind of message
_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_OP_TYPE = 4  # of a node
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor
_DEEPEST = 64


@dataclass(frozen=True)
class GraphFile:
    ops: Counter[str]
    external: bool  # some weight lies in another file


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
    return GraphFile(found.ops, found.external)


class _Walk:
    def __init__(self) -> None:
        self.ops: Counter[str] = Counter()
        self.external = False
        self.graphs = 0

    def walk(self, data: memoryview, kind: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise IndexError("nested too deeply")
        inside = _INSIDE[kind]
        for number, value in _fields(data):
            if kind == "tensor":
                self.external |= number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value == 1)
            elif isinstance(value, int):
                continue
            elif kind == "node" and number == _OP_TYPE:
                self.ops[bytes(value).decode("utf-8", "replace")] += 1
            elif number in inside:
                self.graphs += inside[number] == "graph"
                self.walk(value, inside[number], depth + 1)


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
