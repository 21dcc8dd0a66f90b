"""A runtime of this machine as pruning asks it: layers timed by the runtime's own profile, whole graphs in turns.

All layers asked for stand side by side in one graph, so that they are timed in turns and a busy moment of the machine
falls on all alike.

Shapes: K channels, *space, H W size in pixels.
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from deploy.hardware.machine import physical_cores
from deploy.pruning.latency_table import Layer
from deploy.pruning.layer_benchmark_graph import side_by_side
from deploy.runtimes.openvino_backend import core
from deploy.runtimes.runner import GraphRunner, imported
from edgemt.model_card import Normalisation

PROFILED = ("openvino", "onnxruntime")  # runtimes whose profile names layers, on a processor
TOGETHER = 300  # layers in one graph
RUNS = (3, 15)  # calls thrown away, and kept, of each graph
_HEAVY = (
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
    "FullyConnected",
    "MatMul",
)
REPEATS = 3  # graphs compiled anew; the least of them counts, as whatever disturbs adds to it
BATCHES, SETTLED = 8, 0.02  # of rounds, until two in a row agree so far
ROUNDS, CALLS = 30, 8  # of whole graphs, and calls of each in a round


@dataclass(frozen=True)
class Measured:
    """A runtime at a precision on so many threads (0: every core)."""

    runtime: str = "openvino"
    precision: Literal["int8", "float"] = "int8"
    threads: int = 0

    def __post_init__(self) -> None:
        if self.runtime not in PROFILED:
            raise ValueError(
                f"prune.runtime = {self.runtime!r}: layer times can be had of {' and '.join(PROFILED)} only; "
                "choose one, or prune.target macs"
            )
        imported(self.runtime, self.runtime)

    def layers(self, asked: Sequence[Layer]) -> list[float]:
        profile = _openvino if self.runtime == "openvino" else _onnxruntime
        times: list[float] = []
        for first in range(0, len(asked), TOGETHER):
            model, names = side_by_side(asked[first : first + TOGETHER], int8=self.precision == "int8")
            repeats = [profile(model, self._threads) for _ in range(REPEATS)]
            times += [min(repeat.get(name, 0.0) for repeat in repeats) for name in names]
        return times

    def graph(self, network: nn.Module, example: Tensor) -> GraphRunner:
        """As it will ship, but for its calibration, which does not change the time."""
        from deploy.export import export_onnx
        from deploy.quantization.int8 import quantize
        from deploy.runtimes.load import runner

        if example.dim() != 4:
            raise ValueError("prune.target = 'latency': a 3-D network does not ship; choose prune.target macs")
        channels, size = example.shape[1], (int(example.shape[2]), int(example.shape[3]))
        plain = Normalisation(mean=(0.5,), std=(0.25,))
        with tempfile.TemporaryDirectory() as folder:
            file = export_onnx(network, Path(folder) / "model.onnx", size=size, channels=channels, normalise=plain)
            if self.precision == "int8":
                draw = np.random.default_rng(0)
                noise = [draw.integers(0, 256, (1, *size, channels), dtype=np.uint8) for _ in range(2)]
                timed = Path(folder) / "model.int8.onnx"
                file = quantize(file, timed, calibration=noise, frames=len(noise), bias_correction=False)
            return runner(file, runtime=self.runtime, threads=self._threads)

    def turns(self, graphs: Sequence[GraphRunner]) -> list[float]:
        """Milliseconds of each at its quickest, a few calls of each in turns.

        A neighbour on the machine only ever adds to a time: on two cores with twelve busy processes the ratio of the
        quickest calls of two graphs came out within 1 % of itself, that of the medians within 8 %.
        """
        draw = np.random.default_rng(1)
        frames = [draw.integers(0, 256, graphs[0].shape, dtype=np.uint8) for _ in range(4)]
        least: list[float] = []
        for _ in range(BATCHES):
            rounds = [[_quickest(made, frames) for made in graphs] for _ in range(ROUNDS)]
            now = [min(of[number] for of in rounds) for number in range(len(graphs))]
            settled = bool(least) and all(abs(a - b) <= SETTLED * b for a, b in zip(now, least, strict=True))
            least = [min(pair) for pair in zip(now, least or now, strict=True)]
            if settled:
                break
        return least

    def described(self) -> dict[str, Any]:
        version = str(import_module(self.runtime).__version__).split("-")[0]
        said = {"runtime": self.runtime, "version": version, "precision": self.precision}
        return {**said, "threads": self._threads}

    @property
    def _threads(self) -> int:
        return self.threads or physical_cores()


def _quickest(made: GraphRunner, frames: Sequence[np.ndarray]) -> float:
    """Milliseconds of the quickest of a few calls."""
    times = []
    for number in range(CALLS):
        began = time.perf_counter_ns()
        made(frames[number % len(frames)])
        times.append(time.perf_counter_ns() - began)
    return min(times) / 1e6


def _openvino(model: bytes, threads: int) -> dict[str, float]:
    """Layer -> ms. The runtime tells averages since it was compiled: the first calls are taken out again."""
    config = {"PERF_COUNT": True, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    request = core().compile_model(core().read_model(model), "CPU", config).create_infer_request()

    def told(calls: int) -> dict[str, float]:
        for _ in range(calls):
            request.infer()
        heavy = [p for p in request.profiling_info if p.node_type in _HEAVY]
        return {_name(p.node_name): 1e3 * p.real_time.total_seconds() for p in heavy}

    first, kept = RUNS
    early, late = told(first), told(kept)
    return {name: max((first + kept) * ms - first * early.get(name, 0.0), 0.0) / kept for name, ms in late.items()}


def _onnxruntime(model: bytes, threads: int) -> dict[str, float]:
    """Layer -> ms, the median of its calls."""
    ort = import_module("onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level, options.enable_profiling = 3, True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        kinds = {"tensor(int8)": np.int8, "tensor(float)": np.float32}
        feed = {given.name: np.zeros(given.shape, kinds[given.type]) for given in session.get_inputs()}
        for _ in range(sum(RUNS)):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    calls: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            calls[event["name"]].append(event["dur"] / 1e3)
    found: dict[str, float] = {}
    for node, ms in calls.items():  # of the nodes that a layer became, the heaviest
        found[_name(node)] = max(found.get(_name(node), 0.0), statistics.median(ms[RUNS[0] :]))
    return found


def _name(node: str) -> str:
    """`layer7` of a node that a runtime has renamed, fused or both; empty for its own reorders."""
    found = re.search(r"layer\d+", node)
    return found.group() if found else ""
