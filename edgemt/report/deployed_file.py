"""What the report says of the precision that ships: how INT8 was reached, and which file is the quickest where."""

from __future__ import annotations

from typing import Any

from deploy.measurement.variants import fastest
from edgemt.model_card import ModelCard
from edgemt.pipeline.quantize import FLOAT, FLOAT_IR, SMALL, SMALL_IR, told


def kind_of(file: str) -> str:
    return next((kind for kind in ("int8", "fp16") if kind in file), "fp32")


def delivered(ship: ModelCard) -> str:
    """The stage that the report's first line is about: what `runner` takes where nobody chooses."""
    quickest = next(iter(fastest(ship).values()), None)
    if quickest is None:
        first = next((file for file in (SMALL_IR, FLOAT_IR, SMALL, FLOAT) if file in ship.measured), FLOAT_IR)
        return f"{kind_of(first)}/{ship.measured.get(first, {}).get('runtime', 'openvino')}"
    return f"{kind_of(quickest['file'])}/{quickest['runtime']}"


def choices(ship: ModelCard) -> list[str]:
    """How INT8 was reached, where calibration alone did not do, and what was chosen for each runtime."""
    said: list[str] = []
    steps: list[dict[str, Any]] = next(
        (m["quantization"]["rungs"] for m in ship.measured.values() if "quantization" in m), []
    )
    if len(steps) > 1 or any(not step["passed"] for step in steps):
        held = "the last one held" if steps[-1]["passed"] else "none held, and no INT8 file is shipped"
        said.append(f"INT8 took {len(steps)} rungs: {'; '.join(told(step) for step in steps)}: {held}.")
    for runtime, record in fastest(ship).items():
        others = [r for r in ship.latency if r["runtime"] == runtime and r["file"] != record["file"]]
        second = f", {others[0]['ratio'] / record['ratio']:.2f} times as fast as {others[0]['file']}" if others else ""
        said.append(
            f"Quickest on {runtime} of what passed: {record['file']} in {record['precision']}, {record['p50_ms']:.2f} "
            f"ms{second}, timed in turns when the ship was made."
        )
    return said
