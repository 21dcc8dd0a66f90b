"""A recipe for a data folder: which of the measured recipes, and the fields that the data decide, each with a reason.

`edgemt data` writes it as recipe.json, `edgemt run auto --data.root DIR` makes the same one anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgemt.data.options import DataOptions
from edgemt.data_report.checks import size_that_keeps
from edgemt.data_report.listing import Item, Listing
from edgemt.data_report.mask_values import Meaning
from edgemt.data_report.scan import FileScan, is_grey, read_flat_or_deep
from edgemt.io.images import read_image
from edgemt.io.volumes import volume_shape, volume_spacing

FORMAT = 1
LONGEST, MOST = 256, 512  # pixels of the longer side: to begin with, and where small objects need more
_TURNED, _BOTH_WAYS = 0.05, 0.1  # upright and wide images, each more than a tenth of all: the frame is square
_STEP = 32  # the deepest stride of the encoders
_SAMPLE = 32  # images that are decoded to find out whether they have colours
_VANISHED = 0.01  # share of the objects that may vanish
_CT = -500.0  # a stored value below this is air in Hounsfield units
_SOFT_TISSUE = (-160.0, 240.0)
_ONE = ("single images", "several channels: each slice is a frame of its own; 3 or 5 give its neighbours")
_DEEP = 32  # slices from which on neighbours show the same structures


@dataclass(frozen=True)
class Suggestion:
    """A recipe in few fields. `data` are fields of `DataOptions`; paths are relative to its root."""

    base: str  # a recipe by name: networks, method, steps, pruning
    data: dict[str, Any]
    preset: str = ""  # of the augmentation; empty: the defaults
    rot90: bool = False
    per_image: bool = False
    supervised: bool = False  # no unlabelled images: nothing to learn from but labels
    root: str = ""  # the folder, absolute
    reasons: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values with the format's number; `from_json` reads them."""
        return {"edgemt_suggestion": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], *, source: str) -> Suggestion:
        """Raises ValueError, naming the file, for anything but a suggestion of this format."""
        if not isinstance(raw, Mapping) or raw.get("edgemt_suggestion") != FORMAT:
            raise ValueError(f"{source}: is no recipe.json of edgemt data (format {FORMAT}); make it again with it")
        known = {k: v for k, v in raw.items() if k != "edgemt_suggestion"}
        try:
            return cls(**known)
        except TypeError as error:
            raise ValueError(f"{source}: is no recipe of edgemt data ({error}); make it again") from None


def first_size(listing: Listing) -> tuple[int, int]:
    """The median size of the files, its longer side at most 256 pixels, in steps of 32.

    Square where images of both orientations are there.
    """
    sides = np.array([_sides(listing, item) for item in listing.items] or [(LONGEST, LONGEST)])
    rows, columns = np.median(sides, axis=0)
    aspect = sides[:, 0] / sides[:, 1]
    if min((aspect > 1 + _TURNED).mean(), (aspect < 1 - _TURNED).mean()) > _BOTH_WAYS:
        rows = columns = max(rows, columns)
    scale = min(1.0, LONGEST / max(rows, columns))
    height, width = (max(2 * _STEP, round(side * scale / _STEP) * _STEP) for side in (rows, columns))
    return int(height), int(width)


def _sides(listing: Listing, item: Item) -> tuple[int, int]:
    header = listing.headers.get(item.image)
    if header is not None:
        rows, columns = header.size[::-1] if header.orientation > 4 else header.size
        return rows, columns
    shape = volume_shape(item.image, axes=item.axes)
    return shape[0], shape[1]


def has_colour(listing: Listing) -> bool:
    """Whether an image of a sample has three channels that differ."""
    frames = [item for item in listing.items if item.is_frame and listing.headers[item.image].mode not in ("L", "1")]
    for item in _sample(frames):
        try:
            array = read_image(item.image)
        except ValueError:
            continue
        if array.ndim == 3 and not is_grey(array):
            return True
    return False


def _sample(items: Sequence[Item], count: int = _SAMPLE) -> list[Item]:
    rows = np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)
    return [items[i] for i in dict.fromkeys(rows.tolist())]


def is_ct(listing: Listing) -> bool:
    """Whether volumes hold values below -500, as Hounsfield units of air are."""
    for item in _sample([item for item in listing.items if not item.is_frame], 4):
        try:
            if float(read_flat_or_deep(item).min()) < _CT:
                return True
        except ValueError:
            continue
    return False


