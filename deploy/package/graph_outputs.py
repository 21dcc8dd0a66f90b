"""Names of the outputs of a graph of a package, read from its bytes without a runtime."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from deploy.package.onnx_inspect import parse_graph


def output_names(content: bytes, *, source: str | Path) -> tuple[str, ...]:
    """Output names of an ONNX file, or of an OpenVINO IR if `source` ends with .xml.

    An output of an IR has the names of the tensor that its `Result` layer reads. Raises ValueError, naming `source`,
    for a damaged file.
    """
    if Path(source).suffix != ".xml":
        return parse_graph(content, source=source).outputs
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ValueError(f"{source}: not a whole OpenVINO file ({error}); copy or export it again") from None
    layers = {layer.get("id"): layer for layer in root.iterfind("layers/layer")}
    names = []
    for edge in root.iterfind("edges/edge"):
        reader, writer = layers.get(edge.get("to-layer")), layers.get(edge.get("from-layer"))
        if reader is not None and writer is not None and reader.get("type") == "Result":
            ports = writer.iterfind("output/port")
            tensor = next((port for port in ports if port.get("id") == edge.get("from-port")), None)
            names += (tensor.get("names") or "").split(",") if tensor is not None else []
    return tuple(name for name in names if name)
