"""Which file of a package is deployed, for the report: how INT8 was reached, and the fastest file of each runtime."""

from __future__ import annotations

from typing import Any

from deploy.measurement.variants import fastest
from deploy.package.files import IR_FP32, IR_INT8, ONNX_FP32, ONNX_INT8
from edgemt.model_card import ModelCard
from edgemt.report.formatting import describe_candidate


def precision_of(file: str) -> str:
    """`int8`, `fp16` or `fp32`, by the name of a file."""
    return next((kind for kind in ("int8", "fp16") if kind in file), "fp32")


def deployed(ship: ModelCard) -> str:
    """PRECISION/RUNTIME of the file that `runner` opens by default, for the first line of the report."""
    quickest = next(iter(fastest(ship).values()), None)
    if quickest is None:
        first = next((file for file in (IR_INT8, IR_FP32, ONNX_INT8, ONNX_FP32) if file in ship.measured), IR_FP32)
        return f"{precision_of(first)}/{ship.measured[first].runtime if first in ship.measured else 'openvino'}"
    return f"{precision_of(quickest['file'])}/{quickest['runtime']}"


def quantization_notes(ship: ModelCard) -> list[str]:
    """Sentences: how INT8 was reached, where calibration alone was not enough, and the fastest file of each runtime."""
    notes: list[str] = []
    steps: list[dict[str, Any]] = next(
        (metrics.quantization["rungs"] for metrics in ship.measured.values() if metrics.quantization), []
    )
    if len(steps) > 1 or any(not step["passed"] for step in steps):
        outcome = "the last one passed" if steps[-1]["passed"] else "none passed, and no INT8 file is shipped"
        notes.append(
            f"INT8 took {len(steps)} candidates: {'; '.join(describe_candidate(step) for step in steps)}: {outcome}."
        )
    for runtime, record in fastest(ship).items():
        others = [r for r in ship.latency if r["runtime"] == runtime and r["file"] != record["file"]]
        second = f", {others[0]['ratio'] / record['ratio']:.2f} times as fast as {others[0]['file']}" if others else ""
        notes.append(
            f"Quickest on {runtime} of what passed: {record['file']} in {record['precision']}, {record['p50_ms']:.2f} "
            f"ms{second}, timed in turns when the ship was made."
        )
    return notes