def suggest(listing: Listing, scans: Sequence[FileScan], meaning: Meaning, *, given: frozenset[str]) -> Suggestion:
    """The recipe for a folder. Fields of `given` were set by the user and stay as they are."""
    options, reasons = listing.options, dict[str, str]()
    volumes = [item for item in listing.items if not item.is_frame]
    data: dict[str, Any] = {"layout": options.layout, "classes": list(meaning.classes)}
    reasons["classes"] = "as given" if "classes" in given else _source_of_classes(options, meaning)
    data |= _label_options(options, given, reasons)
    data["labelled"], data["val"] = options.labelled, options.val
    if options.labelled:
        reasons["labelled"] = "as given" if "labelled" in given else f"{options.labelled} is in the folder"
    if options.val and "val" not in given:
        reasons["val"] = f"there is no validation part: {options.val} of the patients are drawn"
    data["size"], reasons["size"] = _size(listing, scans, given)
    names = options.channel_names
    colour = options.channels == 3 if "channels" in given else bool(has_colour(listing))
    colour = colour and not names
    data["channels"] = 3 if colour else 1
    reasons["channels"] = "as given" if "channels" in given else "images have colours" if colour else "images are grey"
    data["slices"], reasons["slices"] = _slices(volumes) if volumes and not names else (1, _ONE[bool(volumes)])
    if names:
        data["channel_names"], reasons["channel_names"] = list(names), "one file each, in this order"
    ct = bool(volumes) and "depth" not in given and options.window is None and is_ct(listing)
    if ct:
        data |= {"depth": "window", "window": list(_SOFT_TISSUE)}
        reasons["depth"] = "values below -500 are air of CT: a soft-tissue window; for lung or bone give data.window"
    for name in _PASSED_ON:
        if name in given:
            data[name], reasons[name] = _plain(getattr(options, name)), "as given"
    mri = bool(volumes) and not ct
    preset, why = _preset(colour=colour, ct=ct, mri=mri)
    deep = data["slices"] > 1
    base = "kvasir_cpu" if colour else "la_cpu" if deep else "acdc_cpu"
    unlabelled = sum(item.part == "unlabelled" for item in listing.items)
    reasons |= {
        "base": f"{base} is measured on {_MEASURED[base]} (docs/results.md)",
        "preset": why,
        "per_image": "grey values of MRI have no unit" if mri else "grey values are comparable between images",
        "teacher": "EfficientNet-Lite2 with ImageNet weights"
        + ("" if unlabelled else "; there are no unlabelled images: supervised"),
        "student": "EfficientNet-Lite0 with ImageNet weights, distilled from the teacher",
    }
    square = data["size"][0] == data["size"][1]
    return Suggestion(
        base,
        data,
        preset,
        rot90=preset == "mri" and square,
        per_image=mri,
        supervised=not unlabelled,
        root=str(Path(str(options.root)).resolve()),
        reasons=reasons,
    )


_PASSED_ON = (
    *("mask_threshold", "axes", "slice_axis", "affines", "patient_pattern", "unlabelled", "depth", "window"),
    *("label_map", "missing_channels", "channel_depth", "class_weights", "folds", "fold_file", "seed"),
)


def _source_of_classes(options: DataOptions, meaning: Meaning) -> str:
    if options.label_map:
        return "those of data.label_map"
    return (
        "called as the folders of masks"
        if meaning.class_masks
        else (f"from the values of the masks ({meaning.rule.text})")
    )


def _label_options(options: DataOptions, given: frozenset[str], reasons: dict[str, str]) -> dict[str, Any]:
    """How labels are read beside their classes; `reasons` gets the reason of each."""
    data: dict[str, Any] = {}
    decathlon = options.layout == "decathlon"
    if options.ignore is not None:
        data["ignore"] = options.ignore
        found = "dataset.json has it" if decathlon else f"masks hold {options.ignore} beside class indices"
        reasons["ignore"] = "as given" if "ignore" in given else found
    if options.overlapping:
        data["overlapping"] = True
        found = "regions of dataset.json" if decathlon else "each class has a folder of masks"
        reasons["overlapping"] = "as given" if "overlapping" in given else found
    if options.label_map and "label_map" not in given:
        data["label_map"], reasons["label_map"] = list(options.label_map), "regions of dataset.json"
    return data


_MEASURED = {"kvasir_cpu": "colonoscopy frames", "acdc_cpu": "heart slices", "la_cpu": "atrium volumes"}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def _preset(*, colour: bool, ct: bool, mri: bool) -> tuple[str, str]:
    if colour:
        return "endoscopy", "colour frames: no direction is up, light and colour change"
    if ct:
        return "ct", "Hounsfield units are calibrated"
    if mri:
        return "mri", "grey volumes without Hounsfield units; CT that is stored otherwise needs --augment.preset ct"
    return "", "grey frames of an unknown modality: the defaults; --augment.preset ultrasound, mri or ct fit better"


def _slices(volumes: Sequence[Item]) -> tuple[int, str]:
    depth = int(np.median([volume_shape(item.image, axes=item.axes)[-1] for item in volumes]))
    if len(volume_shape(volumes[0].image, axes=volumes[0].axes)) == 2:
        return 1, "slices of single files"
    spacing = [s for item in _sample(volumes) if (s := volume_spacing(item.image, axes=item.axes)) is not None]
    ratio = float(np.median([s[2] / min(s[:2]) for s in spacing])) if spacing else 1.0
    if depth >= _DEEP and ratio <= 3:
        return 5, f"{depth} slices, {ratio:.1f} times as thick as wide: neighbours show the same structures"
    return 1, f"{depth} slices, {ratio:.1f} times as thick as wide by the header: each slice is a frame of its own"


def _size(listing: Listing, scans: Sequence[FileScan], given: frozenset[str]) -> tuple[list[int], str]:
    size = listing.options.size
    if "size" in given:
        return list(size), "as given"
    reason = f"the median image, its longer side at most {LONGEST}, in steps of {_STEP}"
    masks = [s.mask for s in scans if s.mask is not None]
    gone = [v for mask in masks for v in mask.vanished]
    lost, objects = sum(m.num_vanished for m in masks), max(1, sum(m.objects for m in masks))
    if lost / objects <= _VANISHED:
        return list(size), reason
    wanted = size_that_keeps(gone)
    scale = min(max(w / s for w, s in zip(wanted, size, strict=True)), MOST / max(size))
    larger = [int(np.ceil(side * scale / _STEP)) * _STEP for side in size]
    if larger <= list(size):
        return list(size), reason
    return larger, f"{lost} of {objects} small objects would vanish at {size[0]} x {size[1]}"
