"""Options of data sets: where images are, how they are split and read. Loads no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgemt.contract import ADDED_LATER, LabelRules
from edgemt.io.bit_depth import Depth, Rule
from edgemt.io.channels import check_names as check_channel_names
from edgemt.io.channels import planes_of
from edgemt.io.class_regions import MAX_OVERLAPPING
from edgemt.io.geometry import is_order
from edgemt.io.mask_rule import MaskValues

Layout = Literal["auto", "pairs", "clips", "volumes", "decathlon", "h5", "phantom", "phantom_volumes"]


@dataclass(frozen=True)
class DataOptions:
    """Where the images are, how they are split and how they are read."""

    root: Path | None = None
    layout: Layout = "auto"
    labelled: str = ""
    """A list file, a count ("80") or a share ("0.1") of the patients; empty takes every image with a mask."""
    unlabelled: str = ""
    """A further folder of images without masks."""
    val: str = ""
    """A list file, a count or a share; empty takes the val folder or val.txt."""
    val_in_training: bool = False
    """Train on the images of the validation list too, without their masks, as the left-atrium papers do."""
    classes: tuple[str, ...] = ("background", "polyp")
    channels: Literal[1, 3] = 3
    """Of a case that is one file: 3 for colours, 1 for grey."""
    channel_names: tuple[str, ...] = field(default=(), metadata=ADDED_LATER)
    """Two or more: each case has one file a channel, in this order, such as t1 t2 or rgb depth (rgb has three planes).
    images/t1/CASE.png, images/CASE_t1.png, nnU-Net's CASE_0000.png and 4-D NIfTI files are found; docs/reading.md."""
    channel_depth: tuple[Rule, ...] = field(default=(), metadata=ADDED_LATER)
    """How each of `channel_names` becomes 8 bits, in their order; empty: `depth` for each by itself."""
    missing_channels: Literal["refuse", "mean"] = field(default="refuse", metadata=ADDED_LATER)
    """mean: a case may lack files of `channel_names`; such a channel is the mean of the data set, 0 once normalised."""
    size: tuple[int, int] = (256, 256)
    """Height and width of a frame, pixels."""
    slices: Literal[1, 3, 5] = 1
    """Neighbouring slices of a volume that a 2-D network sees as channels, its own in the middle; of
    each of `channel_names`, where they are given."""
    seed: int = 0
    labelled_seed: int | None = None
    """Seed of the draw where `labelled` is a count or a share; None: `seed`, which draws a counted `val` too."""
    folds: int = field(default=1, metadata=ADDED_LATER)
    """Above 1: so many 2-D teachers, each without one fold of the labelled patients; together they are the teacher."""
    fold_file: str = field(default="", metadata=ADDED_LATER)
    """The folds of those teachers by name: JSON with [{"train": [...], "val": [...]}, ...] as nnU-Net's
    splits_final.json, or a list of lists of the cases or patients of each fold; `folds` is then their number."""
    mask_threshold: int | None = None
    """Two classes: this value and above is class 1. None: decided by the values of all masks (0/1, 0/255 ...)."""
    label_map: tuple[str, ...] = field(default=(), metadata=ADDED_LATER)
    """VALUE=CLASS for the values of masks, such as 1=edema 2=core 4=core; 0 is the first class unless it is named.
    Several values may be one class; a value without a class is refused."""
    ignore: int | None = field(default=None, metadata=ADDED_LATER)
    """Pixels of this value in a mask count in no loss, no metric and no statistics."""
    overlapping: bool = field(default=False, metadata=ADDED_LATER)
    """Classes may overlap (multi-label, region-based training, sigmoid outputs), as the core of a tumour and all of it,
    or an instrument over an organ; at most 7 beside the background. Each has a folder of masks, masks/CLASS/NAME.png,
    or `label_map` gives a value of one mask to several: whole=1,2,3 core=1,3."""
    class_weights: tuple[float, ...] = field(default=(), metadata=ADDED_LATER)
    """A weight for each of `classes` in the losses with labels (cross-entropy and Dice); empty: 1 for each."""
    depth: Rule = "auto"
    """How images become 8 bits: stored, percentiles (0.5 and 99.5 of each), window; auto is decided by the set."""
    window: tuple[float, float] | None = None
    """LOW HIGH: these values of every image become 0 and 255."""
    axes: str = ""
    """Axis order that volumes are brought to, the slice axis last, such as RAS; empty: that of most files."""
    slice_axis: Literal[0, 1, 2] | None = None
    """Axis that volumes are cut along; None: the one with by far the largest spacing, else the last."""
    affines: Literal["compare", "ignore"] = "compare"
    """ignore: rely on the order of the voxels and ignore the headers of image and label."""
    patient_pattern: str = r"^(.*?)(?:[_-](?:frame|phase|t)\d+)?(?:[_-]slice[_-]?\d+)?$"
    """Regular expression whose first group is the patient in a file name; a patient stays in one part of the split."""
    phantom: tuple[int, int, int] = (12, 160, 40)
    """Frames, or volumes, that are labelled, unlabelled and held out for validation, for the phantom layouts."""
    calibration: str = field(default="", metadata=ADDED_LATER)
    """A list of labelled cases, of patients that neither train nor validate, on which the margins of the contours are
    fitted (of the phantom layouts a count); empty: the ship makes no claim about its contours."""
    calibration_share: float = field(default=0.0, metadata=ADDED_LATER)
    """This share of the validation patients calibrates instead, and validation figures are of the rest."""

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"data.classes: need background and at least one other name, each once: {self.classes}")
        if self.channels not in (1, 3):
            raise ValueError(f"data.channels: must be 1 or 3, not {self.channels}")
        if self.fold_file and self.folds == 1:
            raise ValueError(f"data.fold_file: {self.fold_file} names folds; give their number with --data.folds")
        if self.folds < 1:
            raise ValueError(f"data.folds: must be 1 (no folds) or more, not {self.folds}")
        if self.slices not in (1, 3, 5):
            raise ValueError(f"data.slices: must be 1, 3 or 5, not {self.slices}")
        if self.slices > 1 and self.channels != 1 and not self.channel_names:
            raise ValueError(
                f"data.slices: {self.slices} neighbouring slices need data.channels 1, not {self.channels}"
            )
        self._check_channels()
        if self.overlapping:
            self._check_overlapping()
        elif self.mask_values.stated:
            self.mask_values.indices(self.classes)
        weights = self.class_weights
        if weights and (len(weights) != len(self.classes) or min(weights) < 0 or not sum(weights[1:])):
            raise ValueError(
                f"data.class_weights: needs {len(self.classes)} numbers of 0 or more, one for each of data.classes and "
                f"not all 0, not {weights}"
            )
        if len(self.size) != 2 or min(self.size) < 8:
            raise ValueError(f"data.size: must be (height, width), each at least 8, not {self.size}")
        if self.mask_threshold is not None and len(self.classes) != 2 and not self.class_folders:
            raise ValueError(f"data.mask_threshold: only for 2 classes, data.classes has {len(self.classes)}")
        Depth("auto" if self.depth == "auto" else self.depth, self.window)
        if self.window is not None and self.depth in ("stored", "percentiles"):
            raise ValueError(f"data.window: data.depth {self.depth} takes none; leave one of them out")
        if self.axes and not is_order(self.axes):
            raise ValueError(f"data.axes: {self.axes!r} is no order of three axes; RAS, LPS, RSA are some")
        if self.axes and self.slice_axis is not None:
            raise ValueError("data.slice_axis: data.axes has the slice axis last; leave one of them out")
        if self.affines == "ignore" and self.axes and set(self.axes) != set("ijk"):
            raise ValueError(f"data.axes: {self.axes} needs the headers that data.affines ignores; leave one out")
        if not 0 <= self.calibration_share < 1:
            raise ValueError(f"data.calibration_share: must lie in 0 to 1, is {self.calibration_share}; 0.5 is usual")
        if self.calibration and self.calibration_share:
            raise ValueError("data.calibration_share: data.calibration names the cases; leave one of them out")
        if len(self.phantom) != 3 or min(self.phantom) < 0 or min(self.phantom[0], self.phantom[2]) < 1:
            raise ValueError(f"data.phantom: needs labelled >= 1, unlabelled >= 0, val >= 1, not {self.phantom}")

    def _check_overlapping(self) -> None:
        if len(self.classes) > MAX_OVERLAPPING + 1:
            raise ValueError(
                f"data.overlapping: at most {MAX_OVERLAPPING} classes beside the background may overlap, data.classes "
                f"has {len(self.classes) - 1}; train two models"
            )
        if self.layout == "phantom_volumes" and not self.label_map:
            raise ValueError(
                f"data.overlapping: phantom_volumes has one value a voxel; state the values of each class: "
                f"--data.label-map {self.classes[1]}=1,2 ..."
            )
        if self.label_map:
            self.mask_values.indices(self.classes)

    def _check_channels(self) -> None:
        if not self.channel_names:
            if self.channel_depth or self.missing_channels != "refuse":
                raise ValueError(
                    "data.channel_names: empty, but other options of channels are given; name the channels"
                )
            return
        check_channel_names(self.channel_names)
        if self.slices > 1 and max(planes_of(self.channel_names)) > 1:
            raise ValueError(f"data.slices: a volume has no colours and {self.slices} slices none of rgb; set it to 1")
        if self.layout.startswith("phantom"):
            raise ValueError(f"data.channel_names: the layout {self.layout} draws one picture a case; leave them out")
        if self.channel_depth and len(self.channel_depth) != len(self.channel_names):
            raise ValueError(
                f"data.channel_depth: {len(self.channel_depth)} rules for {len(self.channel_names)} channels; give one "
                "for each of data.channel_names"
            )
        for rule in self.channel_depth:
            Depth(rule, self.window)

    @property
    def mask_values(self) -> MaskValues:
        """What is stated of the values of masks."""
        return MaskValues(self.label_map, self.ignore, self.overlapping)

    @property
    def class_folders(self) -> bool:
        """Whether each class has a mask file of its own, in a folder called as the class."""
        return self.overlapping and not self.label_map

    @property
    def outputs(self) -> int:
        """Logits of a pixel: overlapping classes have none for the background."""
        return len(self.classes) - self.overlapping

    @property
    def label_rules(self) -> LabelRules | None:
        """How labels count in losses; None where each pixel and class counts the same."""
        if self.ignore is None and not self.class_weights and not self.overlapping:
            return None
        return LabelRules(self.ignore is not None, self.class_weights, self.overlapping)

    @property
    def colour(self) -> bool:
        """Whether a frame is one RGB picture."""
        return self.channels == 3 and not self.channel_names

    @property
    def planes(self) -> tuple[int, ...]:
        """Planes of each channel of a case; one entry for a case that is one file."""
        return planes_of(self.channel_names) or (self.channels,)

    @property
    def frame_planes(self) -> tuple[int, ...]:
        """Planes of each of several channels in the frames of a 2-D network, neighbouring slices among them."""
        return tuple(count * self.slices for count in self.planes) if self.channel_names else ()

    @property
    def frame_channels(self) -> int:
        """K of the frames that a 2-D network gets."""
        return sum(self.planes) * self.slices

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        values = {key: str(v) if isinstance(v, Path) else v for key, v in dataclasses.asdict(self).items()}
        if not self.overlapping:
            del values["overlapping"]  # a card without it is one that earlier versions read
        return values

    @classmethod
    def from_dict(cls, raw: dict[str, Any], **changes: Any) -> DataOptions:
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = (set(raw) | set(changes)) - known
        if unknown:
            raise ValueError(f"data: unknown field {sorted(unknown)[0]!r}; known are {', '.join(sorted(known))}")
        values = {**raw, **changes}
        tuples = ("classes", "size", "phantom", "window", "channel_names", "channel_depth", "label_map")
        for key in (*tuples, "class_weights"):
            if values.get(key) is not None:
                values[key] = tuple(values[key])
        if values.get("root") is not None:
            values["root"] = Path(values["root"])
        return cls(**values)
