"""Measures students times decoders on this machine: `python -m students.compare --help`.

Weights are random (batch-norm statistics come from the calibration images), so the table speaks of size,
speed and of how well INT8 repeats float32; it says nothing of accuracy. Every graph ends in the class mask,
as it will run: "argmax" upsamples all logits first, "quick" is the student's own `mask`. Machines are
noisy: the entrants take turns in short blocks, ratios are taken inside a round, milliseconds are those of
each entrant's best round.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import students
from students.decoder import DECODERS

Call = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Sizes:
    size: int = 256
    channels: int = 3
    classes: int = 4
    threads: int = 2


class Mask(nn.Module):
    """image [N, K, H, W] -> class indices uint8 [N, H, W], the plain way or the student's quick one."""

    def __init__(self, network: nn.Module, *, quick: bool) -> None:
        super().__init__()
        self.network = network
        self.quick = quick

    def forward(self, image: Tensor) -> Tensor:
        if self.quick:
            return self.network.mask(image)  # type: ignore[operator]
        return self.network(image).logits.argmax(dim=1).to(torch.int32).to(torch.uint8)


def pictures(count: int, sizes: Sizes, *, seed: int = 0) -> np.ndarray:
    """float32 [count, K, H, W]: noise of several scales, about what a normalised photograph looks like."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, sizes.channels, sizes.size, sizes.size)
    for grid in (4, 16, 64, sizes.size):
        noise = torch.randn(count, sizes.channels, grid, grid, generator=generator)
        total += nn.functional.interpolate(noise, size=(sizes.size,) * 2, mode="bilinear", align_corners=False)
    return (total / 2).numpy()


def settle(network: nn.Module, images: np.ndarray) -> nn.Module:
    """Takes batch-norm statistics from `images`, so that random weights give activations of a sane scale."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    network.train()
    with torch.no_grad():
        for batch in torch.from_numpy(images).split(4):
            network(batch)
    return network.eval()


def multiplications(network: nn.Module, image: Tensor) -> int:
    """Multiply-accumulates of all convolutions and linear layers in one forward pass."""
    total = 0

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        weight: Tensor = module.weight  # type: ignore[assignment]
        total += output[0, 0].numel() * weight.numel() if output.dim() == 4 else weight.numel()

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    return total


def to_onnx(network: nn.Module, image: Tensor, *, quick: bool) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = Mask(network, quick=quick).eval()
        program = torch.onnx.export(graph, (image,), dynamo=True, external_data=False, verbose=False)
    assert program is not None
    return program.model_proto.SerializeToString()


def to_int8(graph: bytes, images: np.ndarray) -> bytes:
    """Symmetric, one activation scale a tensor: what OpenVINO, ONNX Runtime and NVIDIA's parser all take."""
    import nncf
    import onnx
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters

    nncf.set_log_level(logging.ERROR)
    model = onnx.load_from_string(graph)
    name = model.graph.input[0].name
    last: set[str] = set()  # tensors behind the fixed upsampling: the choice between classes stays in float
    float_nodes = []
    for node in model.graph.node:
        if any(tensor in last or tensor.endswith("phases") for tensor in node.input):
            last.update(node.output)
            float_nodes.append(node.name)
    with contextlib.redirect_stdout(io.StringIO()):
        quantized = nncf.quantize(
            model,
            nncf.Dataset([{name: image[None]} for image in images]),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=float_nodes),
            advanced_parameters=AdvancedQuantizationParameters(
                activations_quantization_params=QuantizationParameters(per_channel=False)
            ),
        )
    return quantized.SerializeToString()


def on_openvino(graph: bytes, *, threads: int, precision: str = "f32") -> Call:
    import openvino

    core = openvino.Core()
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    request = core.compile_model(core.read_model(io.BytesIO(graph)), "CPU", hints).create_infer_request()
    return lambda image: request.infer([image], share_inputs=True)[0]


def on_torch(network: nn.Module, *, threads: int) -> Call:
    graph = Mask(network, quick=False).eval()

    def call(image: np.ndarray) -> np.ndarray:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return graph(torch.from_numpy(image)).numpy()

    return call


