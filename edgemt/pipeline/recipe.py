"""A recipe: a tree of frozen dataclasses, so that every field is a flag: `--student.schedule.steps 4000`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import teachers
from deploy.benchmark.bench import BenchOptions
from deploy.pruning.options import PruneOptions
from edgemt.contract import ADDED_LATER, UncertaintySource
from edgemt.data.augment_options import AugmentOptions, VolumeOptions
from edgemt.data.options import DataOptions
from edgemt.io.encoder_weights import FirstConv, Pretrained
from edgemt.learning.feature_term import FeatureTerm
from edgemt.methods import METHODS, Method
from edgemt.renamed_fields import renamed_fields
from edgemt.training.options import Schedule

STUDENT_PREFIX = "students/"  # teacher.network students/efficientnet_lite2: a student's network as the teacher
Control = Literal["teacher_supervised", "student_supervised", "student_no_distillation", "student_all_labels"]


@dataclass(frozen=True)
class TeacherOptions:
    """The full model, trained with few labels and many unlabelled images."""

    network: str = "unet"  # `edgemt list teachers`, or students/NAME (`edgemt list students`)
    widths: tuple[int, ...] = ()  # of the U-Net's stages; empty is the table's own
    filters: int = 0  # of the V-Net's first stage; 0 is the table's own
    norm: Literal["", "batch", "group", "instance"] = ""  # of the V-Net and the 3-D U-Net; empty is the table's own
    attention: Literal["", "none", "dual", "gate", "se", "dynamic"] = ""  # of U-Net and V-Net
    encoder: str = ""  # for smp/ networks
    decoder: str = "auto"  # of students/ networks
    pretrained: Pretrained = "never"
    encoder_weights: str = ""  # a safetensors file (or FILE#sha256=HEX): before packages, the hub's cache and the hub
    first_conv: FirstConv = "auto"  # how the encoder's RGB filters are fitted to grey images and neighbouring slices
    method: Method = field(default_factory=lambda: METHODS["cutmix_mt"])
    members: int = 1  # networks trained with seeds of their own; their mean probability is the teacher (2-D)
    flips: Literal[1, 2, 4] = 1  # views whose predictions the teacher averages: mirrored, upside down, both (2-D)
    resolution: float = field(default=1.0, metadata=ADDED_LATER)  # of students/ networks: as `student.resolution`
    schedule: Schedule = field(default_factory=Schedule)


@dataclass(frozen=True)
class StudentOptions:
    """The small model that ships: distilled from the teacher on every image."""

    network: str = "mobilenetv4_small"  # `edgemt list students`, or any timm encoder
    decoder: str = "auto"
    resolution: float = 1.0  # part of the frame's sides at which it works inside; frame and mask stay as they are
    pretrained: Pretrained = "if-available"
    encoder_weights: str = ""  # a safetensors file (or FILE#sha256=HEX): before packages, the hub's cache and the hub
    first_conv: FirstConv = "auto"  # how the encoder's RGB filters are fitted to grey images and neighbouring slices
    weights: str = ""  # first weights: zoo/NAME (`edgemt list zoo`), or a folder that `edgemt pack` wrote
    feature_teacher: str = ""  # a timm encoder whose features method.feature compares with, instead of the teacher's
    feature_teacher_weights: str = ""  # its .safetensors file; empty: a package, the hub's cache or the hub
    feature_teacher_size: int = 0  # pixels of the longer side of what it reads; 0: the frame's own
    warm_up_steps: int = 0  # steps in which the encoder alone learns the teacher's features, before the method begins
    method: Method = field(default_factory=lambda: METHODS["distillation"])
    schedule: Schedule = field(default_factory=Schedule)


@dataclass(frozen=True)
class PruneStage:
    """Structured pruning, then fine-tuning with the student's own method. `prune.share` 0 leaves the student whole.

    Where the result costs more than the tolerance: first `extra`, then each of `milder`, then the unpruned student.
    """

    prune: PruneOptions = field(default_factory=PruneOptions)
    batches: int = 8  # real batches whose gradients rank the channels
    schedule: Schedule = field(default_factory=lambda: Schedule(steps=1000, learning_rate=5e-4, validations=3))
    extra: float = 0.5  # a refused network is fine-tuned for so many more steps, as a share of schedule.steps; 0: none
    milder: tuple[float, ...] = (0.5,)  # then tried, as parts of prune.share, each with schedule.steps; empty: none

    def __post_init__(self) -> None:
        if self.extra < 0:
            raise ValueError(f"slim.extra = {self.extra}: a share of slim.schedule.steps, 0 or more, such as 0.5")
        if not all(0 < part < 1 for part in self.milder):
            raise ValueError(f"slim.milder = {self.milder}: parts of slim.prune.share, between 0 and 1, such as 0.5")


@renamed_fields(float_layers="kept", min_speedup="gain", fallback="otherwise")
@dataclass(frozen=True)
class Int8Stage:
    """INT8, calibrated on unlabelled images; where that costs more than the tolerance, `ladder` follows."""

    images: int = 200  # frames to calibrate on
    ladder: tuple[Literal["mixed", "distil"], ...] = ("mixed", "distil")  # what may be tried after calibration alone
    float_layers: int = 8  # most layers that "mixed" leaves in float, the most sensitive ones
    min_speedup: float = 1.0  # "mixed" ends where the graph is not more than so many times as fast as float on OpenVINO
    schedule: Schedule = field(  # of "distil": the student's own method, with simulated 8-bit rounding
        default_factory=lambda: Schedule(steps=600, learning_rate=2e-4, validations=3)
    )
    fallback: Literal["float", "stop"] = "float"  # none passes: ship half precision and float, or end with status 2


@dataclass(frozen=True)
class ContourOptions:
    """Margins of the outer and the inner contour, fitted where data.calibration or data.calibration_share is set."""

    alpha: float = 0.1  # share of patients in which each line may fail; 0.05: the pair holds in 90 of 100
    tolerance: float = 0.01  # share of the true area left out, or of false area, that still counts as covered

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1 or not 0 <= self.tolerance < 1:
            raise ValueError(f"contours: alpha {self.alpha:g} and tolerance {self.tolerance:g} must lie in 0 to 1")


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on."""

    name: str = "phantom"
    data: DataOptions = field(default_factory=DataOptions)
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    volume: VolumeOptions = field(default_factory=VolumeOptions)  # for a 3-D teacher
    per_image: bool = False  # normalise each frame by its own mean and deviation (MRI) instead of the set's
    normalise: Literal["auto", "data", "encoder"] = "auto"  # "auto": as the student's pretrained weights expect it
    teacher: TeacherOptions = field(default_factory=TeacherOptions)
    student: StudentOptions = field(default_factory=StudentOptions)
    slim: PruneStage = field(default_factory=PruneStage)
    int8: Int8Stage = field(default_factory=Int8Stage)
    bench: BenchOptions = field(default_factory=BenchOptions)
    contours: ContourOptions = field(default_factory=ContourOptions, metadata=ADDED_LATER)
    uncertainty: UncertaintySource = field(default="head", metadata=ADDED_LATER)
    """second output of the shipped graphs, the probability that the class of a pixel is wrong. softmax: 1 - max
    softmax, of any student, without training (of overlapping classes that of the least certain one); head: that of
    student.method.uncertainty, none for a student without"""
    tolerance: float = 0.01  # mean Dice that pruning, and then INT8, may cost; a worse file does not ship
    strict: bool = False  # end with status 2 where a gate refuses, instead of shipping something milder
    controls: tuple[Control, ...] = ()  # trained beside, same size and budget, for the table of the report
    seed: int = 0
    threads: int = 0  # CPU threads for training; 0 is every core


def student_method(of: StudentOptions) -> Method:
    """The student's method as its stages run it: features come from `feature_teacher` where one is named."""
    term = getattr(of.method, "feature", None)
    if not of.feature_teacher or not isinstance(term, FeatureTerm):
        return of.method
    return replace(of.method, feature=replace(term, source="backbone"))  # type: ignore[call-arg]


def learns_uncertainty(of: StudentOptions) -> bool:
    """Whether the student has an uncertainty head, which learns from the variance between the teachers of the bank."""
    return getattr(of.method, "uncertainty", 0.0) > 0


def uses_soft_label_bank(method: Method) -> bool:
    """Whether the method takes the teacher's predictions from disk instead of running its network."""
    return getattr(method, "teacher_source", getattr(method, "guide", "network")) == "bank"


def teacher_dims(name: str) -> int:
    """2 for a network of images, 3 for one of volumes; `students/NAME` is a student's network as a teacher."""
    return 2 if name.startswith(STUDENT_PREFIX) else teachers.dims(name)
