"""Export of a network: one graph from the raw frame to the class mask, in a form that every runtime reads.

NVIDIA's parser cannot transpose uint8, so the frame is cast first, and it supports uint8 outputs only after a cast from
float. The mask is computed inside the graph: by `mask` of the network where it has one, which needs no full-resolution
logits, else by argmax.

Shapes: H W input size, K image channels, C classes.
"""

from __future__ import annotations

import copy
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from deploy.decomposed_trace import traced
from deploy.explicit_attributes import write_out_attributes
from deploy.package.onnx_inspect import read_graph_file
from deploy.runtimes.openvino_backend import core
from edgemt.contract import UncertaintySource
from edgemt.io.atomic import atomic_write, no_space
from edgemt.model_card import Normalisation

INPUT, OUTPUT, UNCERTAINTY, FEATURES = "frame", "mask", "uncertainty", "features"
OPSETS = (18, 19, 20, 21)  # that the exporter writes and all three runtimes read


class DeployableModel(nn.Module):
    """frame uint8 [N, H, W, K] -> mask uint8 [N, H, W], around a network that returns contract.Output.

    With `uncertainty` it returns the mask and a map uint8 [N, H, W] = round(255 sqrt(p)), p the probability that the
    class of a pixel is wrong: "head" as the network's head estimates it (`has_uncertainty`), "softmax" 1 - max softmax.

    The mask of a network of overlapping classes has bits in place of indices (`edgemt.io.class_regions`). p is then the
    probability that any class of the pixel is wrong, by "softmax" the largest 1 - max(q_k, 1 - q_k) of its classes, q_k
    their sigmoids: the lower bound of P(any is wrong), reached where all are uncertain at the same border, as nested
    regions are. The sum over classes, the upper bound, would count one such border several times.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        normalise: Normalisation,
        channels: int,
        uncertainty: UncertaintySource | None = None,
    ) -> None:
        super().__init__()
        self.network, self.uncertainty = network, uncertainty
        self.per_image = normalise.per_image
        for name, values in (("mean", normalise.mean), ("std", normalise.std)):
            if len(values) not in (1, channels):
                raise ValueError(
                    f"normalise.{name}: {len(values)} numbers for {channels} channels; give 1 or {channels}"
                )
        if not all(std > 0 for std in normalise.std):
            raise ValueError(f"normalise.std = {normalise.std}: every number must be above 0")
        mean = torch.tensor(normalise.mean, dtype=torch.float64).expand(channels)
        std = torch.tensor(normalise.std, dtype=torch.float64).expand(channels)
        # (x / 255 - mean) / std as one multiplication and one addition
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", (1 / (255 * std)).float().view(1, -1, 1, 1))
        self.register_buffer("shift", (-mean / std).float().view(1, -1, 1, 1))

    def normalised(self, frame: Tensor) -> Tensor:
        """uint8 [N, H, W, K] -> float [N, K, H, W]."""
        x = self.channels_first(frame.float())
        if not self.per_image:
            return x * self.scale + self.shift
        x = x / 255
        x = x - x.mean((2, 3), keepdim=True)
        std = (x * x).mean((2, 3), keepdim=True).sqrt()
        return x / std.clamp_min(1e-3)  # a black frame has no spread

    def channels_first(self, frame: Tensor) -> Tensor:
        """[N, H, W, K] -> [N, K, H, W]."""
        return frame.permute(0, 3, 1, 2)

    def forward(self, frame: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.normalised(frame)
        if self.uncertainty == "head":
            return self.network.mask_and_uncertainty(x)  # type: ignore[operator]
        if self.uncertainty == "softmax" and hasattr(self.network, "mask_and_softmax"):
            return self.network.mask_and_softmax(x)  # type: ignore[operator]
        if self.uncertainty == "softmax" and getattr(self.network, "overlapping", False):
            logits = self.network(x).logits
            unsure = (-logits.abs().amin(1)).sigmoid()
            return _bits(logits), (255 * unsure.sqrt() + 0.5).to(torch.uint8)
        if self.uncertainty == "softmax":
            top, index = self.network(x).logits.softmax(1).max(1)
            return index.float().to(torch.uint8), (255 * (1 - top).clamp_min(0).sqrt() + 0.5).to(torch.uint8)
        if hasattr(self.network, "mask"):  # its own, faster way to the same classes
            return self.network.mask(x)  # type: ignore[operator]
        logits = self.network(x).logits
        if getattr(self.network, "overlapping", False):
            return _bits(logits)
        return logits.argmax(1).float().to(torch.uint8)


def _bits(logits: Tensor) -> Tensor:
    """[N, C, H, W] -> uint8 [N, H, W]: bit k where logit k is above 0."""
    bits = [(logits[:, k] > 0).to(logits.dtype) * 2**k for k in range(logits.shape[1])]
    return torch.stack(bits).sum(0).to(torch.uint8)


def has_uncertainty(network: nn.Module) -> bool:
    """Whether a network has the head whose map is a second output of its graph."""
    return getattr(network, "uncertainty", None) is not None and hasattr(network, "mask_and_uncertainty")


def uncertainty_source(network: nn.Module, wanted: UncertaintySource) -> UncertaintySource | None:
    """What the second output of a network's graph is: `wanted`, or None where that is a head that it lacks."""
    return wanted if wanted == "softmax" or has_uncertainty(network) else None


