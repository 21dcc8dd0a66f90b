"""What the stages do with measured Dice: read it from a card, subtract it, word it, and pass it through the gates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from deploy.quantization.accuracy_gate import GateError, gate, gate_classes
from edgemt.artefacts import stage_folder
from edgemt.contract import UncertaintySource
from edgemt.model_card import FileMetrics

AUROC_TOLERANCE = 0.01


def measured_of(folder: Path, *, measured_on: str) -> FileMetrics:
    """The metrics of the network in `folder`, from its card.

    Raises ValueError when they were measured on another validation list: no drop is computed between two lists.
    """
    measured = weights_metrics(folder)
    if measured.list_key not in ("", measured_on):
        raise ValueError(
            f"{folder}: was measured on another validation list than this run's; run the recipe from its first stage"
        )
    return measured


def weights_metrics(folder: Path) -> FileMetrics:
    """The metrics that a card states for its weights, on whatever list they were measured."""
    return stage_folder.read_card(folder).measured[stage_folder.WEIGHTS]


def dice_drop(parent_dice: float | None, measured: FileMetrics) -> float | None:
    """Parent's Dice minus the measured one, both of one list; None where one of them was not measured."""
    return None if parent_dice is None or measured.dice is None else parent_dice - measured.dice


def class_dice(measured: FileMetrics) -> dict[str, float | None]:
    """Class name -> Dice, from the metrics on a card."""
    return {name: values["dice"] for name, values in measured.per_class.items()}


def gate_failure(parent: FileMetrics, measured: FileMetrics, *, tolerance: float, what: str) -> str:
    """Why the accuracy gates (mean, then class by class) refuse a measurement; empty when they pass it."""
    options: dict[str, Any] = {"tolerance": tolerance, "what": what, "hint": ""}
    try:
        gate(parent.dice, measured.dice, **options)
        gate_classes(class_dice(parent), class_dice(measured), **options)
    except GateError as error:
        return error.reason
    return ""


def uncertainty_failure(parent: FileMetrics, measured: FileMetrics, *, what: str) -> str:
    """Why the gate refuses the uncertainty of a file; empty where it passes, or where there is none.

    Its area under the ROC curve of "this pixel is wrong" may be at most AUROC_TOLERANCE below that of the parent. It is
    None, and passes, where no pixel is wrong.
    """
    before, after = parent.uncertainty.get("auroc"), measured.uncertainty.get("auroc")
    if before is None or after is None or after >= before - AUROC_TOLERANCE:
        return ""
    return (
        f"{what}: the AUROC of its uncertainty, {after:.4f}, is {before - after:.4f} below its parent's {before:.4f}, "
        f"the tolerance is {AUROC_TOLERANCE:g}"
    )


def with_source(measured: FileMetrics, source: UncertaintySource) -> FileMetrics:
    """The metrics of a graph, its uncertainty noted as "softmax" where it is that; a record without is of a head."""
    if not measured.uncertainty or source == "head":
        return measured
    return replace(measured, uncertainty={**measured.uncertainty, "source": source})


def dice_text(measured: FileMetrics) -> str:
    """`Dice 0.8123`, or `Dice not measured`."""
    return f"Dice {dice_figure(measured)}"


def dice_figure(measured: FileMetrics) -> str:
    """`0.8123`, or `not measured`."""
    return "not measured" if measured.dice is None else f"{measured.dice:.4f}"
