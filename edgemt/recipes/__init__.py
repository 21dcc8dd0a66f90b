"""A run is a Python function that returns a Recipe. A recipe of your own is `file.py:function`.

A recipe is a tree of frozen dataclasses, so every field of it is a flag: `--student.schedule.steps 4000`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import teachers
from deploy.benchmark.bench import BenchOptions
from deploy.pruning.options import PruneOptions
from edgemt.data.cohort import DataOptions
from edgemt.data.options import AugmentOptions, VolumeOptions
from edgemt.errors import unknown_name_message
from edgemt.io.encoder_weights import FirstConv, Pretrained
from edgemt.learning.feature_term import FeatureTerm
from edgemt.learning.roles import Frozen
from edgemt.methods import METHODS, Method
from edgemt.training.options import Schedule

STUDENT_PREFIX = "students/"  # teacher.network students/efficientnet_lite2: a student's network as the teacher
Control = Literal["teacher_supervised", "student_supervised", "student_no_distillation", "student_all_labels"]


@dataclass(frozen=True)
class Teacher:
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
    schedule: Schedule = field(default_factory=Schedule)


@dataclass(frozen=True)
class Student:
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
class Slim:
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


@dataclass(frozen=True)
class Int8:
    """Eight bits, calibrated on unlabelled images; where that costs more than the tolerance, a ladder is climbed."""

    images: int = 200  # frames to calibrate on
    ladder: tuple[Literal["mixed", "distil"], ...] = ("mixed", "distil")  # what may be tried after calibration alone
    kept: int = 8  # most layers that "mixed" leaves in float, the most sensitive ones
    gain: float = 1.0  # "mixed" ends where the graph is not more than so many times as fast as float on OpenVINO
    schedule: Schedule = field(  # of "distil": the student's own method, with eight bits in its way
        default_factory=lambda: Schedule(steps=600, learning_rate=2e-4, validations=3)
    )
    otherwise: Literal["float", "stop"] = "float"  # no rung passes: ship half precision and float, or end with status 2


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on."""

    name: str = "phantom"
    data: DataOptions = field(default_factory=DataOptions)
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    volume: VolumeOptions = field(default_factory=VolumeOptions)  # for a 3-D teacher
    per_image: bool = False  # normalise each frame by its own mean and deviation (MRI) instead of the set's
    normalise: Literal["auto", "data", "encoder"] = "auto"  # "auto": as the student's pretrained weights expect it
    teacher: Teacher = field(default_factory=Teacher)
    student: Student = field(default_factory=Student)
    slim: Slim = field(default_factory=Slim)
    int8: Int8 = field(default_factory=Int8)
    bench: BenchOptions = field(default_factory=BenchOptions)
    tolerance: float = 0.01  # mean Dice that pruning, and then INT8, may cost; a worse file does not ship
    strict: bool = False  # end with status 2 where a gate refuses, instead of shipping something milder
    controls: tuple[Control, ...] = ()  # trained beside, same size and budget, for the table of the report
    seed: int = 0
    threads: int = 0  # CPU threads for training; 0 is every core


Make = Callable[[], Recipe]


def _table() -> dict[str, Make]:
    from edgemt.recipes import acdc, kvasir, left_atrium, phantom

    return {
        "phantom": phantom.phantom,
        "acdc_cpu": acdc.acdc_cpu,
        "acdc_slices": acdc.acdc_slices,
        "acdc_methods": acdc.acdc_methods,
        "kvasir_cpu": kvasir.kvasir_cpu,
        "kvasir": kvasir.kvasir,
        "la_cpu": left_atrium.la_cpu,
        "la_vnet_cpu": left_atrium.la_vnet_cpu,
        "la": left_atrium.la,
        "phantom_volumes": phantom.phantom_volumes,
    }


RECIPES: dict[str, Make] = {}  # filled below, after Recipe exists for the files it names


def load(name: str) -> Recipe:
    """A recipe by name, or by `file.py:function`. Raises ValueError with the nearest name, or what is wrong."""
    if ".py:" in name:
        return _from_file(name)
    if name not in RECIPES:
        raise ValueError(unknown_name_message("recipe", name, RECIPES) + ", or write file.py:function")
    return RECIPES[name]()


