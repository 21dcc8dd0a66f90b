"""Options of data sets, augmentation and patches. In a file without torch, so that a command line loads none."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from edgemt.contract import ADDED_LATER
from edgemt.data.corruptions import check_names
from edgemt.io.bit_depth import Depth, Rule
from edgemt.io.geometry import is_order

Preset = Literal["", "endoscopy", "mri", "ct", "ultrasound", "none"]


@dataclass(frozen=True)
class AugmentOptions:
    """Ranges are drawn uniformly; a width of 0 (or a range of 1 to 1) switches a change off.

    `--augment.preset NAME` sets every field to what suits a modality (`PRESETS`); further flags change single ones.
    """

    preset: Preset = ""
    """endoscopy, mri, ct, ultrasound or none: where the other fields come from, before flags of their own."""
    rotation: float = 25.0
    """Degrees, to either side."""
    scale: tuple[float, float] = (0.8, 1.25)
    translate: float = 0.08
    """Share of the side, to either side."""
    flip_horizontal: bool = True
    flip_vertical: bool = False
    rot90: bool = False
    """Quarter turns; only for square frames."""
    elastic: float = 0.02
    """Standard deviation of a smooth displacement, share of the side."""
    padding: Literal["zeros", "border", "reflection"] = "zeros"
    """What the image shows beyond its rim: its darkest value ("zeros"), its rim, or itself; with reflection the label
    is reflected too, otherwise it is background there."""
    strong: bool = True
    """Give the unlabelled rows a second view, same geometry, strong intensity."""
    labelled_intensity: float = 0.5
    """Share of the labelled rows whose intensity is changed too."""
    chance: float = 0.8
    """How often brightness, contrast, gamma, saturation and hue are changed; half of it for the rest."""
    brightness: tuple[float, float] = (0.5, 1.5)
    contrast: tuple[float, float] = (0.5, 1.5)
    gamma: tuple[float, float] = (0.6, 1.6)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 0.06
    """Turns of the colour wheel, to either side."""
    blur: tuple[float, float] = (0.3, 1.5)
    """Standard deviation, pixels."""
    noise: float = 0.08
    """Largest standard deviation, share of the full range."""
    cutout: float = 0.2
    """Largest side of a grey box in the strong view, share of the side."""
    corruptions: tuple[str, ...] = field(default=(), metadata=ADDED_LATER)
    """Corruptions that 2-D networks learn from: kinds (smoke, ghosting), modalities (endoscopy, mri), or auto: those
    of the preset or the kind of image. Random kind, severity 1 to 3; empty: none. `edgemt list corruptions`."""
    corrupt_strong: float = field(default=0.5, metadata=ADDED_LATER)
    """Share of the strong views of unlabelled images that get one of `corruptions`."""
    corrupt_labelled: float = field(default=0.25, metadata=ADDED_LATER)
    """Share of the labelled images that get one of `corruptions`."""
    corrupt_networks: Literal["student", "all"] = field(default="student", metadata=ADDED_LATER)
    """Which networks get `corruptions`: the student in distillation, pruning and INT8, or the teacher too."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "corruptions":
                check_names(value)
            elif isinstance(value, tuple) and (len(value) != 2 or not 0 < value[0] <= value[1]):
                raise ValueError(f"augment.{f.name}: must be (low, high) with 0 < low <= high, not {value}")
            if isinstance(value, (int, float)) and value < 0:
                raise ValueError(f"augment.{f.name}: must not be negative, is {value}")
        for name in ("chance", "labelled_intensity", "cutout", "translate", "corrupt_strong", "corrupt_labelled"):
            if getattr(self, name) > 1:
                raise ValueError(f"augment.{name}: must lie in 0 to 1, is {getattr(self, name)}")
        if self.padding not in ("zeros", "border", "reflection"):
            raise ValueError(f"augment.padding: {self.padding!r} is none of zeros, border, reflection")


NO_AUGMENT = AugmentOptions(
    rotation=0,
    scale=(1, 1),
    translate=0,
    flip_horizontal=False,
    elastic=0,
    strong=False,
    labelled_intensity=0,
)


# docs/training.md has the measurements behind endoscopy and mri; ct and ultrasound follow from how images are made.
PRESETS: dict[str, AugmentOptions] = {
    "none": replace(NO_AUGMENT, preset="none"),
    # A camera in a tube: no direction is up, distance changes size, light and colour change from frame to frame.
    "endoscopy": AugmentOptions(
        preset="endoscopy",
        rotation=90,
        scale=(0.75, 1.5),
        translate=0.1,
        flip_vertical=True,
        padding="reflection",
        labelled_intensity=0.8,
    ),
    # The scanner fixes scale and position: zoom, shift and bending cost up to ten points on heart slices.
    "mri": AugmentOptions(
        preset="mri",
        rotation=20,
        scale=(1, 1),
        translate=0,
        flip_vertical=True,
        rot90=True,
        elastic=0,
        padding="reflection",
        cutout=0,
    ),
    # Hounsfield units are calibrated: intensity changes stay small, the patient lies one way up.
    "ct": AugmentOptions(
        preset="ct",
        rotation=15,
        scale=(0.9, 1.1),
        translate=0.05,
        flip_horizontal=False,
        elastic=0.01,
        brightness=(0.9, 1.1),
        contrast=(0.85, 1.15),
        gamma=(0.8, 1.25),
        blur=(0.3, 1.0),
        noise=0.05,
        cutout=0,
    ),
    # The probe is at the top: no vertical flip and no large turn; gain, depth and speckle vary.
    "ultrasound": AugmentOptions(
        preset="ultrasound",
        rotation=15,
        scale=(0.8, 1.25),
        translate=0.08,
        elastic=0.01,
        gamma=(0.5, 2.0),
        noise=0.12,
        cutout=0.15,
    ),
}


