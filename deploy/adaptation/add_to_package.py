"""Add the output `features` to the graphs of a package, and the classifier that reads it, for `edgemt stream --adapt`.

The features are the input of the last 1x1 convolution: in an INT8 graph after their dequantization, so that its layers
stay in integers. A graph computes its mask by the same steps as before; since a runtime may fuse them in another way,
every file is compared with its former self on the golden frames.

Shapes: N batch, D features, h w size of the feature maps.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.adaptation.head import MAX_PARAMETERS, write_head
from deploy.graph_tail import classifier_node
from deploy.package.files import IR, ONNX
from deploy.package.golden import golden_pairs
from deploy.package.package import Package, card_hash, changed_package, finalize, open_package
from deploy.runtimes.load import runner
from deploy.runtimes.registry import RUNTIME_OF
from deploy.runtimes.runner import FEATURES
from edgemt.io.class_regions import no_overlapping

if TYPE_CHECKING:
    import onnx

AGREEMENT = 0.999  # fraction of golden pixels on which a file must agree with its former self


def add_features(folder: str | Path) -> Package:
    """Add the output to every graph of the package in `folder`, which is replaced atomically.

    A signature is removed, since the card changes, and so are latencies, which were those of other graphs. Raises
    ValueError, with the package unchanged, for a network without a 1x1 classifier, for one that is too wide, and where
    a file gives other masks than before.
    """
    with changed_package(folder, what="features") as (package, working):
        no_overlapping(package.card, where=folder, what="a head is adapted to one class a pixel")
        changed = _add(package, working)
        card = replace(package.card, parents=(*package.card.parents, card_hash(package.card)), latency=(), created="")
        made = Package(working, finalize(working, card))
        for file in changed:
            _compare(package, made, file)
    return open_package(folder)


def with_features(model: onnx.ModelProto, *, source: str | Path) -> onnx.ModelProto:
    """The graph with a further output `features`, float32 [1, D, h, w]. Raises ValueError without a 1x1 classifier."""
    import onnx

    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    if any(output.name == FEATURES for output in graph.output):
        raise ValueError(f"{source}: has the output {FEATURES!r} already")
    tensor = classifier_node(graph, source=source).input[0]
    types = {value.name: value.type.tensor_type for value in graph.value_info}
    if tensor not in types:
        raise ValueError(f"{source}: the size of its features is unknown; export the run again")
    kind, sizes = types[tensor].elem_type, [dim.dim_value for dim in types[tensor].shape.dim]
    float16 = onnx.TensorProto.FLOAT16
    options: Any = {"to": onnx.TensorProto.FLOAT} if kind == float16 else {}
    copy = "Cast" if kind == float16 else "Identity"
    node = onnx.helper.make_node(copy, [tensor], [FEATURES], name=f"node_{FEATURES}", **options)
    graph.node.append(node)
    graph.output.append(onnx.helper.make_tensor_value_info(FEATURES, onnx.TensorProto.FLOAT, sizes))
    return model


def classifier_of(model: onnx.ModelProto, *, source: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Weight [C, D] and bias [C] of the last 1x1 convolution of a float graph."""
    from onnx import numpy_helper

    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    node = classifier_node(model.graph, source=source)
    weight, bias = (tensors[name] for name in node.input[1:3])
    if weight.shape[2:] != (1, 1):
        raise ValueError(f"{source}: its classifier is no 1x1 convolution, {list(weight.shape)}")
    return weight[:, :, 0, 0], bias


def _add(package: Package, working: Path) -> list[str]:
    """Change the graphs in `working` and write the classifier; returns the changed files."""
    import onnx

    from deploy.export import export_openvino, write_graph

    files, changed = package.card.files, []
    floats = onnx.load_from_string(package.read(ONNX["fp32"])) if ONNX["fp32"] in files else None
    if floats is None:
        raise ValueError(f"{package.folder}: has no {ONNX['fp32']} to read the classifier from; export the run again")
    weight, bias = classifier_of(floats, source=package.folder / ONNX["fp32"])
    if weight.size + bias.size > MAX_PARAMETERS:
        raise ValueError(
            f"{package.folder}: a classifier of {weight.size + bias.size} numbers, at most {MAX_PARAMETERS}"
        )
    for file in ONNX.values():
        if file not in files:
            continue
        model = with_features(onnx.load_from_string(package.read(file)), source=package.folder / file)
        write_graph(model, working / file)
        changed.append(file)
    for kind, file in IR.items():  # after all ONNX files: the half precision one is made from the float one
        if file in files:
            source = working / ONNX["int8" if kind == "int8" else "fp32"]
            export_openvino(source, working / file, weights="float16" if kind == "fp16" else "as-is")
            changed.append(file)
    write_head(working, weight=weight, bias=bias)
    return changed


def _compare(before: Package, after: Package, file: str) -> None:
    """Raises ValueError where a changed file gives other masks than before on the golden frames."""
    frames = [pair.frame for pair in golden_pairs(before)] or [
        np.zeros((1, *before.card.size, before.card.channels), np.uint8)
    ]
    old, new = (runner(package, runtime=RUNTIME_OF[file], file=file) for package in (before, after))
    same = min(float((old(frame) == new(frame)).mean()) for frame in frames)
    if same < AGREEMENT:
        raise ValueError(
            f"{after.folder / file}: with its features it agrees with the former graph on {same:.3%} of the golden "
            f"pixels, wanted {AGREEMENT:.1%}; the package is unchanged"
        )
    if not new.has_features or not np.isfinite(new.features()).all():
        raise ValueError(f"{after.folder / file}: gives no features; the package is unchanged")
