"""ExecuTorch programs: one .pte from the raw frame to the class mask, its layers in INT8 on XNNPACK.

PT2E puts observers around the layers that XNNPACK runs in INT8, takes their ranges from calibration frames, and XNNPACK
compiles the result. A program runs on the version of ExecuTorch that wrote it, so that version, and the precision of
the layers, are constant methods of the program, which `deploy.runtimes.executorch_backend` reads.

Shapes: H W input size, K image channels.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deploy.export import DeployableModel, silence, without_stack_traces
from deploy.runtimes.executorch_backend import PRECISION, VERSION, executorch_version
from deploy.runtimes.runner import first_line, precision_summary
from edgemt.io.atomic import write_bytes
from edgemt.model_card import Normalisation

Masks = Callable[[np.ndarray], np.ndarray]
# In INT8 the first layers of EfficientNet-Lite0 cost most: of zoo/polyp 2.6 points of Dice, and 0.1 in float.
FLOAT_LAYERS = 3
_LAYERS = ("conv2d.default", "linear.default", "conv_transpose2d.input")


class _LogitsAlone(nn.Module):
    """A network without its own way to the mask, whose reshapes ExecuTorch's portable kernels refuse."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.overlapping = getattr(network, "overlapping", False)

    def forward(self, x: Tensor) -> Any:
        return self.network(x)


class _ContiguousModel(DeployableModel):
    """Channels first in memory too: a kernel of ExecuTorch takes inputs of one order alone."""

    def channels_first(self, frame: Tensor) -> Tensor:
        return super().channels_first(frame).contiguous()


def export_executorch(
    network: nn.Module,
    path: str | Path,
    *,
    size: tuple[int, int],
    channels: int,
    normalise: Normalisation,
    calibration: Iterable[np.ndarray] | None,
    float_layers: int = FLOAT_LAYERS,
) -> Masks:
    """Write frame uint8 [1, H, W, K] -> mask uint8 [1, H, W] as one .pte file.

    Returns the same network in torch, rounded in the same way: uint8 [N, H, W, K] -> uint8 [N, H, W].

    `calibration` are frames uint8 [1, H, W, K] that set the ranges of INT8, with one scale for each output channel of a
    weight; None writes a program in float. The normalisation and the first `float_layers` convolutions stay in float.
    The network is not changed. Raises ValueError, in one line, where ExecuTorch
    is not installed and where the network cannot be exported; nothing is written then.
    """
    version = executorch_version()
    alone = _LogitsAlone(copy.deepcopy(network).cpu())
    module = _ContiguousModel(alone, normalise=normalise, channels=channels).eval().requires_grad_(False)
    example = (torch.zeros((1, *size, channels), dtype=torch.uint8),)
    with silence(), _quiet(), without_stack_traces(), torch.no_grad():
        try:
            program = torch.export.export(module, example)
            if calibration is not None:
                program = torch.export.export(_quantized(program.module(), calibration, float_layers), example)
            rounded, data = program.module(), _lowered(program, version)
        except Exception as error:  # torch, torchao and ExecuTorch raise many types
            raise ValueError(f"{path}: the network cannot be exported to ExecuTorch ({first_line(error)})") from error
    write_bytes(Path(path), data)

    def masks(frames: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.concatenate([rounded(torch.from_numpy(frame[None])).numpy() for frame in frames])

    return masks


def _quantized(module: nn.Module, frames: Iterable[np.ndarray], float_layers: int) -> nn.Module:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    convolutions = [node for node in module.graph.nodes if "conv2d" in str(node.target)]  # type: ignore[union-attr]
    in_float = {"", *(_module_of(node) for node in convolutions[:float_layers])}  # "": the normalisation
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    quantizer.set_filter_function(lambda node: node.op != "call_function" or _module_of(node) not in in_float)
    prepared = prepare_pt2e(module, quantizer)
    count = 0
    for frame in frames:
        prepared(torch.from_numpy(frame))
        count += 1
    if not count:
        raise ValueError("no calibration frames")
    return convert_pt2e(prepared)


def _module_of(node: Any) -> str:
    """Path of the innermost module of a node; "" for the outermost one."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""


def _lowered(program: Any, version: str) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    constants = {VERSION: version, PRECISION: _precision(program)}
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()], constant_methods=constants)
    return bytes(edge.to_executorch().buffer)


def _precision(program: Any) -> str:
    """The arithmetic of the layers, commonest first, from the nodes that feed them."""
    kinds: Counter[str] = Counter()
    for node in program.graph.nodes:
        if node.op == "call_function" and str(node.target).removeprefix("aten.") in _LAYERS:
            kinds["int8" if "dequantize" in str(node.args[0]) else "f32"] += 1
    return precision_summary(kinds) or "f32"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that the libraries log about each other."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