def export_onnx(
    network: nn.Module,
    path: str | Path,
    *,
    size: tuple[int, int],
    channels: int,
    normalise: Normalisation,
    uncertainty: UncertaintySource = "head",
    opset: int = 20,
) -> Path:
    """Write frame uint8 [1, H, W, K] -> mask uint8 [1, H, W] as one checked file without side files.

    A second output `uncertainty` (`DeployableModel`) is that of the network's head, if it has one, or "softmax".
    The network is not changed, device and mode included. Raises ValueError where it cannot be exported.
    """
    if opset not in OPSETS:
        raise ValueError(f"export.opset = {opset}: choose one of {', '.join(map(str, OPSETS))}")
    second = uncertainty_source(network, uncertainty)
    module = (
        DeployableModel(copy.deepcopy(network).cpu(), normalise=normalise, channels=channels, uncertainty=second)
        .eval()
        .requires_grad_(False)
    )
    frame = torch.zeros((1, *size, channels), dtype=torch.uint8)
    with silence(), without_stack_traces(), torch.no_grad():
        try:
            program = torch.onnx.export(
                traced(module, frame),
                (frame,),
                input_names=[INPUT],
                output_names=[OUTPUT] if second is None else [OUTPUT, UNCERTAINTY],
                opset_version=opset,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # the exporter raises many types
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(f"{path}: the network cannot be exported to ONNX ({reason})") from error
    assert program is not None
    model = program.model_proto
    strip_metadata(model)
    return write_graph(model, path)


def write_graph(model, path: str | Path) -> Path:  # type: ignore[no-untyped-def]
    """Write a graph from frame to mask atomically, with every attribute of its convolutions written out.

    The same graph gives the same bytes. Raises ValueError, and leaves the old file, unless it passes `check`.
    """
    write_out_attributes(model)
    with atomic_write(path) as part:
        part.write_bytes(model.SerializeToString(deterministic=True))
        check(part, name=str(path))
    return Path(path)


def strip_metadata(model) -> None:  # type: ignore[no-untyped-def]
    """Remove the names of source files and folders that the exporter writes into the graph."""
    graph = model.graph
    for message in (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ):
        message.doc_string = ""
        del message.metadata_props[:]


def check(path: str | Path, *, name: str = "") -> None:
    """Raises ValueError, naming the file, unless it is a complete ONNX model from one uint8 frame to one uint8 mask.

    A second output `uncertainty` of the mask's type and sizes may follow, and float features [1, D, h, w].
    """
    import onnx

    name = name or str(path)
    try:
        external = read_graph_file(path).external
        model = onnx.load(str(path), load_external_data=False)
        if not external:
            onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # protobuf's and onnx's own types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{name}: not a valid ONNX model ({reason}); export it again") from error
    if external:
        raise ValueError(f"{name}: keeps weights in a side file; export it again with external_data=False")
    custom = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if custom:
        raise ValueError(f"{name}: has operators of {', '.join(custom)}, which not every runtime has")
    outputs = [value for value in model.graph.output if value.name != FEATURES]
    extra = [[value] for value in outputs[1:] if value.name == UNCERTAINTY]
    for value, rank in (
        (model.graph.input, 4),
        (outputs[: len(outputs) - len(extra)], 3),
        *((one, 3) for one in extra),
    ):
        kind = value[0].type.tensor_type
        sizes = [dim.dim_value for dim in kind.shape.dim]
        if len(value) != 1 or kind.elem_type != onnx.TensorProto.UINT8 or len(sizes) != rank or not all(sizes):
            raise ValueError(f"{name}: must have one uint8 input and output of {rank} fixed sizes, has {sizes}")
    for value in model.graph.output:
        kind = value.type.tensor_type
        if value.name == FEATURES and (kind.elem_type != onnx.TensorProto.FLOAT or len(kind.shape.dim) != 4):
            raise ValueError(f"{name}: its features must be float32 [1, D, h, w]; add them with --with-features")


def drop_uncertainty(path: str | Path) -> None:
    """Remove the output `uncertainty`, and the nodes that only it needs, from an ONNX file, in place."""
    import onnx
    from onnx.utils import Extractor

    extractor = Extractor(onnx.load(str(path)))
    write_graph(extractor.extract_model([INPUT], [OUTPUT]), path)


def export_openvino(
    onnx_path: str | Path, xml_path: str | Path, *, weights: Literal["as-is", "float16"] = "as-is"
) -> Path:
    """Write the graph as OpenVINO IR: `xml_path` and the .bin with the same name.

    weights="float16" halves the file of a float graph and changes its masks less than bfloat16 arithmetic does; do not
    use it for an INT8 graph, whose scales must not be rounded. Raises ValueError where the file cannot be read or
    written.
    """
    import openvino as ov

    xml_path = Path(xml_path)
    if xml_path.suffix != ".xml":
        raise ValueError(f"{xml_path}: an OpenVINO model must be called .xml")
    xml_path.parent.mkdir(parents=True, exist_ok=True)
    with silence(), tempfile.TemporaryDirectory(dir=xml_path.parent, prefix=".part-") as folder:
        part = Path(folder) / xml_path.name
        try:
            model = ov.convert_model(str(onnx_path))
        except Exception as error:
            raise ValueError(f"{onnx_path}: OpenVINO cannot read it ({str(error).splitlines()[0]})") from error
        try:
            ov.save_model(model, part, compress_to_fp16=weights == "float16")
            core().read_model(part)  # fails for a truncated weights file
        except (RuntimeError, OSError) as error:
            full = no_space(error) or shutil.disk_usage(xml_path.parent).free < 1 << 20
            reason = "no space left on the disk; free some" if full else str(error).strip().splitlines()[-1]
            raise ValueError(f"{xml_path}: cannot be written ({reason})") from error
        # The two files cannot be replaced atomically: the old .xml is removed first, so that no mixed pair is loaded.
        xml_path.unlink(missing_ok=True)
        os.replace(part.with_suffix(".bin"), xml_path.with_suffix(".bin"))
        os.replace(part, xml_path)
    return xml_path


@contextmanager
def without_stack_traces() -> Iterator[None]:
    """The exporter does not note for each node the lines of Python that made it: a tenth of its time.

    The notes would be removed by `strip_metadata`. A torch without the switch exports as before.
    """
    from torch.fx import config

    name = "do_not_emit_stack_traces"
    before = getattr(config, name, None)
    if before is None:
        yield
        return
    setattr(config, name, True)
    try:
        yield
    finally:
        setattr(config, name, before)


@contextmanager
def silence() -> Iterator[None]:
    """Silence the logs of exporters and quantizers, except errors."""
    names = (
        "torch.onnx",
        "onnxscript",
        "onnx_ir",
        "nncf",
        "openvino",
        "torch.utils.cpp_extension",
        "torch.export",
    )
    levels = {name: logging.getLogger(name).level for name in names}
    root = logging.getLogger()  # OpenVINO changes it, and does not restore it where it cannot read a graph
    saved = root.level, root.filters[:], root.handlers[:]
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        root.setLevel(saved[0])
        root.filters[:], root.handlers[:] = saved[1:]
