"""The record of a patient head in the shape of a predetermined change control plan: what may change, how, and what did.

The three parts are those of the guidance of the FDA (Marketing Submission Recommendations for a Predetermined Change
Control Plan for AI-Enabled Device Software Functions, 2024): description of modifications, modification protocol,
impact assessment. The record has no pixels, no identifiers and no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploy.adaptation.head import ClassifierHead
    from deploy.adaptation.limits import AdaptLimits, FitOptions

FORMAT = 1


def change_plan(
    shipped: ClassifierHead, limits: AdaptLimits, options: FitOptions, *, results: Mapping[str, Any]
) -> dict[str, Any]:
    """The plan, and what came of it: `results` has the state, the number of adapted masks and the list of changes."""
    return {
        "format": FORMAT,
        "description_of_modifications": {
            "may_change": "weights and bias of the last 1x1 convolution, of its features and of means of them, "
            f"{shipped.parameters} numbers",
            "does_not_change": ["all other weights", "files of the package", "classes", "intended use"],
            "scope": "one session on one device; nothing is stored",
            "initiated_by": "masks that the operator has confirmed",
        },
        "modification_protocol": {
            "data": "confirmed masks of this session; golden frames of the package",
            "fit": asdict(options),
            "limits": asdict(limits),
            "acceptance": [
                "Dice on the golden frames within golden_loss of the shipped head",
                "mean gain of at least gain, and of at least worst on each, on corrections left out of the fit",
                "shadow frames without a failed test of a frame",
            ],
            "monitoring": ["disagreement with the shipped head", "uncertainty", "distance to the corrected frames"],
            "roll_back": "shipped mask on the frame that fails; by the operator at any time; at the end of the session",
        },
        "impact_assessment": {
            "risk": "a wrong correction, or a scene that changes, makes masks worse than the shipped ones",
            "control": "the tests above; the shipped mask is computed for every frame",
            "residual": "errors that neither the left-out corrections nor the golden frames show",
        },
        "results": dict(results),
    }


def in_words(change: Mapping[str, Any]) -> str:
    """A change of a session in one short sentence, for the page and the status line."""
    event, test = change["event"], change.get("test", "")
    texts = {
        "fitted": f"fitted to {change.get('corrections')} corrections, runs in shadow",
        "refused": f"refused: {change.get('reason')}",
        "took-over": "the adapted head has taken over",
        "fell-back": f"back to the shipped head: {test}",
        "shadow-failed": f"shadow run begins again: {test}",
        "forgotten": "the session has ended; corrections and head are forgotten",
        "operator-return": "back to the shipped head by the operator",
    }
    return texts.get(event, event) + ("; dropped" if change.get("dropped") else "")


def change_observer(
    log: Callable[[str], None], event: Callable[[str, dict[str, Any]], None] | None
) -> Callable[[str, dict[str, Any]], None]:
    """Passes each change of a patient head to `log` in words, and as `adapt-NAME` to an event log if there is one."""

    def observe(name: str, fields: dict[str, Any]) -> None:
        log(f"adapt: {in_words({'event': name, **fields})}")
        if event is not None:
            event(f"adapt-{name}", fields)

    return observe
