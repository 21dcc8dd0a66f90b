"""Our latency of a file beside that of the runtime's own tool, in turns: the two should agree within 5 %.

    python benchmarks/against_vendor_tools.py SHIP [--file int8] [--tool benchmark_app|trtexec] [--rounds 6]

`benchmark_app` comes with OpenVINO, `trtexec` with TensorRT. Both feed one resident input; ours hands over a new frame
and takes a mask with every call, so the inference alone is printed beside the whole. A round runs both, the other first
the next time, and the ratio is the median over rounds of ours divided by theirs: on a machine whose speed wanders the
single times mean little. Exit status 3 when the medians differ by more than `--within`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from deploy.hardware.machine import describe, physical_cores
from deploy.measurement.timing import BenchOptions, Call, time_interleaved, warm_up
from deploy.package.golden import golden_pairs
from deploy.package.package import open_package
from deploy.runtimes.load import runner

RUNTIME = {"benchmark_app": "openvino", "trtexec": "tensorrt"}
_MEDIAN = re.compile(r"(?:Median:|Latency:.*?median =)\s*([\d.]+)\s*(ms|us)")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ship", type=Path)
    parser.add_argument("--file", default="int8", help="int8, fp32, or a file on the card")
    parser.add_argument("--tool", choices=tuple(RUNTIME), default="benchmark_app")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each in a round")
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--within", type=float, default=0.05)
    given = parser.parse_args()
    ship = open_package(given.ship)
    run = runner(ship, runtime=RUNTIME[given.tool], file=given.file, threads=given.threads)
    draw = np.random.default_rng(0)
    frames = [pair.frame for pair in golden_pairs(ship)] or list(draw.integers(0, 256, (8, *run.shape), dtype=np.uint8))
    bare = run.stages.infer if run.stages else lambda: run(frames[0])
    calls: dict[str, Call] = {"whole": run, "alone": lambda _: bare()}
    options = BenchOptions(iterations=10**9, seconds=given.seconds / 2, rounds=1)
    found = describe()
    print(f"{found['cpu']}, {given.threads} threads, {run.runtime} {run.version}, {run.file} in {run.precision}")
    whole, alone, theirs = [], [], []
    for turn in range(given.rounds):
        for ours in (True, False) if turn % 2 else (False, True):
            if ours:
                warm_up(run, frames, options)
                blocks = time_interleaved(calls, frames, options)
                times = {name: [ns for block in blocks[name].values() for ns in block] for name in calls}
                whole.append(statistics.median(times["whole"]) / 1e6)
                alone.append(statistics.median(times["alone"]) / 1e6)
            else:
                theirs.append(vendor(given.tool, run.path, threads=given.threads, seconds=given.seconds))
        print(f"round {turn + 1}: ours {whole[-1]:.3f} ms, inference {alone[-1]:.3f}; {given.tool} {theirs[-1]:.3f}")
    ratios = sorted(ours / other for ours, other in zip(whole, theirs, strict=True))
    print(f"ours / {given.tool}: median {statistics.median(ratios):.3f}, rounds {ratios[0]:.3f} to {ratios[-1]:.3f}")
    inside = statistics.median(a / b for a, b in zip(alone, theirs, strict=True))
    print(f"inference alone / {given.tool}: median {inside:.3f}")
    if abs(statistics.median(ratios) - 1) > given.within:
        print(f"they differ by more than {given.within:.0%}", file=sys.stderr)
        raise SystemExit(3)


def vendor(tool: str, path: Path, *, threads: int, seconds: float) -> float:
    """Median latency in ms as the tool says it."""
    beside = Path(sys.executable).with_name(tool)
    program = str(beside) if beside.exists() else shutil.which(tool)
    if program is None:
        raise SystemExit(f"{tool}: not found; it comes with {RUNTIME[tool]}")
    if tool == "benchmark_app":
        # with a hint it takes no number of threads; without one it must be told one stream
        arguments = ["-m", path, "-hint", "none", "-nstreams", 1, "-nthreads", threads, "-api", "sync"]
        arguments += ["-t", max(round(seconds), 1)]
    else:
        arguments = [f"--onnx={path}", "--stronglyTyped", "--useCudaGraph", "--warmUp=500", f"--duration={seconds:g}"]
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=True)
    return median_of(done.stdout)


def median_of(output: str) -> float:
    """The median latency in what benchmark_app or trtexec prints."""
    found = _MEDIAN.search(output)
    if found is None:
        raise ValueError(f"no median latency in: {output[-300:]}")
    return float(found.group(1)) / (1000 if found.group(2) == "us" else 1)


if __name__ == "__main__":
    main()
