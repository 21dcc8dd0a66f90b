"""Time of every layer of an ONNX graph on a processor, from the profiler of the runtime itself.

Layers are the nodes named `layer0`, `layer1`, ... (`deploy.pruning.layer_benchmark_graph`).
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
from collections import defaultdict
from importlib import import_module
from pathlib import Path

import numpy as np

from deploy.runtimes.openvino_backend import core

CALLS = (3, 15)  # calls for warming up, and calls that count, of each graph
_HEAVY = (
    "Convolution",
    "GroupConvolution",
    "ConvolutionBackpropData",
    "GroupConvolutionBackpropData",
    "FullyConnected",
    "MatMul",
)


def openvino_layers(model: bytes, threads: int) -> dict[str, float]:
    """Layer -> ms, the mean of its calls after the warm-up.

    OpenVINO reports means since the graph was compiled, so the calls of the warm-up are subtracted.
    """
    config = {"PERF_COUNT": True, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    request = core().compile_model(core().read_model(model), "CPU", config).create_infer_request()

    def mean_ms_after(calls: int) -> dict[str, float]:
        for _ in range(calls):
            request.infer()
        heavy = [p for p in request.profiling_info if p.node_type in _HEAVY]
        return {_layer_of(p.node_name): 1e3 * p.real_time.total_seconds() for p in heavy}

    first, counted = CALLS
    early, late = mean_ms_after(first), mean_ms_after(counted)
    return {
        name: max((first + counted) * ms - first * early.get(name, 0.0), 0.0) / counted for name, ms in late.items()
    }


def onnxruntime_layers(model: bytes, threads: int) -> dict[str, float]:
    """Layer -> ms, the median of its calls after the warm-up."""
    ort = import_module("onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level, options.enable_profiling = 3, True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        types = {"tensor(int8)": np.int8, "tensor(float)": np.float32}
        feed = {given.name: np.zeros(given.shape, types[given.type]) for given in session.get_inputs()}
        for _ in range(sum(CALLS)):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    calls: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            calls[event["name"]].append(event["dur"] / 1e3)
    layers: dict[str, float] = {}
    for node, ms in calls.items():  # of the nodes that a layer became, the heaviest
        layers[_layer_of(node)] = max(layers.get(_layer_of(node), 0.0), statistics.median(ms[CALLS[0] :]))
    return layers


def _layer_of(node: str) -> str:
    """`layer7` for a node that the runtime renamed or fused; "" for reorders that the runtime added."""
    found = re.search(r"layer\d+", node)
    return found.group() if found else ""
