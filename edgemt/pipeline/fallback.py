"""Fallbacks: what is tried when a gate refuses, in which order, and the record of what was given up for it.

A record is plain JSON on the cards of `slim`, `int8` and `ship` (`ModelCard.given_up`):
stage, wanted, shipped, why, tolerance, parent_dice, remedy, and `tried`, a list of {attempt, dice, refused}.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from deploy.pruning.options import PruneOptions
from edgemt.pipeline.recipe import PruneStage
from edgemt.training.options import Schedule

UNPRUNED = "the unpruned student"
_CALMER = 0.5  # learning rate of further fine-tuning, as a share of the first one's


@dataclass(frozen=True)
class Attempt:
    """One smaller student: how it is pruned, and how long it is fine-tuned."""

    name: str  # of its folder
    prune: PruneOptions
    schedule: Schedule
    after: str = ""  # the attempt whose pruned network learns on; empty: the student is pruned

    @property
    def way(self) -> str:
        """How the network becomes smaller."""
        if self.prune.plan:
            return "pruning by the given plan"
        return f"pruning by {self.prune.share:g} of the {self.prune.target}" if self.prune.wanted else "fine-tuning"

    @property
    def words(self) -> str:
        """The way and its length, for a line of output."""
        return f"{self.way}, {self.schedule.steps} {'more ' if self.after else ''}steps"


def attempts_of(slim: PruneStage) -> list[Attempt]:
    """What the slim stage tries, in this order; the unpruned student comes after the last of them."""
    name = "plan" if slim.prune.plan else f"share{slim.prune.share:g}"
    found = [Attempt(name, slim.prune, slim.schedule)]
    steps = round(slim.extra * slim.schedule.steps)
    if steps > 0:
        calmer = replace(
            slim.schedule,
            steps=steps,
            learning_rate=slim.schedule.learning_rate * _CALMER,
            warmup=min(slim.schedule.warmup, steps // 4),
        )
        found.append(Attempt(f"{name}-longer", slim.prune, calmer, after=name))
    if slim.prune.share > 0 and not slim.prune.plan:
        for part in slim.milder:
            milder = replace(slim.prune, share=round(part * slim.prune.share, 6))
            found.append(Attempt(f"share{milder.share:g}", milder, slim.schedule))
    return found


def budget(attempts: Sequence[Attempt], *, strict: bool) -> str:
    """The most that the slim stage may cost, in words."""
    first, *others = attempts
    if strict:
        return f"{first.words}; --strict: refused if it costs more than the tolerance"
    rest = ", then ".join([*(attempt.words for attempt in others), UNPRUNED])
    steps = sum(attempt.schedule.steps for attempt in others)
    return f"{first.words}; if that costs more than the tolerance, at most {steps} steps more: {rest}"


def given_up(
    *,
    stage: str,
    wanted: str,
    shipped: str,
    tried: Sequence[dict[str, Any]],
    tolerance: float,
    parent_dice: float | None,
    remedy: str,
) -> dict[str, Any]:
    """The record for a card. `tried` holds at least one attempt; the first one's refusal is the reason."""
    return {
        "stage": stage,
        "wanted": wanted,
        "shipped": shipped,
        "why": tried[0]["refused"],
        "tried": [dict(step) for step in tried],
        "tolerance": tolerance,
        "parent_dice": parent_dice,
        "remedy": remedy,
    }


def describe_fallback(record: dict[str, Any]) -> str:
    """A record in one line."""
    tried = "; ".join(f"{step['attempt']}: {_number(step['dice'])}" for step in record["tried"])
    return (
        f"{record['stage']}: {record['wanted']} given up, {record['shipped']} shipped instead: {record['why']}. "
        f"Tried: {tried}. To get it: {record['remedy']}."
    )


def _number(dice: float | None) -> str:
    return "not measured" if dice is None else f"Dice {dice:.4f}"
