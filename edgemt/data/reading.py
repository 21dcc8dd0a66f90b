"""Rules for reading the files of one data set, decided from all files before the first is used.

Masks: `edgemt.io.masks`. Bit depth: `edgemt.io.bit_depth`. EXIF: images are turned upright, and with them masks that
fit only the image as it is stored. The axis order of volumes is on each case (`Case.axes`).

Shapes: H W size in pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgemt.contract import Case
from edgemt.data import phantom3d
from edgemt.data.same_grid import check_channels
from edgemt.data.slice_masks import read_slice_masks
from edgemt.io import file_types, process_rank
from edgemt.io.bit_depth import Depth, Rule, decide
from edgemt.io.class_regions import in_class
from edgemt.io.geometry import arranged, says_nothing
from edgemt.io.images import Header, image_header, upright
from edgemt.io.mask_files import Evidence, MaskFile, of_array, read_mask
from edgemt.io.mask_rule import MaskValues, overlapping_bits
from edgemt.io.mask_rule import Rule as MaskRule
from edgemt.io.masks import decide as decide_masks
from edgemt.io.volumes import geometry_of, is_deep, read_label_volume

_MAX_CACHED = 256 << 20  # bytes


@dataclass
class MaskCache:
    """Masks that were decoded to find the rules, kept in memory until their first use."""

    free_bytes: int = _MAX_CACHED
    arrays: dict[str, MaskFile] = field(default_factory=dict)

    def put(self, path: str, mask: MaskFile) -> None:
        if mask.array.nbytes <= self.free_bytes:
            self.free_bytes -= mask.array.nbytes
            self.arrays[path] = mask

    def take(self, path: str) -> MaskFile | None:
        found = self.arrays.pop(path, None)
        self.free_bytes += found.array.nbytes if found is not None else 0
        return found


@dataclass(frozen=True)
class Reading:
    """The rules of a data set. `masks_as_stored`: masks have the orientation of the stored image, before EXIF."""

    masks: MaskRule
    depth: Depth = Depth()
    masks_as_stored: bool = False
    compare: bool = True  # check that the headers of label and image state the same position
    notes: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()  # fraction of the pixels of all masks, for each class
    headers: dict[str, Header] = field(default_factory=dict, repr=False, compare=False)
    decoded: MaskCache = field(default_factory=MaskCache, repr=False, compare=False)
    channel_depths: tuple[Depth, ...] = ()  # of a case of several channels: the rule of each
    class_masks: tuple[MaskRule, ...] = ()  # of overlapping classes with a mask file each: the rule of each

    def class_indices(self, case: Case) -> np.ndarray:
        """uint8 class indices of a case, or of the volume of a slice; bits of overlapping classes."""
        if not case.labels:
            return self.masks.indices(self.mask(case))
        return overlapping_bits(self.class_masks, [self.mask(one) for one in each_label(case)])

    def mask(self, case: Case) -> MaskFile:
        """The mask of a case, or of the volume of a slice, upright and in the case's axis order."""
        path = str(case.label)
        found = self.decoded.take(path) or decode_mask(case, compare=self.compare)
        if not self.masks_as_stored or case.slice is not None or not file_types.is_image(case.image):
            return found
        header = self.headers.get(case.image) or image_header(case.image)
        return MaskFile(upright(found.array, header.orientation), found.evidence)


def decide_reading(
    cases: Sequence[Case],
    *,
    classes: tuple[str, ...],
    mask_threshold: int | None = None,
    depth: Rule = "auto",
    window: tuple[float, float] | None = None,
    compare: bool = True,
    channel_names: tuple[str, ...] = (),
    channel_depth: tuple[Rule, ...] = (),
    values: MaskValues = MaskValues(),
) -> Reading:
    """The rules that fit all `cases`: masks of those that have a label, headers of all images.

    The channels of a case must lie on one grid; each channel has a depth rule of its own.
    Raises ValueError in one line, naming the file, where no rule fits all of them.
    """
    images = {path: case for case in cases for path in case.files if not _phantom(path)}
    headers = {path: image_header(path) for path in images if file_types.is_image(path)}
    labels = {one.label: one for case in cases for one in each_label(case) if not _phantom(str(one.label))}
    evidence, decoded = {}, MaskCache()
    for path, case in labels.items():
        found = decode_mask(case, compare=compare)
        evidence[str(path)] = found.evidence
        decoded.put(str(path), found)
    class_rules, shares = _rules_of_classes(cases, evidence, classes, threshold=mask_threshold, values=values)
    if class_rules:
        rule = MaskRule(classes, text=class_rules[0].text.replace(";", " in each class folder;", 1))
    else:
        rule = decide_masks(list(evidence.values()), classes=classes, threshold=mask_threshold, values=values)
        shares = rule.shares(list(evidence.values()))
    is_deeper = {path: headers[path].deep if path in headers else is_deep(path) for path in images}
    deep = list(is_deeper.values())
    chosen = decide(depth, window, deep)
    check_channels(cases, headers, names=channel_names, compare=compare)
    channel_depths = tuple(
        decide(rule, window, [is_deeper[path] for path in dict.fromkeys(c.channels[k] for c in cases) if path])
        for k, rule in enumerate(channel_depth or (depth,) * len(channel_names))
    )
    shapes = {str(path): decoded.arrays[str(path)].array.shape for path in labels if str(path) in decoded.arrays}
    stored, notes = fit_stored_orientation(labels.values(), headers, shapes)
    if turned_masks := sum(one.turned for one in evidence.values()):
        notes += (f"EXIF: {turned_masks} masks turned upright by their own orientation",)
    if turned := _turned_slices(images.values()):
        notes += (f"EXIF: slices of {turned} volumes turned upright, their masks are taken as drawn on those",)
    if gaps := _slice_gaps(images.values()):
        notes += (f"slices are missing by the numbers in their names in {len(gaps)} volumes, first after {gaps[0]}",)
    if (unknown := _places_unknown(labels.values())) and compare:
        notes += (f"{unknown} labels or their images state no place, or the identity: read voxel by voxel",)
    if channel_depths:
        given = (shares, headers, decoded, channel_depths, class_rules)
        return Reading(rule, chosen, stored, compare, notes, *given)
    if chosen.rule == "percentiles" and not all(deep):
        notes += (
            f"{deep.count(False)} of {len(deep)} files have 8 bits, the others more: percentiles are taken of all",
        )
    if chosen.rule == "stored" and any(deep):
        notes += (f"{deep.count(True)} of {len(deep)} files have more than 8 bits: scaled by their own percentiles",)
    return Reading(rule, chosen, stored, compare, notes, shares, headers, decoded, (), class_rules)


