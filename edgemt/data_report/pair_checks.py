"""Findings from pairs of files: copies and near copies within and across the parts, masks that two images share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgemt.contract import IGNORE
from edgemt.data_report.duplicates import correlation, near_duplicates
from edgemt.data_report.finding import Example, Finding, finding
from edgemt.data_report.scan import FileScan
from edgemt.io.image_hashes import RADIUS

_AGREE = 0.5  # Dice of the masks of two near copies below which they contradict each other
_TRAINING = ("labelled", "unlabelled")

Scans = Sequence[FileScan]
Pair = tuple[int, int]


def check_pairs(scans: Scans, *, radius: int = RADIUS) -> tuple[list[Finding], list[Pair]]:
    """(findings, pairs of scans that show one image)."""
    read = [s for s in scans if s.image.hashes is not None]
    exact = _equal(read)
    hashes = [s.image.hashes for s in read if s.image.hashes is not None]
    thumbs = [s.image.thumbs for s in read if s.image.thumbs is not None]
    near = {(i, j): (bits, r) for i, j, bits, r in near_duplicates(hashes, thumbs, radius=radius)}
    near = {pair: value for pair, value in near.items() if pair not in exact}
    findings = _copies(read, sorted(exact), near, radius)
    findings += _contradictions(read, [*sorted(exact), *near])
    findings += _shared_masks(read, exact | set(near))
    return findings, [*sorted(exact), *near]


def _equal(scans: Scans) -> set[Pair]:
    """Pairs of neighbours among files whose decoded values are equal: a chain for each group."""
    groups: dict[bytes, list[int]] = {}
    for i, scan in enumerate(scans):
        groups.setdefault(scan.image.digest, []).append(i)
    pairs: set[Pair] = set()
    for group in groups.values():
        first = group[0]
        pairs |= {(first, other) for other in group[1:]}
    return pairs


def _across(a: FileScan, b: FileScan) -> bool:
    """Whether one file trains and the other one measures."""
    return (a.item.part in _TRAINING) != (b.item.part in _TRAINING)


def _pair(a: FileScan, b: FileScan, detail: str) -> Example:
    first, second = (b, a) if a.item.part == "val" and b.item.part in _TRAINING else (a, b)
    words = f"{detail} {second.item.image} ({second.item.part})"
    item = first.item
    return Example(item.image, words, item.image, item.label or "", None, second.item.image, item.axes)


def _copies(scans: Scans, exact: Sequence[Pair], near: dict[Pair, tuple[int, float]], radius: int) -> list[Finding]:
    equal = [(scans[i], scans[j]) for i, j in exact]
    alike = [(scans[i], scans[j], bits) for (i, j), (bits, _) in near.items()]
    rule = f"at most {radius} of 64 bits of dHash, thumbnails correlate"
    found: list[Finding] = []
    found += finding(
        "copy_across", "error", [_pair(a, b, "equals") for a, b in equal if _across(a, b)],
        one="a training image is a copy of a validation image:",
        several="{n} training images are copies of validation images",
        remedy="remove it from one of the parts; the measured Dice is too high otherwise",
    )  # fmt: skip
    found += finding(
        "near_copy_across", "warning",
        [_pair(a, b, f"is {bits} bits from") for a, b, bits in alike if _across(a, b)],
        one=f"a training image nearly equals a validation image ({rule}):",
        several=f"{{n}} pairs of a training and a validation image nearly agree ({rule})",
        remedy="look at them; of one patient or scene they belong in one part",
    )  # fmt: skip
    found += finding(
        "copy", "warning", [_pair(a, b, "equals") for a, b in equal if not _across(a, b)],
        one="an image is a copy of another one:", several="{n} images are copies of others",
        remedy="remove the copies; they weigh double",
    )  # fmt: skip
    within = [(a, b, bits) for a, b, bits in alike if not _across(a, b)]
    same = [_pair(a, b, f"is {bits} bits from") for a, b, bits in within if a.item.patient == b.item.patient]
    other = [_pair(a, b, f"is {bits} bits from") for a, b, bits in within if a.item.patient != b.item.patient]
    found += finding(
        "near_copy", "note", other, one=f"two images of one part nearly agree ({rule}):",
        several=f"{{n}} pairs within a part nearly agree ({rule})",
        remedy="frames of one video add little; keep them in one part and label one of them",
    )  # fmt: skip
    found += finding(
        "near_copy_of_patient", "note", same, one="two images of a patient nearly agree:",
        several="{n} pairs of one patient nearly agree", remedy="expected of neighbouring frames; label one of them",
    )  # fmt: skip
    return found


def _contradictions(scans: Scans, pairs: Sequence[Pair]) -> list[Finding]:
    """(Near) copies whose masks differ."""
    examples = []
    for i, j in pairs:
        a, b = scans[i], scans[j]
        if a.mask is None or b.mask is None or a.mask.thumb is None or b.mask.thumb is None:
            continue
        dice = thumbnail_dice(a.mask.thumb, b.mask.thumb)
        if dice < _AGREE:
            examples.append(_pair(a, b, f"Dice {dice:.2f} with the mask of"))
    return finding(
        "contradicting_masks", "warning", examples, one="two nearly equal images have different masks:",
        several="{n} pairs of nearly equal images have different masks", remedy="look at both; one mask is wrong",
    )  # fmt: skip


def thumbnail_dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of the foreground of two class thumbnails; 1 where both are empty. Pixels that one ignores are left out."""
    counts = (a != IGNORE) & (b != IGNORE)
    x, y = (a > 0) & counts, (b > 0) & counts
    total = int(x.sum() + y.sum())
    return 2.0 * int((x & y).sum()) / total if total else 1.0


def _shared_masks(scans: Scans, copies: set[Pair]) -> list[Finding]:
    """Different images with one and the same mask that is not empty."""
    groups: dict[bytes, list[int]] = {}
    for i, scan in enumerate(scans):
        if scan.mask is not None and scan.mask.pixels and any(scan.mask.pixels[1:]):
            groups.setdefault(scan.mask.digest, []).append(i)
    examples = []
    for group in groups.values():
        for other in group[1:]:
            a, b = scans[group[0]], scans[other]
            if (group[0], other) in copies or _same_picture(a, b):
                continue
            item = b.item
            words = f"is also that of {a.item.image}"
            examples.append(
                Example(str(item.label), words, item.image, item.label or "", None, a.item.image, item.axes)
            )
    return finding(
        "shared_mask", "warning", examples, one="two different images have the same mask:",
        several="{n} masks equal the mask of another image",
        remedy="copied by mistake? draw it anew, or take the image off the list",
    )  # fmt: skip


def _same_picture(a: FileScan, b: FileScan) -> bool:
    one, other = a.image.thumbs, b.image.thumbs
    return one is not None and other is not None and one.shape == other.shape and correlation(one, other) > 0.9
