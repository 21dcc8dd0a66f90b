"""Read a folder for the report: list it, decide what its masks mean, scan its files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgemt.data.options import DataOptions
from edgemt.data_report.assumed import ignored_value, probable_ignore
from edgemt.data_report.finding import SEVERITIES, Finding
from edgemt.data_report.listing import Item, Listing, list_folder
from edgemt.data_report.mask_values import Meaning, decide_class_masks, decide_meaning, guess_classes
from edgemt.data_report.scan import FileScan, MaskScan, ProgressCall, ScanOptions, scan_files, scan_mask
from edgemt.data_report.suggest import Suggestion, first_size, suggest
from edgemt.io.bit_depth import decide as decide_depth
from edgemt.io.mask_files import Evidence

_FIRST = 64  # masks that are read to guess what the values of all mean


@dataclass(frozen=True)
class Inspection:
    """A folder as it was read. `refused`: mask -> why its values have no meaning."""

    listing: Listing
    options: ScanOptions
    scans: tuple[FileScan, ...]
    refused: dict[str, str]
    given: frozenset[str]

    @property
    def meaning(self) -> Meaning:
        """How the values of masks become classes."""
        return self.options.meaning

    def suggestion(self) -> Suggestion:
        """The recipe for this folder."""
        return suggest(self.listing, self.scans, self.meaning, given=self.given)


def inspect_folder(
    options: DataOptions,
    *,
    given: frozenset[str],
    images: bool = True,
    workers: int = 0,
    progress: ProgressCall | None = None,
) -> Inspection:
    """Read every image and every mask that training may open; with `images=False` the masks alone.

    given: names of the fields of `options` that the user set; classes and size are found out otherwise. workers: 0
    takes every core. Raises ValueError, naming the folder, where nothing can be listed.
    """
    listing = list_folder(options, classes_given="classes" in given)
    if not listing.items:
        raise ValueError(f"{options.root}: no image of it can be read; {_first(listing.findings)}")
    if "size" not in given:
        listing = replace(listing, options=replace(listing.options, size=first_size(listing)))
    of = listing.options
    depth = decide_depth(of.depth, of.window, list(listing.deep.values()))
    first, _ = decide_meaning([], classes=("background", "object"), threshold=None)
    probe = ScanOptions(depth, first, of.size, of.affines == "compare", images=False)
    sample = _evidence(scan_files(_with_masks(listing.items, _FIRST), probe, workers=_workers(workers)))
    fixed = "classes" in given or of.layout == "decathlon" or bool(of.label_map) or of.class_folders
    meaning, _, _ = _meaning(of, sample, fixed=fixed)
    scanning = replace(probe, meaning=meaning, images=images)
    chosen = listing.items if images else tuple(item for item in listing.items if item.label is not None)
    scans = scan_files(chosen, scanning, workers=_workers(workers), progress=progress)
    final, refused, assumed = _meaning(of, _evidence(scans), fixed=fixed)
    scanning = replace(scanning, meaning=final)
    scans = [_read_again(scan, meaning, scanning, refused) for scan in scans]
    of = replace(of, classes=final.classes, ignore=final.values.ignore)
    listing = replace(listing, options=of, findings=(*listing.findings, *assumed))
    return Inspection(listing, scanning, tuple(scans), refused, given)


def _meaning(
    of: DataOptions, evidence: Sequence[tuple[Evidence, ...]], *, fixed: bool
) -> tuple[Meaning, dict[str, str], tuple[Finding, ...]]:
    """(what the values of masks mean, path -> why a file does not fit, what was assumed for it).

    evidence: that of the mask files of each item. fixed: the classes are those of the options.
    """
    files = [one for several in evidence for one in several]
    ignore = probable_ignore(files, options=of, fixed=fixed)
    assumed = () if ignore is None else (ignored_value(ignore, files),)
    ignore = of.ignore if ignore is None else ignore
    classes = of.classes if fixed else guess_classes(files, ignore=ignore)
    if of.class_folders:
        found = decide_class_masks(evidence, classes=classes, threshold=of.mask_threshold, ignore=ignore)
    else:
        values = replace(of.mask_values, ignore=ignore)
        found = decide_meaning(files, classes=classes, threshold=of.mask_threshold, values=values)
    return *found, assumed


def _first(findings: Sequence[Finding]) -> str:
    worst = sorted(findings, key=lambda found: SEVERITIES.index(found.severity))
    return worst[0].line if worst else "put images there"


def _workers(number: int) -> int:
    return number or os.cpu_count() or 1


def _with_masks(items: Sequence[Item], count: int) -> list[Item]:
    found = [item for item in items if item.label is not None]
    step = max(1, len(found) // count)
    return found[::step][:count]


def _evidence(scans: Sequence[FileScan]) -> list[tuple[Evidence, ...]]:
    return [s.mask.evidence for s in scans if s.mask is not None and s.mask.evidence]


def _read_again(scan: FileScan, before: Meaning, options: ScanOptions, refused: dict[str, str]) -> FileScan:
    """The scan of a mask by the final rule: the same one, unless the rule of the sample was another."""
    mask = scan.mask
    if mask is None or not mask.evidence:
        return scan
    if any(path in refused for path in scan.item.label_files):
        return replace(scan, mask=MaskScan(evidence=mask.evidence, shape=mask.shape))
    after = options.meaning
    same = before.thresholds == after.thresholds and (before.classes, before.values) == (after.classes, after.values)
    if same and mask.pixels and all(one.kind != "palette" for one in mask.evidence):
        return scan
    return replace(scan, mask=scan_mask(scan.item, options))
