"""What the values of masks mean: the rule of training where one fits all files, else that of most files.

`edgemt.io.masks.decide` refuses a set at its first file that does not fit; here each such file is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgemt.io.mask_files import Evidence, MaskFile
from edgemt.io.mask_rule import Rule
from edgemt.io.masks import BRIGHT, decide

_FEW = 32  # values below this are class indices
_SHARE = 0.05  # of the masks: a value that fewer hold is a mistake rather than a class
_SAMPLE = 48  # files that stand for all accepted ones


@dataclass(frozen=True)
class Meaning:
    """How values of masks become classes."""

    classes: tuple[str, ...]
    rule: Rule
    sample: tuple[Evidence, ...] = field(default=(), repr=False)
    threshold: int | None = None  # data.mask_threshold

    def indices(self, mask: MaskFile) -> np.ndarray | None:
        """uint8 class indices of the mask's shape; None where its values do not fit."""
        rule = self.rule
        if mask.evidence.kind == "palette" and mask.evidence.path not in rule.by_colour:
            try:
                rule = decide([*self.sample, mask.evidence], classes=self.classes, threshold=self.threshold)
            except ValueError:
                return None
        if mask.evidence.conflict or min(mask.evidence.levels, default=0) < 0:
            return None
        if rule.threshold is None and mask.evidence.kind != "bit" and mask.evidence.path not in rule.by_colour:
            if mask.evidence.top >= len(self.classes):
                return None
            return rule.indices(mask)
        found = rule.indices(mask)
        return found if int(found.max(initial=0)) < len(self.classes) else None


def guess_classes(evidence: Sequence[Evidence]) -> tuple[str, ...]:
    """Names for the values of a set of masks: `background object`, or `background class1 class2 ...`."""
    counts: Counter[int] = Counter()
    with_object = 0
    for one in evidence:
        if one.kind in ("bit", "colour", "alpha") or one.lossy or one.top in (255, 65535):
            with_object += one.top > 0
            counts[1] += one.top > 0
            continue
        with_object += one.top > 0
        counts.update(v for v in one.levels if v > 0)
    few = with_object < 6
    values = [v for v, n in counts.items() if v < _FEW and (few or (n >= 2 and n >= _SHARE * with_object))]
    top = max(values, default=1)
    return ("background", "object") if top <= 1 else ("background", *(f"class{v}" for v in range(1, top + 1)))


def decide_meaning(
    evidence: Sequence[Evidence], *, classes: tuple[str, ...], threshold: int | None
) -> tuple[Meaning, dict[str, str]]:
    """(the rule that fits all files or else most of them, path -> why a file does not fit)."""
    try:
        rule = decide(evidence, classes=classes, threshold=threshold)
        return Meaning(classes, rule, tuple(evidence[:_SAMPLE]), threshold), {}
    except ValueError:
        pass
    groups: dict[Hashable, list[Evidence]] = {}
    for one in evidence:
        groups.setdefault(_signature(one, classes), []).append(one)
    accepted: list[Evidence] = []
    refused: dict[str, str] = {}
    rule = decide([], classes=classes, threshold=threshold)
    for group in sorted(groups.values(), key=lambda g: (-len(g), g[0].path)):
        try:
            found = decide([*accepted, *group[:_SAMPLE]], classes=classes, threshold=threshold)
        except ValueError as error:
            # of a group some files may fit although one of them does not
            single = [one for one in group if len(group) > 1 and _fits(accepted, one, classes, threshold)]
            bad = [one for one in group if all(one is not other for other in single)]
            if single:
                accepted += single[: max(1, _SAMPLE - len(accepted))]
                rule = decide(accepted, classes=classes, threshold=threshold)
            refused |= {one.path: _reason(one, str(error), accepted, classes, threshold) for one in bad}
            continue
        rule = found
        accepted += group[: max(1, _SAMPLE // 4)]
    return Meaning(classes, rule, tuple(accepted[:_SAMPLE]), threshold), refused


def _fits(accepted: list[Evidence], one: Evidence, classes: tuple[str, ...], threshold: int | None) -> bool:
    try:
        decide([*accepted, one], classes=classes, threshold=threshold)
    except ValueError:
        return False
    return True


def _reason(one: Evidence, text: str, accepted: list[Evidence], classes: tuple[str, ...], threshold: int | None) -> str:
    """Why a file does not fit: its own error, or its values beside those of most files."""
    try:
        decide([one], classes=classes, threshold=threshold)
    except ValueError as error:
        text = " ".join(str(error).split())
        return text.removeprefix(f"{one.path}: ").partition("; ")[0]
    values = ", ".join(map(str, sorted(one.levels)[:6]))
    usual = ", ".join(map(str, sorted(accepted[0].levels)[:6])) if accepted else "others"
    return f"holds {values}, most masks hold {usual}"


def _signature(one: Evidence, classes: tuple[str, ...]) -> Hashable:
    """Files of one signature are decided together."""
    if one.kind == "bit":
        return "bit"
    if one.lossy or len(one.levels) > _FEW:
        return one.kind, one.lossy, "white" if one.top >= BRIGHT or one.top == 65535 else "dark"
    if one.top < len(classes):
        return one.kind, "indices" if one.top else "empty"
    return one.kind, tuple(sorted(one.levels))
