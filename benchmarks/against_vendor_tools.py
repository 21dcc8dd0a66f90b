"""Our latency of a file beside that of the runtime's own tool, in turns: the two should agree within 5 %.

    python benchmarks/against_vendor_tools.py SHIP [--file int8] [--tool benchmark_app|trtexec] [--rounds 6]

`benchmark_app` comes with OpenVINO, `trtexec` with TensorRT (not with its wheels). Both feed one resident input; ours
hands over a new frame and takes a mask with every call, so the inference alone is printed beside the whole. `trtexec`
loads the engine that ours runs. A round runs both, the other first the next time, and the ratio is the median over
rounds of ours divided by theirs: on a machine whose speed wanders the single times mean little. Exit status 3 when the
medians differ by more than `--within`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from deploy.hardware.machine import describe, physical_cores
from deploy.measurement.timing import BenchOptions, Call, time_interleaved, warm_up
from deploy.package.golden import golden_pairs
from deploy.package.package import Package, open_package
from deploy.runtimes.load import runner
from deploy.runtimes.runner import ModelRunner

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
    program = find(given.tool)
    source = vendor_source(run)
    found = describe()
    print(f"{found['cpu']}, {given.threads} threads, {run.runtime} {run.version}, {run.file} in {run.precision}")

    def theirs() -> float:
        return vendor(given.tool, source, program=program, threads=given.threads, seconds=given.seconds)

    times = alternate(run, frames_of(ship, run), theirs, rounds=given.rounds, seconds=given.seconds)
    for turn, (whole, alone, other) in enumerate(zip(*times.values(), strict=True), 1):
        print(f"round {turn}: ours {whole:.3f} ms, inference {alone:.3f}; {given.tool} {other:.3f}")
    ratios = sorted(ratio_of(times, "whole"))
    print(f"ours / {given.tool}: median {statistics.median(ratios):.3f}, rounds {ratios[0]:.3f} to {ratios[-1]:.3f}")
    print(f"inference alone / {given.tool}: median {statistics.median(ratio_of(times, 'alone')):.3f}")
    if abs(statistics.median(ratios) - 1) > given.within:
        print(f"they differ by more than {given.within:.0%}", file=sys.stderr)
        raise SystemExit(3)


def frames_of(ship: Package, run: ModelRunner) -> list[np.ndarray]:
    """The golden frames of a ship; random ones where it has none."""
    draw = np.random.default_rng(0)
    return [pair.frame for pair in golden_pairs(ship)] or list(draw.integers(0, 256, (8, *run.shape), dtype=np.uint8))


def alternate(
    run: ModelRunner, frames: list[np.ndarray], theirs: Callable[[], float], *, rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Median ms of each round: `whole` of our call, `alone` of its inference, `theirs`; who begins alternates."""
    bare = run.stages.infer if run.stages else lambda: run(frames[0])
    if run.stages:
        run.stages.copy_in(np.ascontiguousarray(frames[0]).reshape(run.shape))  # what the inference alone works on
    calls: dict[str, Call] = {"whole": run, "alone": lambda _: bare()}
    options = BenchOptions(iterations=10**9, seconds=seconds / 2, rounds=1)
    times: dict[str, list[float]] = {"whole": [], "alone": [], "theirs": []}
    for turn in range(rounds):
        for ours in (True, False) if turn % 2 else (False, True):
            if not ours:
                times["theirs"].append(theirs())
                continue
            warm_up(run, frames, options)
            blocks = time_interleaved(calls, frames, options)
            for name in calls:
                times[name].append(statistics.median(ns for block in blocks[name].values() for ns in block) / 1e6)
    return times


def ratio_of(times: dict[str, list[float]], ours: str) -> list[float]:
    """Ours divided by theirs, round by round."""
    return [a / b for a, b in zip(times[ours], times["theirs"], strict=True)]


def find(tool: str) -> str:
    """The path of the program: beside this Python, or on the PATH. SystemExit where there is none."""
    beside = Path(sys.executable).with_name(tool)
    program = str(beside) if beside.exists() else shutil.which(tool)
    if program is None:
        raise SystemExit(f"{tool}: not found; it comes with {RUNTIME[tool]}")
    return program


def vendor_source(run: ModelRunner) -> Path:
    """What the tool is given: the engine that ours runs, where there is one, else the file."""
    return Path(run.details["engine"]) if run.details and run.details.get("engine") else run.path


def vendor(tool: str, path: Path, *, program: str, threads: int, seconds: float) -> float:
    """Median latency in ms as the tool prints it. Raises ValueError, with its last line, where it fails."""
    if tool == "benchmark_app":
        # with a hint it takes no number of threads; without one it must be told one stream
        arguments = ["-m", path, "-hint", "none", "-nstreams", 1, "-nthreads", threads, "-api", "sync"]
        arguments += ["-t", max(round(seconds), 1)]
    else:
        source = [f"--loadEngine={path}"] if path.suffix == ".engine" else [f"--onnx={path}", "--stronglyTyped"]
        arguments = [*source, "--useCudaGraph", "--warmUp=500", f"--duration={seconds:g}"]
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise ValueError(f"{tool} ended with status {done.returncode}: {last}")
    return median_of(done.stdout)


def median_of(output: str) -> float:
    """The median latency in what benchmark_app or trtexec prints."""
    found = _MEDIAN.search(output)
    if found is None:
        raise ValueError(f"no median latency in: {output[-300:]}")
    return float(found.group(1)) / (1000 if found.group(2) == "us" else 1)


if __name__ == "__main__":
    main()
