"""What the values of masks mean: the rule of training where one fits all files, else that of most files.

`edgemt.io.masks.decide` refuses a set at its first file that does not fit; here each such file is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgemt.io.mask_files import Evidence, MaskFile
from edgemt.io.mask_rule import MaskValues, Rule, overlapping_bits
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
    values: MaskValues = MaskValues()  # data.label_map, data.ignore
    class_masks: tuple[Meaning, ...] = ()  # of overlapping classes with a mask file each: that of each

    @property
    def overlapping(self) -> bool:
        """Whether classes may overlap, so that masks are bits (`edgemt.io.class_regions`)."""
        return bool(self.class_masks) or self.values.overlapping

    @property
    def thresholds(self) -> tuple[int | None, ...]:
        """The threshold of each kind of mask file."""
        return tuple(one.rule.threshold for one in self.class_masks or (self,))

    def of_files(self, masks: Sequence[MaskFile]) -> np.ndarray | None:
        """uint8 class indices or bits of the masks of one item, IGNORE included; None where values do not fit.

        Raises ValueError, naming the file, for masks of different shapes.
        """
        if not self.class_masks:
            return self.indices(masks[0]) if len(masks) == 1 else None
        if len(masks) != len(self.class_masks):
            return None
        planes = [meaning.indices(mask) for meaning, mask in zip(self.class_masks, masks, strict=True)]
        if any(plane is None for plane in planes):
            return None
        return overlapping_bits([meaning.rule for meaning in self.class_masks], masks)

    def indices(self, mask: MaskFile) -> np.ndarray | None:
        """uint8 class indices of the mask's shape; None where its values do not fit."""
        rule = self.rule
        if rule.table is not None:
            evidence = mask.evidence
            fits = evidence.kind != "colour" and not evidence.lossy and set(evidence.levels) <= set(rule.table)
            return rule.indices(mask) if fits else None
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


def guess_classes(evidence: Sequence[Evidence], *, ignore: int | None = None) -> tuple[str, ...]:
    """Names for the values of a set of masks: `background object`, or `background class1 class2 ...`."""
    counts: Counter[int] = Counter()
    with_object = 0
    for one in evidence:
        if ignore is not None:
            one = replace(one, levels={v: n for v, n in one.levels.items() if v != ignore})
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


def decide_class_masks(
    evidence: Sequence[Sequence[Evidence]], *, classes: tuple[str, ...], threshold: int | None, ignore: int | None
) -> tuple[Meaning, dict[str, str]]:
    """As `decide_meaning`, of items with a mask file for each class but the background, in their order."""
    each, refused = [], dict[str, str]()
    for k, name in enumerate(classes[1:]):
        own = [files[k] for files in evidence if len(files) == len(classes) - 1]
        values = MaskValues((), ignore)
        found, bad = decide_meaning(own, classes=(classes[0], name), threshold=threshold, values=values)
        each.append(found)
        refused |= bad
    text = each[0].rule.text.partition(";")[0] + " in each class folder"
    if ignore is not None:
        text = f"masks: 0 and 1 in each class folder; {ignore} is ignored"
    rule = Rule(classes, text=f"{text}; {sum(map(len, evidence))} files")
    return Meaning(classes, rule, (), threshold, MaskValues((), ignore), tuple(each)), refused


def decide_meaning(
    evidence: Sequence[Evidence],
    *,
    classes: tuple[str, ...],
    threshold: int | None,
    values: MaskValues = MaskValues(),
) -> tuple[Meaning, dict[str, str]]:
    """(the rule that fits all files or else most of them, path -> why a file does not fit).

    Raises ValueError for stated `values` that do not fit `classes`.
    """
    if values.stated:
        return _decide_stated(evidence, classes, threshold, values)
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


def _decide_stated(
    evidence: Sequence[Evidence], classes: tuple[str, ...], threshold: int | None, values: MaskValues
) -> tuple[Meaning, dict[str, str]]:
    decide([], classes=classes, threshold=threshold, values=values)
    good, refused = list[Evidence](), dict[str, str]()
    for one in evidence:
        try:
            decide([one], classes=classes, threshold=threshold, values=values)
            good.append(one)
        except ValueError as error:
            text = " ".join(str(error).split())
            refused[one.path] = text.removeprefix(f"{one.path}: ").partition("; ")[0]
    rule = decide(good, classes=classes, threshold=threshold, values=values)
    return Meaning(classes, rule, tuple(good[:_SAMPLE]), threshold, values), refused


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