def check(recipe: Recipe) -> None:
    """Raises ValueError when teacher, student and data do not speak of the same thing: frames, or volumes."""
    network, method = recipe.teacher.network, student_method(recipe.student)
    deep = teacher_dims(network) == 3
    if deep and recipe.data.layout in ("pairs", "phantom"):
        raise ValueError(
            f"teacher.network: {network} needs volumes, data.layout {recipe.data.layout} has single frames; "
            "use a 2-D teacher such as unet"
        )
    if deep and any(isinstance(role, Frozen) and role.kind != "backbone" for role in method.roles().values()):
        raise ValueError(
            f"student.method: the 3-D teacher {network} cannot look at single frames; "
            "use slice_distillation, which reads what it said of every slice"
        )
    if recipe.teacher.members < 1:
        raise ValueError(f"teacher.members: {recipe.teacher.members} networks teach nothing; give 1 or more")
    if deep and (recipe.teacher.members > 1 or recipe.teacher.flips > 1):
        raise ValueError(f"teacher.members and teacher.flips: only for 2-D teachers, {network} is 3-D; leave them at 1")
    _check_features(recipe, method)
    if recipe.student.weights:  # known now, not when the teacher has been trained
        from edgemt.zoo.warm_start import warm_start_spec

        size = {"channels": recipe.data.frame_channels, "classes": len(recipe.data.classes)}
        warm_start_spec(recipe.student.weights, student_network(recipe.student, method, **size))


def _check_features(recipe: Recipe, method: Method) -> None:
    """Raises ValueError where features are to be compared that nobody gives, or a feature teacher has nothing to do."""
    of, teacher = recipe.student, recipe.teacher.network
    compared = getattr(method, "feature", FeatureTerm()).on
    if of.warm_up_steps < 0 or of.feature_teacher_size < 0:
        raise ValueError("student.warm_up_steps and student.feature_teacher_size cannot be negative")
    if of.feature_teacher:
        from teachers.backbone import weights_of

        if not compared and not of.warm_up_steps:
            raise ValueError(
                f"student.feature_teacher: {of.feature_teacher} has nothing to teach; choose "
                "--student.method.feature.kind fitnet, vid, cwd or similarity, or set student.warm_up_steps"
            )
        weights_of(of.feature_teacher, given=of.feature_teacher_weights)
    elif of.feature_teacher_weights:
        raise ValueError("student.feature_teacher_weights: name its timm encoder, too: --student.feature-teacher NAME")
    elif compared or of.warm_up_steps:
        what = "student.method.feature.kind" if compared else "student.warm_up_steps"
        if teacher_dims(teacher) == 3 or teacher.startswith("monai"):
            raise ValueError(
                f"{what}: teacher {teacher} gives no feature maps of frames; name a student.feature_teacher, or take "
                "unet, an smp/ or a students/ network"
            )
        if recipe.teacher.members > 1 or recipe.teacher.flips > 1:
            raise ValueError(
                f"{what}: several members or flips have no feature maps in common; name a student.feature_teacher, or "
                "set teacher.members and teacher.flips to 1"
            )


def student_method(of: Student) -> Method:
    """The student's method as its stages run it: features come from `feature_teacher` where one is named."""
    term = getattr(of.method, "feature", None)
    if not of.feature_teacher or not isinstance(term, FeatureTerm):
        return of.method
    return replace(of.method, feature=replace(term, source="backbone"))  # type: ignore[call-arg]


def teacher_dims(name: str) -> int:
    """2 for a network of images, 3 for one of volumes; `students/NAME` is a student's network as a teacher."""
    return 2 if name.startswith(STUDENT_PREFIX) else teachers.dims(name)


def encoder_options(of: Teacher | Student) -> dict[str, Any]:
    """Where the encoder's first weights come from, as a network's builder takes it; defaults are left out."""
    options: dict[str, Any] = {"pretrained": of.pretrained}
    if of.encoder_weights:
        options["weights_file"] = of.encoder_weights
    if of.first_conv != "auto":
        options["first_conv"] = of.first_conv
    return options


def student_network(of: Student, method: Method, *, channels: int, classes: int) -> dict[str, Any]:
    """How to build a student again, for a card; its first weights are not looked at."""
    return {
        "room": "students",
        "name": of.network,
        "channels": channels,
        "classes": classes,
        "heads": list(method.heads),
        "options": encoder_options(of)
        | ({"decoder": of.decoder} if of.decoder != "auto" else {})
        | ({"resolution": of.resolution} if of.resolution != 1 else {}),
    }


def _from_file(name: str) -> Recipe:
    from importlib.util import module_from_spec, spec_from_file_location

    path, _, function = name.rpartition(":")
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such recipe file")
    spec = spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the reader's own file raises
        raise ValueError(f"{path}: cannot be imported ({type(error).__name__}: {error})") from error
    make = getattr(module, function, None)
    if not callable(make):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{path}: " + unknown_name_message("function", function, names))
    recipe = make()
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{name}: returned {type(recipe).__name__}, not an edgemt.Recipe")
    return recipe


RECIPES.update(_table())
