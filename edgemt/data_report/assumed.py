"""What a data folder suggests where the user states nothing: a value to ignore, a folder of masks for each class."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from edgemt.data.cohort import channels_of
from edgemt.data.layouts.detect import find_class_folders
from edgemt.data.layouts.nnunet_labels import DatasetLabels
from edgemt.data.options import DataOptions
from edgemt.data_report.finding import Example, Finding
from edgemt.io.mask_files import Evidence

# kinds of findings that change what masks mean: printed by auto, too
ASSUMED = ("class_folders", "ignored_value", "dataset_labels")
_WHITE = 255
_FEW = 32  # values below this are class indices
_MOST = 0.5  # of the masks with 255: so many hold a class as well, else 255 is the white of other masks


def classes_of_map(label_map: Sequence[str]) -> tuple[str, ...]:
    """The class names of data.label_map in the order in which they are named, that of value 0 first.

    The first is `background` where 0 is not named. ("1=edema", "4=core") -> background, edema, core.
    """
    first, names = "background", dict[str, str]()
    for entry in label_map:
        left, _, right = (part.strip() for part in entry.partition("="))
        value, name = (left, right) if left.isdigit() else (right, left)
        if value.isdigit() and int(value) == 0:
            first = name
        names.setdefault(name.casefold(), name)
    return (first, *(name for key, name in names.items() if name and key != first.casefold()))


def with_class_folders(
    options: DataOptions, *, layout: str, classes_given: bool
) -> tuple[DataOptions, tuple[Finding, ...]]:
    """The options with `overlapping` and the classes where masks lie in a folder for each class, and a note on that.

    Raises ValueError where `overlapping` is stated and there are neither such folders nor values of classes.
    """
    if options.label_map or layout not in ("pairs", "volumes"):
        return options, ()
    root = Path(str(options.root))
    names, others = find_class_folders(root, layout=layout, channels=channels_of(options))
    if not names:
        if options.overlapping and not classes_given:
            raise ValueError(
                f"data.overlapping: {root} has no folder of masks for each class (masks/CLASS/NAME.png); add them, or "
                "state the values of each class: --data.label-map CLASS=1,3 ..."
            )
        return options, ()
    if classes_given:
        known = {_plain(name) for name in options.classes}
        spare = [path for name, path in names.items() if _plain(name) not in known]
    else:
        spare = []
        options = dataclasses.replace(options, overlapping=True, classes=("background", *names))
    findings = []
    if not options.overlapping:
        options = dataclasses.replace(options, overlapping=True)
    shown = ", ".join(name for name in options.classes[1:])
    text = f"each class has a folder of masks ({shown}): classes may overlap in a pixel"
    remedy = "taken as --data.overlapping; masks of which each pixel has one class belong in one file an image"
    findings.append(Finding("class_folders", "note", text, remedy))
    if spare or others:
        unread = [Example(str(path)) for path in (*spare, *others)]
        text = "a folder beside those of the classes is not read:" if len(unread) == 1 else (
            f"{len(unread)} folders beside those of the classes are not read"
        )  # fmt: skip
        remedy = "name its class in --data.classes, or move it away; masks in it need the names of the images"
        findings.append(Finding("unread_folders", "warning", text, remedy, tuple(unread)))
    return options, tuple(findings)


def with_dataset_labels(options: DataOptions, stated: DatasetLabels) -> tuple[DataOptions, tuple[Finding, ...]]:
    """The options with the classes, the regions and the ignored value of a dataset.json, and a note on the latter two.

    An ignored value that the user states stays, and is compared with the file where the masks are listed.
    """
    ignore = stated.ignore if options.ignore is None else options.ignore
    overlapping = options.overlapping or stated.overlapping
    options = dataclasses.replace(
        options, classes=stated.classes, label_map=stated.label_map, overlapping=overlapping, ignore=ignore
    )
    parts = [f"regions ({', '.join(stated.label_map)})"] if stated.regions else []
    parts += [f"{stated.ignore} for pixels without a label"] if stated.ignore is not None else []
    if not parts:
        return options, ()
    text = f"dataset.json has {' and '.join(parts)}"
    return options, (Finding("dataset_labels", "note", text, f"taken as {stated.flags}"),)


def _plain(name: str) -> str:
    return name.casefold().replace(" ", "_")


def probable_ignore(evidence: Sequence[Evidence], *, options: DataOptions, fixed: bool) -> int | None:
    """255 where masks hold it beside class indices 0 to K, as Cityscapes, VOC and nnU-Net mark what is not labelled.

    None where the user states what values mean, where 255 is the white of black and white masks, or where it may be.
    `fixed`: the classes are those of `options`, and K must be one of them.
    """
    if options.mask_values.stated or options.mask_threshold is not None:
        return None
    if any(one.lossy or one.kind in ("colour", "alpha") for one in evidence):
        return None
    values = {v for one in evidence for v in one.levels}
    top, classes = max(values - {_WHITE}, default=0), 2 if options.class_folders else len(options.classes)
    if _WHITE not in values or min(values) < 0 or not 0 < top < min(_FEW, classes if fixed else _FEW):
        return None
    white = [one for one in evidence if _WHITE in one.levels]
    both = [one for one in white if any(0 < v < _WHITE and _fills_area(one, v) for v in one.levels)]
    return _WHITE if len(both) >= _MOST * len(white) else None


def _fills_area(one: Evidence, value: int) -> bool:
    """Whether a value is more than the rim of a white object; a palette has no soft edges."""
    return one.kind == "palette" or value in one.regions


def ignored_value(value: int, evidence: Sequence[Evidence]) -> Finding:
    """The finding that a value is taken as ignore, with its share of the pixels."""
    top = max((v for one in evidence for v in one.levels if v != value), default=0)
    there = [one for one in evidence if value in one.levels]
    total = sum(sum(one.levels.values()) for one in evidence)
    share = sum(one.levels[value] for one in there) / total
    text = (
        f"{len(there)} of {len(evidence)} masks hold {value} beside the classes 0 to {top}: taken as pixels without a "
        f"label, {share:.1%} of all"
    )
    remedy = f"they count nowhere (--data.ignore {value}); if {value} is a class, name every value in --data.label-map"
    return Finding("ignored_value", "warning", text, remedy)
