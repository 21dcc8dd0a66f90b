"""Which convolutions of ONNX files lack an attribute that NPU compilers need."""

from __future__ import annotations

from pathlib import Path

import onnx

WANTED = {"dilations", "group", "kernel_shape", "pads", "strides", "auto_pad"}


def incomplete_convolutions(folder: Path) -> list[str]:
    """FILE: NODE of each one in the .onnx files below a folder. Fails where there is no convolution at all."""
    found, count = [], 0
    for path in sorted(folder.rglob("*.onnx")):
        for node in onnx.load(path, load_external_data=False).graph.node:
            if node.op_type in ("Conv", "ConvTranspose"):
                count += 1
                values = {attribute.name: attribute for attribute in node.attribute}
                if not set(values) >= WANTED or values["auto_pad"].s != b"NOTSET":
                    found.append(f"{path.name}: {node.name}")
    assert count, f"{folder}: no convolution below it"
    return found
