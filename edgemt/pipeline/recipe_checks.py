"""Checks of a recipe before anything is trained: do teacher, student, method and data fit together?"""

from __future__ import annotations

from edgemt.data import phantom2d, phantom3d
from edgemt.data.augment_options import PRESETS, AugmentOptions
from edgemt.io.opencv import require_opencv
from edgemt.learning.feature_term import FeatureTerm
from edgemt.learning.roles import Frozen
from edgemt.methods import METHODS, Method, takes_ignored_pixels, takes_overlapping_classes
from edgemt.methods.distillation import Distillation
from edgemt.pipeline.corruptions import training_corruptions
from edgemt.pipeline.network_spec import student_spec
from edgemt.pipeline.recipe import Recipe, learns_uncertainty, student_method, teacher_dims, uses_soft_label_bank
from edgemt.training.options import Schedule
from edgemt.zoo.warm_start import warm_start_spec


def check_recipe(recipe: Recipe) -> None:
    """Raises ValueError when teacher, student and data do not fit together (frames or volumes)."""
    network, method = recipe.teacher.network, student_method(recipe.student)
    deep = teacher_dims(network) == 3
    if deep and recipe.data.layout in ("pairs", "phantom"):
        raise ValueError(
            f"teacher.network: {network} needs volumes, data.layout {recipe.data.layout} has single frames; "
            "use a 2-D teacher such as unet"
        )
    if deep and any(isinstance(role, Frozen) and role.kind != "backbone" for role in method.roles().values()):
        raise ValueError(
            f"student.method: the 3-D teacher {network} cannot read single frames; "
            "use slice_distillation, which reads its stored predictions of every slice"
        )
    if recipe.teacher.members < 1:
        raise ValueError(f"teacher.members: {recipe.teacher.members} networks are not enough; give 1 or more")
    if deep and (recipe.teacher.members > 1 or recipe.teacher.flips > 1):
        raise ValueError(f"teacher.members and teacher.flips: only for 2-D teachers, {network} is 3-D; leave them at 1")
    if recipe.data.folds > 1 and (deep or recipe.teacher.members > 1):
        raise ValueError(
            f"data.folds: {recipe.data.folds} trains so many 2-D teachers; set teacher.members to 1 and take a 2-D "
            "teacher, or leave data.folds at 1"
        )
    if recipe.augment.drop_channel and len(recipe.data.planes) < 2:
        raise ValueError("augment.drop_channel: the data have one channel; name several in data.channel_names")
    if recipe.data.channel_names and "middle" in (recipe.teacher.first_conv, recipe.student.first_conv):
        raise ValueError(
            "first_conv: middle is the middle slice of one channel, and data.channel_names has more; take spread"
        )
    _check_unlabelled_rows(recipe)
    _check_input(recipe)
    _check_labels(recipe, method)
    _check_overlapping(recipe, method)
    _check_phantom_classes(recipe)
    alone = recipe.teacher.members == recipe.teacher.flips == recipe.data.folds == 1
    if learns_uncertainty(recipe.student) and alone:
        raise ValueError(
            "student.method.uncertainty: needs the variance between teachers, and this recipe has one; set "
            "teacher.members to 3 or teacher.flips to 4 (2-D teachers alone), or uncertainty to 0"
        )
    _check_features(recipe, method)
    if training_corruptions(recipe):
        require_opencv("corruptions")
    if recipe.student.weights:  # an error now, not after the teacher has been trained
        size = {"channels": recipe.data.frame_channels, "classes": recipe.data.outputs}
        warm_start_spec(recipe.student.weights, student_spec(recipe.student, method, **size))


def _check_unlabelled_rows(recipe: Recipe) -> None:
    """Raises ValueError for a semi-supervised method whose batches have no unlabelled row: it would be supervised.

    A distillation learns from its teacher on labelled rows too, but for its term against flicker.
    """
    teacher, student = recipe.teacher, recipe.student
    checked: list[tuple[str, str, Method, Schedule]] = [
        ("teacher.method", "teacher", teacher.method, teacher.schedule),
        ("student.method", "student", student.method, student.schedule),
        ("student.method", "slim", student.method, recipe.slim.schedule),
    ]
    if "distil" in recipe.int8.ladder:
        checked.append(("student.method", "int8", student.method, recipe.int8.schedule))
    if "student_no_distillation" in recipe.controls:
        checked.append(("controls", "student", semi_supervised(recipe), student.schedule))
    for field, stage, method, schedule in checked:
        if needs_unlabelled(method) and not schedule.unlabelled:
            what, instead = f"{field}: {type(method).__name__}", f"take --{field} supervised"
            if field == "controls":
                what, instead = "controls: student_no_distillation", "leave it out"
            elif isinstance(method, Distillation):
                what, instead = f"{field}.temporal: it", "set temporal to 0"
            raise ValueError(
                f"{what} learns from unlabelled images, and {stage}.schedule.unlabelled is 0; set it to the number of "
                f"unlabelled rows of a batch, such as {schedule.labelled}, or {instead}"
            )