def block(call: Call, image: np.ndarray, *, calls: int) -> float:
    """Median milliseconds of `calls` calls, after one to warm the caches up."""
    call(image)
    times = []
    for _ in range(calls):
        start = time.perf_counter_ns()
        call(image)
        times.append((time.perf_counter_ns() - start) / 1e6)
    return statistics.median(times)


@dataclass(frozen=True)
class Row:
    student: str
    decoder: str
    params: int
    macs: int
    agreement: float  # share of pixels in which int8 and f32 name the same class
    calls: dict[str, Call]


COLUMNS = ("torch", "f32 argmax", "f32 quick", "bf16 argmax", "bf16 quick", "int8 argmax", "int8 quick")
REFERENCE = "int8 quick"
DEFAULT_COLUMNS = ("f32 argmax", "bf16 quick", "int8 argmax", "int8 quick")


def prepare(student: str, decoder: str, sizes: Sizes, *, columns: Sequence[str]) -> Row:
    torch.manual_seed(0)
    calibration, held_out = pictures(16, sizes), pictures(8, sizes, seed=1)
    network = students.build(student, channels=sizes.channels, classes=sizes.classes, decoder=decoder)
    settle(network, calibration)
    image = torch.from_numpy(held_out[:1])
    calls: dict[str, Call] = {}
    for way in ("argmax", "quick"):
        graph = to_onnx(network, image, quick=way == "quick")
        for precision in ("f32", "bf16"):
            calls[f"{precision} {way}"] = on_openvino(graph, threads=sizes.threads, precision=precision)
        calls[f"int8 {way}"] = on_openvino(to_int8(graph, calibration), threads=sizes.threads)
    calls["torch"] = on_torch(network, threads=sizes.threads)
    same = [np.mean(calls["f32 argmax"](x[None]) == calls["int8 quick"](x[None])) for x in held_out]
    params = sum(p.numel() for p in network.parameters())
    kept = {name: calls[name] for name in COLUMNS if name in columns or name == REFERENCE}
    return Row(student, decoder, params, multiplications(network, image), float(np.mean(same)), kept)


def race(rows: Sequence[Row], image: np.ndarray, *, rounds: int, calls: int) -> list[dict[str, list[float]]]:
    """For each row: column -> milliseconds, one number a round. The order turns from round to round."""
    entrants = [(index, name, call) for index, row in enumerate(rows) for name, call in row.calls.items()]
    times: list[dict[str, list[float]]] = [{name: [] for name in row.calls} for row in rows]
    for number in range(rounds):
        turn = number * 7 % len(entrants)
        for index, name, call in entrants[turn:] + entrants[:turn]:
            times[index][name].append(block(call, image, calls=calls))
    return times


def table(rows: Sequence[Row], times: Sequence[dict[str, list[float]]], columns: Sequence[str]) -> str:
    head = ["student", "decoder", "params (M)", "MMAC", *[f"{column} (ms)" for column in columns]]
    lines = [[*head, f"{REFERENCE}, times the first row", "int8 as f32 (% of pixels)"]]
    lines.append(["---"] * len(lines[0]))
    for row, taken in zip(rows, times, strict=True):
        pairs = zip(taken[REFERENCE], times[0][REFERENCE], strict=True)
        ratio = statistics.median(ours / first for ours, first in pairs)
        best = [f"{min(taken[column]):.2f}" for column in columns]
        cells = [row.student, row.decoder, f"{row.params / 1e6:.2f}", f"{row.macs / 1e6:.0f}", *best]
        lines.append([*cells, f"{ratio:.2f}", f"{100 * row.agreement:.1f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m students.compare", description=__doc__)
    parser.add_argument("--students", nargs="+", default=list(students.names()))
    parser.add_argument("--decoders", nargs="+", default=list(DECODERS))
    parser.add_argument("--columns", nargs="+", default=list(DEFAULT_COLUMNS), choices=COLUMNS)
    parser.add_argument("--size", type=int, default=256, help="side of the square input, pixels")
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calls", type=int, default=5, help="calls in one block")
    args = parser.parse_args(argv)
    sizes = Sizes(size=args.size, classes=args.classes, threads=args.threads)
    rows = [prepare(s, d, sizes, columns=args.columns) for s in args.students for d in args.decoders]
    times = race(rows, pictures(1, sizes, seed=2), rounds=args.rounds, calls=args.calls)
    print(table(rows, times, args.columns))


if __name__ == "__main__":
    main()
