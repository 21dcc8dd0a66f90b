"""Options of augmentation and of the patches of volumes. In a file without torch, so that a command line loads none."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Literal

from edgemt.contract import ADDED_LATER
from edgemt.data.corruptions import check_names

_OFF = {"blur": (0, 0)}  # ranges that are allowed though they hold 0
Preset = Literal["", "endoscopy", "mri", "ct", "ultrasound", "none"]


@dataclass(frozen=True)
class AugmentOptions:
    """Ranges are drawn uniformly; a width of 0 (or a factor of 1 to 1) switches a change off.

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
    """Standard deviation, pixels; 0 0 switches it off."""
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
    drop_channel: float = field(default=0.0, metadata=ADDED_LATER)
    """Of several `data.channel_names`: how often one whole channel of a labelled image or of a strong view is set to
    0 after normalisation, so that the network learns to do without it; never all of them. Also of 3-D teachers."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "corruptions":
                check_names(value)
            elif isinstance(value, tuple) and value != _OFF.get(f.name) and not _is_range(value):
                raise ValueError(f"augment.{f.name}: must be (low, high) with 0 < low <= high, not {value}")
            if isinstance(value, (int, float)) and value < 0:
                raise ValueError(f"augment.{f.name}: must not be negative, is {value}")
        shares = ("chance", "labelled_intensity", "cutout", "translate", "corrupt_strong", "corrupt_labelled")
        for name in (*shares, "drop_channel"):
            if getattr(self, name) > 1:
                raise ValueError(f"augment.{name}: must lie in 0 to 1, is {getattr(self, name)}")
        if self.padding not in ("zeros", "border", "reflection"):
            raise ValueError(f"augment.padding: {self.padding!r} is none of zeros, border, reflection")


def _is_range(value: tuple[float, ...]) -> bool:
    return len(value) == 2 and 0 < value[0] <= value[1]


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
