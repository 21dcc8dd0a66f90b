"""Latency on a runtime of this machine, for pruning: layers by the profiler of the runtime, whole graphs alternately.

All layers are part of one graph, so that they are timed alternately and a busy moment of the machine affects all of
them.

Shapes: K channels, *space, H W size in pixels.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor, nn

from deploy.export import export_onnx
from deploy.hardware.machine import physical_cores
from deploy.package.files import ONNX_FP32, ONNX_INT8
from deploy.pruning.latency_table import LayerShape
from deploy.pruning.layer_benchmark_graph import layers_graph
from deploy.quantization.int8 import quantize
from deploy.runtimes.load import runner
from deploy.runtimes.registry import RUNTIMES
from deploy.runtimes.runner import ModelRunner, import_runtime
from edgemt.model_card import Normalisation

# runtimes whose profiler names layers, on a processor
PROFILERS = {name: spec.profile_layers for name, spec in RUNTIMES.items() if spec.profile_layers is not None}
TOGETHER = 300  # layers in one graph
REPEATS = 3  # compilations of each graph; the minimum counts, since disturbance only adds time
BATCHES, SETTLED = (
    8,
    0.02,
)  # batches of rounds at most, and the relative change between two batches that ends the measurement
ROUNDS, CALLS = 30, 8  # rounds in a batch, and calls of each graph in a round


@dataclass(frozen=True)
class RuntimeLatencyBackend:
    """A runtime with a precision and a number of threads (0: every core)."""

    runtime: str = "openvino"
    precision: Literal["int8", "float"] = "int8"
    threads: int = 0

    def __post_init__(self) -> None:
        if self.runtime not in PROFILERS:
            raise ValueError(
                f"prune.runtime = {self.runtime!r}: layer times can be had of {' and '.join(PROFILERS)} only; "
                "choose one, or prune.target macs"
            )
        import_runtime(self.runtime, self.runtime)

    def layers(self, shapes: Sequence[LayerShape]) -> list[float]:
        profile = PROFILERS[self.runtime]
        times: list[float] = []
        for first in range(0, len(shapes), TOGETHER):
            model, names = layers_graph(shapes[first : first + TOGETHER], int8=self.precision == "int8")
            repeats = [profile(model, self._threads) for _ in range(REPEATS)]
            times += [min(repeat.get(name, 0.0) for repeat in repeats) for name in names]
        return times

    def graph(self, network: nn.Module, example: Tensor) -> ModelRunner:
        """The network as it is deployed, except for the calibration data, which do not change the time."""
        if example.dim() != 4:
            raise ValueError("prune.target = 'latency': a 3-D network does not ship; choose prune.target macs")
        channels, size = example.shape[1], (int(example.shape[2]), int(example.shape[3]))
        plain = Normalisation(mean=(0.5,), std=(0.25,))
        with tempfile.TemporaryDirectory() as folder:
            file = export_onnx(network, Path(folder) / ONNX_FP32, size=size, channels=channels, normalise=plain)
            if self.precision == "int8":
                random = np.random.default_rng(0)
                noise = [random.integers(0, 256, (1, *size, channels), dtype=np.uint8) for _ in range(2)]
                timed = Path(folder) / ONNX_INT8
                file = quantize(file, timed, calibration=noise, frames=len(noise), bias_correction=False)
            return runner(file, runtime=self.runtime, threads=self._threads)

    def time_interleaved(self, graphs: Sequence[ModelRunner]) -> list[float]:
        """Milliseconds of the fastest call of each graph, a few calls of each alternately.

        Other programs only ever add time: on two cores with twelve busy processes the ratio of the fastest calls of two
        graphs was reproducible within 1 %, the ratio of the medians within 8 %.
        """
        random = np.random.default_rng(1)
        frames = [random.integers(0, 256, graphs[0].shape, dtype=np.uint8) for _ in range(4)]
        least: list[float] = []
        for _ in range(BATCHES):
            rounds = [[_fastest_ms(made, frames) for made in graphs] for _ in range(ROUNDS)]
            now = [min(of[number] for of in rounds) for number in range(len(graphs))]
            settled = bool(least) and all(abs(a - b) <= SETTLED * b for a, b in zip(now, least, strict=True))
            least = [min(pair) for pair in zip(now, least or now, strict=True)]
            if settled:
                break
        return least

    def describe(self) -> dict[str, Any]:
        version = str(import_module(self.runtime).__version__).split("-")[0]
        facts = {"runtime": self.runtime, "version": version, "precision": self.precision}
        return {**facts, "threads": self._threads}

    @property
    def _threads(self) -> int:
        return self.threads or physical_cores()


def _fastest_ms(made: ModelRunner, frames: Sequence[np.ndarray]) -> float:
    """Milliseconds of the fastest of a few calls."""
    times = []
    for number in range(CALLS):
        began = time.perf_counter_ns()
        made(frames[number % len(frames)])
        times.append(time.perf_counter_ns() - began)
    return min(times) / 1e6