def each_label(case: Case) -> tuple[Case, ...]:
    """The case with each of its mask files alone."""
    return tuple(replace(case, label=path, labels=()) for path in case.label_files)


def _rules_of_classes(
    cases: Sequence[Case],
    evidence: Mapping[str, Evidence],
    classes: tuple[str, ...],
    *,
    threshold: int | None,
    values: MaskValues,
) -> tuple[tuple[MaskRule, ...], tuple[float, ...]]:
    """(The rule of each overlapping class with mask files of its own, shares of pixels); empty where there are none."""
    files = [dict.fromkeys(paths) for paths in zip(*(c.labels for c in cases if c.labels), strict=True)]
    rules, shares = [], []
    for name, paths in zip(classes[1:], files, strict=False):
        own = [evidence[path] for path in paths]
        pair = (classes[0], name)
        rules.append(decide_masks(own, classes=pair, threshold=threshold, values=MaskValues((), values.ignore)))
        shares.append((*rules[-1].shares(own), 0.0, 0.0)[1])
    return tuple(rules), (1.0, *shares) if rules else ()


def decode_mask(case: Case, *, compare: bool) -> MaskFile:
    """The mask of a case as stored, or of the volume of a slice in the case's axis order, with its evidence.

    Raises ValueError, naming the file, for one that cannot be decoded, and with `compare` for one at another place.
    """
    path = str(case.label)
    if _phantom(path):
        return of_array(phantom3d.volume(phantom3d.seed_of(path))[1], path)
    flat = file_types.is_image(case.image) or (case.slice is None and file_types.is_h5(path) and _two_axes(path))
    if flat:
        return read_mask(path)
    if Path(path).is_dir():
        found = read_slice_masks(path, image=case.image)
        return replace(found, array=arranged(found.array, "", case.axes))
    array = read_label_volume(path, image=case.image, axes=case.axes, compare=compare)
    return of_array(array, path)


def _two_axes(path: str) -> bool:
    return len(geometry_of(path).shape) == 2


def _phantom(path: str) -> bool:
    return path.startswith(("phantom:", phantom3d.PREFIX))


def _slice_gaps(cases: Iterable[Case]) -> list[Path]:
    """Of volumes that are folders: the slice after which one is missing."""
    folders = [c.image for c in cases if not file_types.is_image(c.image) and file_types.is_slice_folder(c.image)]
    gaps = [file_types.slice_gap(file_types.slice_files(folder)) for folder in folders]
    return [path for path in gaps if path is not None]


def _turned_slices(cases: Iterable[Case]) -> int:
    """Number of volumes whose first slice is an image with an EXIF orientation."""
    folders = {case.image for case in cases if case.slice is not None and file_types.is_slice_folder(case.image)}
    return sum(image_header(file_types.slice_files(folder)[0]).orientation > 1 for folder in folders)


def _places_unknown(cases: Iterable[Case]) -> int:
    pairs = [
        (str(c.label), c.image) for c in cases if file_types.is_volume(c.image) and file_types.is_volume(str(c.label))
    ]
    places = [(geometry_of(label), geometry_of(image)) for label, image in pairs]
    return sum(bool(a.affines or b.affines) and (not b.affines or says_nothing(a, b)) for a, b in places)


