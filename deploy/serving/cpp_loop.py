"""A package for programs without Python: the reference loop in C++ (`deploy/cpp`), and a model folder that it reads.

    OUT/NAME/model.txt  model.onnx                what the loop must know of the card, a line each; the graph
    OUT/NAME/golden/X.ppm|.pgm  X.mask.pgm        golden frames and their masks, uncompressed
    OUT/NAME/edgemt_run.cpp  CMakeLists.txt       the loop itself

model.txt has keys and values, so that the loop needs no reader of JSON; images are binary PGM and PPM, so that it needs
no library for images. The graph is ONNX, which both runtimes of the loop read.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np

from deploy.package.files import ONNX
from deploy.package.golden import golden_pairs, least_agreement
from deploy.package.package import Package
from edgemt.errors import unknown_name_message
from edgemt.io.atomic import write_bytes, write_text

FORMAT = 1
SOURCES = ("edgemt_run.cpp", "CMakeLists.txt")


def write_cpp(package: Package, folder: Path, *, name: str, kind: str | None = None) -> Path:
    """Write the loop and its model folder; returns `folder`. `kind`: "int8", "fp16" or "fp32"; None: INT8 if there.

    Raises ValueError for a package without that graph.
    """
    kind = kind or ("int8" if ONNX["int8"] in package.card.files else "fp32")
    if kind not in ONNX:
        raise ValueError(unknown_name_message("serve.file", kind, ONNX))
    file, pairs = ONNX[kind], golden_pairs(package)
    write_bytes(folder / "model.onnx", package.read(file))
    least = least_agreement(package, file)
    card = package.card
    lines = [
        f"edgemt-model {FORMAT}",
        f"name {name} {kind}",
        "graph model.onnx",
        f"size {card.size[0]} {card.size[1]}",
        f"channels {card.channels}",
        *(f"class {' '.join(title.split())}" for title in card.classes),
        *(["overlapping 1"] if card.overlapping else []),
    ]
    for number, pair in enumerate(pairs):  # by number: names of a package may hold spaces
        frame, suffix = pair.frame[0], "ppm" if card.channels == 3 else "pgm"
        if card.channels != 3:  # planes side by side, as the golden frames of a package
            frame = frame.swapaxes(1, 2).reshape(len(frame), -1)
        write_bytes(folder / "golden" / f"{number}.{suffix}", netpbm(frame))
        write_bytes(folder / "golden" / f"{number}.mask.pgm", netpbm(pair.mask))
        lines.append(f"golden {number} {least:.4f}")
    write_text(folder / "model.txt", "\n".join(lines) + "\n")
    for source in SOURCES:
        write_bytes(folder / source, (files("deploy") / "cpp" / source).read_bytes())
    return folder


def netpbm(array: np.ndarray) -> bytes:
    """uint8 [H, W] as a binary PGM, or [H, W, 3] as a binary PPM."""
    magic = "P5" if array.ndim == 2 else "P6"
    return f"{magic}\n{array.shape[1]} {array.shape[0]}\n255\n".encode() + np.ascontiguousarray(array).tobytes()