@dataclass(frozen=True)
class VolumeOptions:
    """Patches that a 3-D network learns from, and the windows it answers in. Lengths are voxels at `scale`."""

    patch: tuple[int, int, int] = (112, 112, 80)
    """X, Y, Z of what the network sees at once; smaller volumes are padded with their darkest value."""
    scale: float = 1.0
    """Resolution of the 3-D network as a share of the file's."""
    stride: tuple[int, int, int] = (56, 56, 40)
    """Between windows, in validation and wherever the teacher labels."""
    report_stride: tuple[int, int, int] = (18, 18, 4)
    """Between windows for the final figures; (18, 18, 4) is the stride of the left-atrium papers."""
    blend: Literal["constant", "gaussian"] = "constant"
    """How overlapping windows are averaged: with equal weights, or with the largest weight in the middle."""
    largest_component: bool = False
    """Keep the largest connected part of each class of a final mask."""
    flip: bool = True
    """Along the first two axes, each by chance."""
    turn: bool = True
    """Quarter turns about the last axis; half turns only where the patch is not square."""
    foreground: float = 0.0
    """Share of the labelled patches that are centred on a voxel of some class other than background."""
    strong: bool = True
    """Give the unlabelled rows a second view, same geometry, changed intensity."""
    labelled_intensity: float = 0.0
    """Share of the labelled rows whose intensity is changed too."""
    brightness: tuple[float, float] = (0.7, 1.3)
    contrast: tuple[float, float] = (0.65, 1.5)
    gamma: tuple[float, float] = (0.7, 1.5)
    noise: float = 0.1
    """Largest standard deviation, share of the full range."""

    def __post_init__(self) -> None:
        for name in ("patch", "stride", "report_stride"):
            value = getattr(self, name)
            if len(value) != 3 or min(value) < 1:
                raise ValueError(f"volume.{name}: must be three whole numbers of at least 1, is {value}")
            if name != "patch" and any(step > side for step, side in zip(value, self.patch, strict=True)):
                raise ValueError(f"volume.{name}: {value} leaves gaps between windows of volume.patch {self.patch}")
        if not 0.1 <= self.scale <= 4:
            raise ValueError(f"volume.scale: must lie in 0.1 to 4, is {self.scale}")
        if self.blend not in ("constant", "gaussian"):
            raise ValueError(f"volume.blend: {self.blend!r} is neither constant nor gaussian")
        for name in ("foreground", "labelled_intensity", "noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"volume.{name}: must lie in 0 to 1, is {getattr(self, name)}")
        for name in ("brightness", "contrast", "gamma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"volume.{name}: must be (low, high) with 0 < low <= high, not {(low, high)}")


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
    size: tuple[int, int] = (256, 256)
    """Height and width of a frame, pixels."""
    slices: Literal[1, 3, 5] = 1
    """Neighbouring slices of a volume that a 2-D network sees as channels, its own in the middle."""
    seed: int = 0
    labelled_seed: int | None = None
    """Seed of the draw where `labelled` is a count or a share; None: `seed`, which draws a counted `val` too."""
    folds: int = field(default=1, metadata=ADDED_LATER)
    """Above 1: so many 2-D teachers, each without one fold of the labelled patients; together they are the teacher."""
    mask_threshold: int | None = None
    """Two classes: this value and above is class 1. None: decided by the values of all masks (0/1, 0/255 ...)."""
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
        if self.folds < 1:
            raise ValueError(f"data.folds: must be 1 (no folds) or more, not {self.folds}")
        if self.slices not in (1, 3, 5):
            raise ValueError(f"data.slices: must be 1, 3 or 5, not {self.slices}")
        if self.slices > 1 and self.channels != 1:
            raise ValueError(
                f"data.slices: {self.slices} neighbouring slices need data.channels 1, not {self.channels}"
            )
        if len(self.size) != 2 or min(self.size) < 8:
            raise ValueError(f"data.size: must be (height, width), each at least 8, not {self.size}")
        if self.mask_threshold is not None and len(self.classes) != 2:
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

    @property
    def frame_channels(self) -> int:
        """K of the frames that a 2-D network gets."""
        return self.channels * self.slices

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        return {key: str(v) if isinstance(v, Path) else v for key, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, raw: dict[str, Any], **changes: Any) -> DataOptions:
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = (set(raw) | set(changes)) - known
        if unknown:
            raise ValueError(f"data: unknown field {sorted(unknown)[0]!r}; known are {', '.join(sorted(known))}")
        values = {**raw, **changes}
        for key in ("classes", "size", "phantom", "window"):
            if values.get(key) is not None:
                values[key] = tuple(values[key])
        if values.get("root") is not None:
            values["root"] = Path(values["root"])
        return cls(**values)