def fit_stored_orientation(
    cases: Iterable[Case], headers: dict[str, Header], shapes: dict[str, tuple[int, ...]]
) -> tuple[bool, tuple[str, ...]]:
    """(whether masks fit only the images as stored, before EXIF, notes).

    headers: by image; shapes: [H, W] of each mask, by label. Raises ValueError where some do and others do not.
    """
    stored: list[Case] = []
    turned: list[Case] = []
    either: list[Case] = []
    for case in cases:
        header, shape = headers.get(case.image), shapes.get(str(case.label))
        if header is None or header.orientation == 1 or shape is None:
            continue
        quarter = header.orientation > 4 and header.size[0] != header.size[1]
        (either if not quarter else stored if shape == header.size else turned).append(case)
    turning = sum(header.orientation > 1 for header in headers.values())
    if not turning:
        return False, ()
    if stored and turned:
        raise ValueError(
            f"{stored[0].label}: fits its image as stored, {turned[0].label} fits its image turned by EXIF; "
            "draw all masks on the upright pictures, or take the EXIF orientation out of the images"
        )
    text = f"EXIF: {turning} images turned upright"
    if stored:
        return True, (f"{text}; {len(stored)} masks fit the unturned pictures and are turned with them",)
    if either and not turned:
        text += f"; the size of {len(either)} masks does not tell, they are taken as drawn on the upright pictures"
    return False, (text,)


def print_note(text: str) -> None:
    """Print a note on stderr, in the main process alone."""
    if process_rank.is_main_process():
        print(f"data: {text}", file=sys.stderr, flush=True)


@dataclass
class VanishedClasses:
    """Counts masks from which a class vanishes at the frame size, while a data set is loaded."""

    classes: tuple[str, ...]
    size: tuple[int, int]
    overlapping: bool = False
    cases: dict[int, list[str]] = field(default_factory=dict)  # class -> files
    smallest: dict[int, tuple[int, int]] = field(default_factory=dict)  # class -> frame size that keeps all of them

    def add(self, case: Case, truth: np.ndarray, fitted: np.ndarray) -> None:
        """Compare a label `truth` [H0, W0] with the same label at the frame size, `fitted` [H, W]."""
        if truth.shape[0] <= self.size[0] and truth.shape[1] <= self.size[1]:
            return
        for value in range(1, len(self.classes)):
            region = in_class(truth, value, overlapping=self.overlapping)
            if in_class(fitted, value, overlapping=self.overlapping).any() or not region.any():
                continue
            self.cases.setdefault(value, []).append(str(case.label))
            own = smallest_size(region.view(np.uint8), 1, size=self.size)
            self.smallest[value] = max(self.smallest.get(value, (0, 0)), own)

    def report(self, labels: np.ndarray, *, where: str) -> None:
        """Print which classes vanish from some masks. Raises ValueError for a class that is in none of `labels`."""
        left = _occurring(labels, len(self.classes), self.overlapping) if self.cases else set()
        for value, files in self.cases.items():
            size = " ".join(map(str, self.smallest[value]))
            text = (
                f"{self.classes[value]!r} vanishes from {len(files)} masks at data.size {self.size[0]} {self.size[1]}"
            )
            if value not in left:
                raise ValueError(f"{files[0]}: {text}, none is left to learn from; --data.size {size} keeps it")
            print_note(f"{text}, first {files[0]}; --data.size {size} keeps it")
        check_every_class_occurs(labels, self.classes, where=where, overlapping=self.overlapping)


def check_every_class_occurs(
    labels: np.ndarray, classes: tuple[str, ...], *, where: str, overlapping: bool = False
) -> None:
    """Raises ValueError for a class that occurs in none of `labels`."""
    found = _occurring(labels, len(classes), overlapping)
    missing = [name for value, name in enumerate(classes) if value not in found]
    if missing:
        raise ValueError(f"data.classes: {missing[0]!r} never occurs in the {where}; label an image of it or drop it")


def _occurring(labels: np.ndarray, classes: int, overlapping: bool) -> set[int]:
    """The class indices below `classes` that occur in `labels` [n, ...]. Stops at the first masks that have all.

    Overlapping classes have no background that could lack.
    """
    missing = set(range(int(overlapping), classes))
    for label in labels if labels.ndim > 1 else labels[None]:
        missing -= {value for value in missing if in_class(label, value, overlapping=overlapping).any()}
        if not missing:
            break
    return set(range(classes)) - missing


def smallest_size(truth: np.ndarray, value: int, *, size: tuple[int, int]) -> tuple[int, int]:
    """The smallest frame of the aspect of `size`, in steps of 32 pixels, at which class `value` of `truth` remains.

    Nearest-neighbour resizing keeps an object whose largest inscribed square is as wide as the step between samples.
    """
    inside = np.pad((truth == value).astype(np.int32).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    side = 1
    while side < min(truth.shape):
        k = side + 1
        if (inside[k:, k:] - inside[:-k, k:] - inside[k:, :-k] + inside[:-k, :-k]).max() < k * k:
            break
        side = k
    factor = max(n / side / s for n, s in zip(truth.shape, size, strict=True))
    return -int(-size[0] * factor // 32) * 32, -int(-size[1] * factor // 32) * 32