def needs_unlabelled(method: Method) -> bool:
    """Whether a method without unlabelled images is no more than supervised training, or lacks a term that is set."""
    if isinstance(method, Distillation):
        return method.temporal > 0
    return method.uses_unlabelled


def semi_supervised(of: Recipe) -> Method:
    """The method of the control without distillation: the teacher's, `two_stream_mt` where that uses labels alone."""
    return of.teacher.method if of.teacher.method.uses_unlabelled else METHODS["two_stream_mt"]


def _check_input(recipe: Recipe) -> None:
    """Raises ValueError for two normalisations of one input, and for an augmentation that has a preset's name alone."""
    if recipe.per_image and recipe.normalise == "encoder":
        raise ValueError("normalise: encoder excludes per_image, the frame's own mean and deviation; set one of them")
    name = recipe.augment.preset
    if name and recipe.augment == AugmentOptions(preset=name) != PRESETS[name]:
        raise ValueError(f'augment.preset: is the name {name!r} alone, not its values; write augment=PRESETS["{name}"]')


def _check_phantom_classes(recipe: Recipe) -> None:
    """Raises ValueError where the classes of a synthetic layout are more or fewer than those that it draws."""
    data = recipe.data
    drawn = {"phantom": phantom2d.CLASSES, "phantom_volumes": phantom3d.CLASSES}.get(data.layout)
    if drawn and len(data.classes) != len(drawn) and not (data.layout == "phantom_volumes" and data.label_map):
        raise ValueError(
            f"data.classes: the layout {data.layout} draws {len(drawn)} classes ({', '.join(drawn)}), and "
            f"{len(data.classes)} are named; name as many, or leave data.classes out"
        )


def _check_labels(recipe: Recipe, method: Method) -> None:
    """Raises ValueError for a method that reads labels by itself, where some pixels have none or classes weigh."""
    if recipe.data.ignore is None and not recipe.data.class_weights:
        return
    option = "data.ignore" if recipe.data.ignore is not None else "data.class_weights"
    for field, of in (("teacher.method", recipe.teacher.method), ("student.method", method)):
        if not takes_ignored_pixels(of):
            raise ValueError(
                f"{field}: {type(of).__name__} reads labels otherwise than by the usual losses and cannot follow "
                f"{option}; take another method, such as cutmix_mt or distillation"
            )


def _check_overlapping(recipe: Recipe, method: Method) -> None:
    """Raises ValueError where classes may overlap, naming the option that takes exclusive classes alone."""
    data = recipe.data
    if not data.overlapping:
        return
    if len(data.classes) < 3:
        raise ValueError("data.overlapping: one class overlaps with none; leave it out, or name more data.classes")
    for field, of in (("teacher.method", recipe.teacher.method), ("student.method", method)):
        if not takes_overlapping_classes(of):
            raise ValueError(
                f"{field}: {type(of).__name__} is not for overlapping classes (data.overlapping); take mean_teacher, "
                "ua_mt, cutmix_mt, soft_cutmix_mt, two_stream_mt, supervised or entropy, and for a student distillation"
            )
    if recipe.student.weights:
        raise ValueError("student.weights: not for overlapping classes (data.overlapping); leave one of the two out")


def _check_features(recipe: Recipe, method: Method) -> None:
    """Raises ValueError where no network gives the features to compare, or where a feature teacher has no use."""
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
    elif compared and method.feature.source == "backbone":  # type: ignore[attr-defined]
        raise ValueError("student.method.feature.source: backbone needs a student.feature_teacher; name a timm encoder")
    elif compared or of.warm_up_steps:
        what = "student.method.feature.kind" if compared else "student.warm_up_steps"
        if teacher_dims(teacher) == 3 or teacher.startswith("monai"):
            raise ValueError(
                f"{what}: teacher {teacher} gives no feature maps of frames; name a student.feature_teacher, or take "
                "unet, an smp/ or a students/ network"
            )
        if max(recipe.teacher.members, recipe.teacher.flips, recipe.data.folds) > 1:
            raise ValueError(
                f"{what}: several members or flips, and folds, have no feature maps in common; name a "
                "student.feature_teacher, or set teacher.members, teacher.flips and data.folds to 1"
            )
        if compared and uses_soft_label_bank(method):
            raise ValueError(
                f"{what}: a bank has no feature maps; name a student.feature_teacher, or set "
                "student.method.teacher_source to network"
            )
