"""Summary of a data set: at most eight lines before a training, and the entry of a card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgemt.contract import Case
from edgemt.data.cohort import DatasetSplit
from edgemt.data.options import DataOptions
from edgemt.data.reading import Reading
from edgemt.data.slice_dataset import frame_spec
from edgemt.io.fourth_axis import STACKED, is_stacked
from edgemt.io.geometry import arranged_sizes
from edgemt.io.images import Header
from edgemt.io.volumes import geometry_of

_LINES = 8


def reading_of(cohort: DatasetSplit, options: DataOptions) -> Reading:
    """The rules for all files of a data set. Raises ValueError, naming the file, where none fits all of them."""
    return frame_spec(options).reading((*cohort.labelled, *cohort.unlabelled, *cohort.val, *cohort.calibration))


def as_decided(options: DataOptions, reading: Reading) -> DataOptions:
    """The options with the depth that was decided, of images or of each channel, for reading further files."""
    return replace(
        options, depth=reading.depth.rule, channel_depth=tuple(depth.rule for depth in reading.channel_depths)
    )


def on_card(options: DataOptions, cohort: DatasetSplit, reading: Reading) -> dict[str, Any]:
    """The options with the decided rules, so that a device reads its files in the same way."""
    decided: dict[str, Any] = {"depth": reading.depth.rule}
    if options.channel_names:
        decided["channel_depth"] = tuple(depth.rule for depth in reading.channel_depths)
    if cohort.axes:
        decided |= {"axes": cohort.axes, "slice_axis": None}
    return options.to_dict() | decided


def summary(cohort: DatasetSplit, options: DataOptions, reading: Reading) -> list[str]:
    """At most eight lines: who plays which part, by image and by patient; sizes, depth, axes; values of the masks."""
    if options.layout in ("phantom", "phantom_volumes"):
        parts = (cohort.labelled, cohort.unlabelled, cohort.val)
        more = f", {len(cohort.calibration)} calibrating" if cohort.calibration else ""
        return ["data: synthetic, {} labelled, {} unlabelled, {} validating{} frames".format(*map(len, parts), more)]
    cases = (*cohort.labelled, *cohort.unlabelled, *cohort.val)
    lines = [f"data: {options.root}", _parts(cohort, options), _pictures(cases, reading)]
    if options.channel_names:
        lines.append(_channels(cases, options, reading))
    lines += _places(cases, cohort, options)
    lines.append(reading.masks.text + _shares(reading))
    notes = [*cohort.notes, *reading.notes]
    room = _LINES - len(lines)
    if len(notes) > room:
        notes = [*notes[: room - 1], "; ".join(notes[room - 1 :])]
    lines = [lines[0], *(f"  {line}" for line in lines[1:] if line), *(f"  note: {note}" for note in notes)]
    return lines


def _shares(reading: Reading) -> str:
    """How much of the masks each class but the background covers: masks the wrong way round show here."""
    named = list(zip(reading.masks.classes, reading.shares, strict=False))[1:6]
    return "".join(f"; {name} {100 * share:.2g} %" for name, share in named) + (" of the pixels" if named else "")


def _parts(cohort: DatasetSplit, options: DataOptions) -> str:
    volumes = any(case.slice is not None for case in cohort.labelled)
    texts = []
    for name in ("labelled", "unlabelled", "val", *(("calibration",) if cohort.calibration else ())):
        cases: Sequence[Case] = getattr(cohort, name)
        files, groups = len({case.image for case in cases}), len({case.patient for case in cases})
        kind = "volumes" if volumes or (cases and cases[0].axes) else "images"
        slices = f" ({len(cases)} slices)" if volumes else ""
        shown = {"val": "validating", "calibration": "calibrating"}.get(name, name)
        texts.append(f"{shown} {files} {kind}{slices} of {groups} {'patient' if groups == 1 else 'patients'}")
    if options.val_in_training:
        end = "validating images train too, without their masks (val_in_training)"
    else:
        end = "no validating patient trains"
    return "; ".join((*texts, end))


def _pictures(cases: Sequence[Case], reading: Reading) -> str:
    headers = list(reading.headers.values())
    if headers:
        text = f"images: {_sizes([h.size[::-1] if h.orientation > 4 else h.size for h in headers])}, {_modes(headers)}"
    else:
        text = f"volumes: {_sizes([geometry_of(path).shape for path in dict.fromkeys(c.image for c in cases)])}"
    return text if reading.channel_depths else f"{text}; depth: {reading.depth}"


def _channels(cases: Sequence[Case], options: DataOptions, reading: Reading) -> str:
    """Names, order and depth of the channels, and how many cases lack each."""
    each = {case.image: case.channels for case in cases}.values()
    stacked = sum(map(is_stacked, each))
    texts = []
    for k, (name, planes) in enumerate(zip(options.channel_names, options.planes, strict=True)):
        lacking = sum(not files[k] for files in each)
        text = f"{name}" + (" (3 planes)" if planes == 3 else "") + f" {reading.channel_depths[k]}"
        texts.append(text + (f", missing in {lacking} of {len(each)}" if lacking else ""))
    end = f"; {stacked} of {len(each)} {STACKED}" if stacked else ""
    return f"channels: {len(texts)} in this order: {'; '.join(texts)}{end}"


def _modes(headers: Sequence[Header]) -> str:
    counts = Counter(f"{h.mode} {'deep' if h.deep else '8 bit'}" if h.deep else h.mode for h in headers)
    return ", ".join(mode if len(counts) == 1 else f"{mode} ({n})" for mode, n in counts.most_common(4))


def _sizes(shapes: Sequence[tuple[int, ...]]) -> str:
    low = [min(s[k] for s in shapes) for k in range(len(shapes[0]))]
    high = [max(s[k] for s in shapes) for k in range(len(shapes[0]))]
    texts = [" x ".join(map(str, side)) for side in (low, high)]
    return texts[0] if low == high else f"{texts[0]} to {texts[1]}"


def _places(cases: Sequence[Case], cohort: DatasetSplit, options: DataOptions) -> list[str]:
    """Axis orders and spacing of NIfTI volumes."""
    paths = [path for path in dict.fromkeys(case.image for case in cases) if path.lower().endswith((".nii", ".nii.gz"))]
    if not paths:
        return []
    found = [geometry_of(path) for path in paths]
    codes = Counter(geometry.codes or "unstated" for geometry in found)
    shown = ", ".join(code if len(codes) == 1 else f"{code} ({n})" for code, n in codes.most_common(4))
    spacings = [
        arranged_sizes(geometry.spacing_mm, geometry.codes, cohort.axes)
        for geometry in found
        if geometry.spacing_mm is not None
    ]
    text = f"axes: {shown}, read as {cohort.axes or 'stored'}, slices along the last"
    if spacings:
        low, high = ([f(s[k] for s in spacings) for k in range(3)] for f in (min, max))
        texts = [" x ".join(f"{v:.4g}" for v in side) for side in (low, high)]
        text += f"; voxels {texts[0]}" + ("" if low == high else f" to {texts[1]}") + " mm"
    if options.affines == "ignore":
        text += "; headers of image and label not compared"
    return [text]
