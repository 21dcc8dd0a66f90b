"""A predetermined change control plan as JSON: what may change later, what stays, limits, tests, the way of an update.

Its three parts are those of FDA's guidance "Marketing Submission Recommendations for a Predetermined Change Control
Plan for Artificial Intelligence-Enabled Device Software Functions": description of modifications, modification
protocol, impact assessment.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from deploy.adaptation.limits import AdaptLimits
from deploy.package.package import card_hash
from edgemt.dossier.items import NOT_MEASURED, TO_WRITE
from edgemt.model_card import ModelCard

_SAME = "classes, size, channels and channel order of the card"


def change_plan(card: ModelCard) -> dict[str, Any]:
    """The plan for the ship of `card`. Limits hold the value of today; the allowed loss is to be written."""
    return {
        "model": {"name": card.name, "version": card.version, "card": card_hash(card)},
        "description_of_modifications": [
            {
                "modification": "a network trained again on more or other cases",
                "may_change": ["weights", "channels of inner layers", "quantization", "inputs.json", "golden frames"],
                "stays": [_SAME, "intended use"],
                "limits": _accuracy_limits(card),
                "tests": [
                    _test("edgemt eval SHIP --data.root DIR", "every limit above, on a test list set aside for it"),
                    _test("edgemt doctor SHIP", "hashes, golden frames and runtimes are ok on the device"),
                    _test("edgemt bench SHIP --budget-ms MS", "exit status 0 on the device"),
                    _test("edgemt install SHIP --to TO --min-agreement A", "agreement with the model in use"),
                ],
            },
            {
                "modification": "margins of the contours fitted again",
                "may_change": ["contours on the card"],
                "stays": ["every file of the ship", _SAME],
                "limits": _contour_limits(card),
                "tests": [
                    _test("edgemt eval SHIP --data.root DIR", "coverage of at least 1 - alpha on other patients")
                ],
            },
            {
                "modification": "another runtime, or another file of the same ship",
                "may_change": ["runtime", "precision"],
                "stays": ["every file of the ship", _SAME],
                "limits": _accuracy_limits(card),
                "tests": [
                    _test("edgemt doctor SHIP", "the golden frames are ok on that runtime"),
                    _test("edgemt eval SHIP --runtime NAME --data.root DIR", "every limit above"),
                    _test("edgemt bench SHIP --runtime NAME --budget-ms MS", "exit status 0 on the device"),
                ],
            },
            {
                "modification": "the last layer fitted to confirmed masks, for one session (edgemt stream --adapt)",
                "may_change": ["weights and bias of the last 1x1 convolution, weights of means of features, in memory"],
                "stays": ["every file of the ship", _SAME, "intended use"],
                "limits": [{"limit": name, "value": value} for name, value in asdict(AdaptLimits()).items()],
                "tests": [
                    _test("edgemt stream SHIP --adapt --json FILE", "adaptation in FILE has every fit with its tests"),
                ],
            },
        ],
        "modification_protocol": {
            "data_management": TO_WRITE,
            "retraining": TO_WRITE,
            "performance_evaluation": "the tests of each modification, in this order; one that fails ends the update",
            "update_procedure": [
                f"edgemt sign SHIP --key KEY --version {card.version + 1}",
                "edgemt install SHIP --to TO --frames FRAMES --min-agreement A --log device.log",
                "edgemt install --to TO --back",
            ],
            "monitoring": ["edgemt stream --log --statistics", "edgemt log verify", "edgemt site report"],
            "communication_to_users": TO_WRITE,
        },
        "impact_assessment": {"benefits": TO_WRITE, "risks": TO_WRITE, "effect_of_several_changes": TO_WRITE},
    }


def _test(command: str, passes_with: str) -> dict[str, str]:
    return {"command": command, "passes_with": passes_with}


def _accuracy_limits(card: ModelCard) -> list[dict[str, Any]]:
    """For each measured class of each file its Dice of today."""
    return [
        {"file": file, "class": name, "metric": "dice", "today": row["dice"], "allowed_loss": TO_WRITE}
        for file, found in card.measured.items()
        for name, row in found.per_class.items()
        if row.get("dice") is not None
    ] or [{"metric": "dice", "today": NOT_MEASURED, "allowed_loss": TO_WRITE}]


def _contour_limits(card: ModelCard) -> list[dict[str, Any]]:
    return [
        {"file": file, "alpha": margins.alpha, "tolerance": margins.tolerance, "fewest_patients": TO_WRITE}
        for file, margins in card.contours.items()
    ] or [{"alpha": NOT_MEASURED, "fewest_patients": TO_WRITE}]
