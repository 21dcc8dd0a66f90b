"""Findings from the scans of single files: what cannot be read, what does not fit, what is unusual."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from edgemt.contract import Case
from edgemt.data.reading import fit_stored_orientation
from edgemt.data_report.finding import Example, Finding, Severity, finding
from edgemt.data_report.listing import Listing
from edgemt.data_report.mask_values import Meaning
from edgemt.data_report.scan import FileScan, Vanished
from edgemt.io.file_types import is_volume
from edgemt.io.volumes import geometry_of

FAR = 6.0  # robust deviations from the median (1.4826 times the median absolute deviation) that count as unusual
_INVERTED = 0.9  # share of an image that an object fills, where in most images it fills less than half
_OTHER_SIZE = 4.0  # times larger or smaller than the median image

Scans = Sequence[FileScan]


def check_files(listing: Listing, scans: Scans, meaning: Meaning, refused: dict[str, str]) -> list[Finding]:
    """Every finding that needs one file at a time, or the numbers of all."""
    return [
        *_unreadable(scans),
        *_geometry(listing, scans),
        *_values(scans, refused, meaning),
        *_vanished(listing, scans, meaning),
        *_classes(listing, scans, meaning),
        *_never_overlapping(scans, meaning),
        *_empty(scans),
        *_areas(scans),
        *_unusual(scans),
        *_spacing(listing),
    ]


def example(scan: FileScan, detail: str, *, slice_: int | None = None, of_mask: bool = False) -> Example:
    """An example that the page draws with the mask, where there is one."""
    item = scan.item
    shown = str(item.label) if of_mask else item.image
    return Example(shown, detail, item.image, item.label or "", slice_, axes=item.axes)


def _unreadable(scans: Scans) -> list[Finding]:
    images = [Example(s.item.image, s.image.error) for s in scans if s.image.error]
    bad = [s for s in scans if s.mask is not None and s.mask.error]
    elsewhere = [s for s in bad if s.mask is not None and "lies elsewhere" in s.mask.error]
    masks = [Example(str(s.item.label), s.mask.error) for s in bad if s.mask is not None and s not in elsewhere]
    places = [Example(str(s.item.label), s.mask.error) for s in elsewhere if s.mask is not None]
    return [
        *finding(
            "unreadable", "error", images, one="an image cannot be read:", several="{n} images cannot be read",
            remedy="replace or remove it; training stops there",
        ),
        *finding(
            "unreadable_mask", "error", masks, one="a mask cannot be read:", several="{n} masks cannot be read",
            remedy="replace it, or take its image off the list; training stops there",
        ),
        *finding(
            "mask_place", "error", places, one="a mask lies elsewhere than its image:",
            several="{n} masks lie elsewhere than their images",
            remedy="resample it onto its image, or give --data.affines ignore",
        ),
    ]  # fmt: skip


def _geometry(listing: Listing, scans: Scans) -> list[Finding]:
    """Masks of another size than their upright image."""
    masks = {str(s.item.label): s for s in scans if s.mask is not None and s.mask.shape and not s.image.error}
    cases = [Case(s.item.name, s.item.patient, s.item.image, label) for label, s in masks.items() if s.item.is_frame]
    shapes = {label: s.mask.shape for label, s in masks.items() if s.mask is not None}
    findings: list[Finding] = []
    try:
        stored, _ = fit_stored_orientation(cases, listing.headers, shapes)
    except ValueError as error:
        stored = False
        text, _, remedy = str(error).rpartition("; ")
        findings.append(Finding("orientation", "error", text, remedy))
    wrong = []
    for label, scan in masks.items():
        image = scan.image.shape[:2] if scan.item.is_frame else scan.image.shape
        if scan.item.is_frame and stored:
            image = listing.headers[scan.item.image].size
        if image and shapes[label] != tuple(image):
            theirs, ours = (" x ".join(map(str, shape)) for shape in (shapes[label], image))
            wrong.append(Example(label, f"{theirs}, its image is {ours}", scan.item.image, axes=scan.item.axes))
    return findings + finding(
        "mask_size", "error", wrong, one="a mask has another size than its image:",
        several="{n} masks have another size than their images",
        remedy="export it at the size of the image; training stops there",
    )  # fmt: skip


def _values(scans: Scans, refused: dict[str, str], meaning: Meaning) -> list[Finding]:
    examples = [
        replace(example(s, refused[path], of_mask=True), file=path)
        for s in scans
        for path in s.item.label_files
        if s.mask is not None and path in refused
    ]
    remedy = f"write 0 to {len(meaning.classes) - 1}, or name every class in --data.classes (now "
    remedy += f"{' '.join(meaning.classes)})"
    if meaning.class_masks:
        remedy = "write 0 and 1, or 0 and 255, in each class folder; a value to leave out is --data.ignore"
    elif meaning.values.stated:
        remedy = (
            f"name its class in --data.label-map (now {' '.join(meaning.classes)}), or write one of the known values"
        )
    return finding(
        "mask_values", "error", examples, one="a mask holds values that no class has:",
        several="{n} masks hold values that no class has",
        remedy=remedy,
    )  # fmt: skip


def _vanished(listing: Listing, scans: Scans, meaning: Meaning) -> list[Finding]:
    gone = [(s, v) for s in scans if s.mask is not None for v in s.mask.vanished]
    if not gone:
        return []
    size = listing.options.size
    keep = " ".join(map(str, size_that_keeps([v for _, v in gone])))
    number = sum(s.mask.num_vanished for s in scans if s.mask is not None)
    objects = max(1, sum(s.mask.objects for s in scans if s.mask is not None))
    whole = sum(v.whole_class for _, v in gone)

    def describe(v: Vanished) -> str:
        what = f"all of {meaning.classes[v.value]!r}" if v.whole_class else f"a part of {meaning.classes[v.value]!r}"
        where = "" if v.slice is None else f" in slice {v.slice}"
        return f"{what}{where}, {v.pixels} pixel{'s' * (v.pixels != 1)}, kept at {v.size[0]} {v.size[1]}"

    examples = [
        example(s, describe(v), slice_=v.slice, of_mask=True) for s, v in sorted(gone, key=lambda g: -g[1].pixels)
    ]
    text = (
        f"{number} of {objects} objects leave no pixel at data.size {size[0]} {size[1]}, {whole} of them all of a class"
    )
    text += ":" if len(examples) == 1 else ""
    severity: Severity = "warning" if whole else "note"
    return [Finding("vanished", severity, text, f"--data.size {keep} keeps nine in ten", tuple(examples))]


def size_that_keeps(gone: Sequence[Vanished], *, share: float = 0.9) -> tuple[int, int]:
    """The smallest of their sizes at which `share` of the vanished objects remain."""
    sizes = sorted(v.size for v in gone)
    return sizes[min(len(sizes) - 1, int(share * len(sizes)))]


def _classes(listing: Listing, scans: Scans, meaning: Meaning) -> list[Finding]:
    findings = []
    for part, severity, effect in (
        ("labelled", "error", "label an image of it or drop it from --data.classes; training stops otherwise"),
        ("val", "warning", "it gets no figure; put a patient with it on the validation list"),
    ):
        masks = [s.mask for s in scans if s.item.part == part and s.mask is not None and s.mask.pixels]
        for value, name in enumerate(meaning.classes):
            if meaning.overlapping and not value:
                continue  # no class of its own: it is where no other is
            if masks and not any(mask.pixels[value] for mask in masks):
                text = f"class {name!r} is in none of the {len(masks)} {part} masks"
                findings.append(Finding("missing_class", severity, text, effect))  # type: ignore[arg-type]
    return findings


def _never_overlapping(scans: Scans, meaning: Meaning) -> list[Finding]:
    """A note where classes may overlap and none does: then a softmax over one mask an image may be meant."""
    masks = [s.mask for s in scans if s.mask is not None and s.mask.pixels]
    twice = sum(sum(m.pixels) - m.counted for m in masks)
    if not meaning.overlapping or len(meaning.classes) < 3 or twice or not any(any(m.pixels[1:]) for m in masks):
        return []
    text = f"no pixel of the {len(masks)} masks has two classes, and they are read as classes that may overlap"
    remedy = "right where others could overlap; otherwise write one mask an image, with a value for each class"
    return [Finding("never_overlapping", "note", text, remedy)]


def _empty(scans: Scans) -> list[Finding]:
    examples = [
        example(s, "" if s.mask.counted else "all of it is ignored", of_mask=True)
        for s in scans
        if s.mask is not None and s.mask.pixels and not any(s.mask.pixels[1:])
    ]
    deep = any(
        not e.image.lower().endswith((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")) for e in examples
    )
    return finding(
        "empty_mask", "warning" if deep else "note", examples, one="a mask is empty:", several="{n} masks are empty",
        remedy="right where nothing is to be seen; otherwise draw it, or take the image off the list",
    )  # fmt: skip


def _areas(scans: Scans) -> list[Finding]:
    """Objects that fill nearly the whole image where most do not: often a mask with the values swapped."""
    masks = [(s, s.mask.share) for s in scans if s.mask is not None and s.mask.pixels]
    if not masks or float(np.median([share for _, share in masks])) > 0.5:
        return []
    full = [(s, share) for s, share in masks if share > _INVERTED]
    return finding(
        "full_mask", "warning", [example(s, f"{share:.0%} of the image", of_mask=True) for s, share in full],
        one="an object fills nearly the whole image:", several="in {n} masks an object fills nearly the whole image",
        remedy="check whether object and background are swapped",
    )  # fmt: skip


def _unusual(scans: Scans) -> list[Finding]:
    read = [s for s in scans if s.image.shape]
    findings = []
    for kind, value, unit in (
        ("brightness", lambda s: s.image.mean, "mean {:.0f} of 255, median {:.0f}"),
        ("contrast", lambda s: s.image.deviation, "deviation {:.0f} of 255, median {:.0f}"),
    ):
        found = _outliers(read, value, unit)
        findings += finding(
            f"unusual_{kind}", "note", found, one=f"an image has an unusual {kind}:",
            several=f"{{n}} images have an unusual {kind}",
            remedy=f"look at it; more than {FAR:g} robust deviations from the median",
        )  # fmt: skip
    sizes = np.array([float(np.prod(s.image.shape[:2])) ** 0.5 for s in read])
    middle = float(np.median(sizes)) if len(sizes) else 1.0
    odd = [s for s, side in zip(read, sizes, strict=True) if not 1 / _OTHER_SIZE <= side / middle <= _OTHER_SIZE]
    findings += finding(
        "unusual_size", "note", [example(s, " x ".join(map(str, s.image.shape[:2]))) for s in odd],
        one="an image has a very different size:", several="{n} images have a very different size",
        remedy="all frames become one size, so its objects look much larger or smaller than in training",
    )  # fmt: skip
    return findings


def _outliers(scans: Scans, value: Callable[[FileScan], float], unit: str) -> list[Example]:
    if len(scans) < 20:
        return []
    values = np.array([value(s) for s in scans])
    middle = float(np.median(values))
    spread = max(1.4826 * float(np.median(np.abs(values - middle))), 1.0)
    far = np.abs(values - middle) / spread
    return [example(scans[i], unit.format(values[i], middle)) for i in np.argsort(-far) if far[i] > FAR]


def _spacing(listing: Listing) -> list[Finding]:
    """Voxel sizes that are missing, or 1 mm in every file, which scripts write that drop the header."""
    volumes = [item for item in listing.items if not item.is_frame and is_volume(item.image)]
    sizes = [geometry_of(item.image).spacing_mm for item in volumes]
    unknown = sum(size is None for size in sizes)
    remedy = "distances are measured in voxels; write the true size into the headers if you need millimetres"
    if unknown:
        return [Finding("spacing", "note", f"{unknown} of {len(sizes)} volumes state no voxel size", remedy)]
    if sizes and all(size == (1.0, 1.0, 1.0) for size in sizes):
        text = f"all {len(sizes)} volumes state a voxel size of 1 x 1 x 1 mm, which often means that it is not known"
        return [Finding("spacing", "note", text, remedy)]
    return []
