"""Options of a recipe that change nothing, because of what other options are: `volume.patch` of a 2-D teacher.

A flag of that kind is refused where it is given, so that no result is taken for another one; a value in a recipe
is named in one line when a run begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

from edgemt.data.resize import MULTIPLE, first_size
from edgemt.data.splits import parse_count_or_fraction
from edgemt.methods import METHODS, Method
from edgemt.methods.distillation import Distillation
from edgemt.pipeline.log import log
from edgemt.pipeline.overrides import given_fields, paths
from edgemt.pipeline.recipe import STUDENT_PREFIX, Recipe, StudentOptions, TeacherOptions, teacher_dims

Unused = Iterator[tuple[str, str]]  # fields as a prefix of their dotted path, and the reason
_PRINTED = ("teacher.widths", "teacher.filters", "teacher.norm", "teacher.attention")  # given to networks of any kind

_NOT_LOGGED = ("data.channels", "slim.", "int8.", "bench.")  # of a recipe whose pruning or INT8 a flag switches off


def unused_options(recipe: Recipe) -> dict[str, str]:
    """Dotted path of each field without effect -> the reason."""
    everything = paths(recipe)
    found: dict[str, str] = {}
    for rules in _RULES:
        for prefix, reason in rules(recipe):
            inside = (path for path in everything if path == prefix or path.startswith(prefix + "."))
            found |= {path: reason for path in inside if path not in found}
    return found


def check_flags(recipe: Recipe, args: Sequence[str]) -> None:
    """Raises ValueError for a flag among `args`, which `recipe` was made with, that changes nothing.

    Flags that switch off what is off anyway pass. Flags of pruning beside a share of 0 are named in one line, and sizes
    of networks and of the patches of volumes by `log_unused`: the same flags suit several teachers.
    """
    unused = unused_options(recipe)
    printed = _PRINTED if teacher_dims(recipe.teacher.network) == 3 else (*_PRINTED, "volume.")
    given = [path for path in given_fields(recipe, args) if path in unused and _at(recipe, path)]
    if not recipe.slim.prune.wanted:
        _log_paths({path: unused[path] for path in given if path.startswith("slim.")})
        printed = (*printed, "slim.")
    for path in given:
        if not path.startswith(printed):
            raise ValueError(f"{path}: has no effect here, {unused[path]}; leave it out")


def log_unused(recipe: Recipe) -> None:
    """Log the values that are not the defaults and change nothing, in one line."""
    usual = replace(
        Recipe(),
        teacher=replace(TeacherOptions(), method=_usual(recipe.teacher.method)),
        student=replace(StudentOptions(), method=_usual(recipe.student.method)),
    )
    unused = unused_options(recipe)
    changed = [path for path in unused if _at(recipe, path) != _at(usual, path)]
    _log_paths({path: unused[path] for path in changed if not path.startswith(_NOT_LOGGED)})


def _log_paths(unused: dict[str, str]) -> None:
    by_reason: dict[str, list[str]] = {}
    for path, reason in unused.items():
        by_reason.setdefault(reason, []).append(path)
    if by_reason:
        named = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in by_reason.items())
        log(f"without effect: {named}")


def _usual(method: Method) -> Method:
    """The first method of the same class in the table; of a class from elsewhere the method itself."""
    return next((of for of in METHODS.values() if type(of) is type(method)), method)


def _at(value: Any, path: str) -> Any:
    """The value of a dotted path, None where there is none."""
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


def _of_teacher(recipe: Recipe) -> Unused:
    of, network = recipe.teacher, recipe.teacher.network
    as_student, external = network.startswith(STUDENT_PREFIX), network.startswith("smp/")
    if as_student or external:
        for name in ("widths", "filters", "norm", "attention"):
            yield f"teacher.{name}", f"{network} has none"
    if not external:
        yield "teacher.encoder", f"only smp/ networks take one, not {network}"
    if not as_student:
        yield "teacher.decoder", f"only students/ networks take one, not {network}"
    if not (as_student or external):
        yield "teacher.first_conv", f"{network} has no encoder with weights"
        if of.pretrained != "never":
            yield "teacher.pretrained", f"no weights are known for {network}"


def _of_first_conv(recipe: Recipe) -> Unused:
    for stage, of in (("teacher", recipe.teacher), ("student", recipe.student)):
        if of.pretrained == "never" and not of.encoder_weights:
            yield f"{stage}.first_conv", f"{stage}.pretrained is never"


def _of_student(recipe: Recipe) -> Unused:
    of = recipe.student
    if of.weights:
        for name in ("encoder_weights", "first_conv"):
            yield f"student.{name}", "student.weights has the first weights of the whole student"
    if not of.feature_teacher:
        yield "student.feature_teacher_size", "there is no student.feature_teacher"


def _of_volumes(recipe: Recipe) -> Unused:
    volume = recipe.volume
    if teacher_dims(recipe.teacher.network) == 2:
        yield "volume", f"{recipe.teacher.network} is a 2-D teacher"
    elif not volume.strong and not volume.labelled_intensity:
        for name in ("brightness", "contrast", "gamma", "noise"):
            yield f"volume.{name}", "volume.strong is off and volume.labelled_intensity 0"


def _of_augmentation(recipe: Recipe) -> Unused:
    of = recipe.augment
    if 3 not in recipe.data.planes:
        yield "augment.saturation", "the images are grey"
        yield "augment.hue", "the images are grey"
    if not of.strong:
        for name in ("cutout", "corrupt_strong"):
            yield f"augment.{name}", "augment.strong is off"
        if not of.labelled_intensity:
            for name in ("chance", "brightness", "contrast", "gamma", "saturation", "hue", "blur", "noise"):
                yield f"augment.{name}", "augment.strong is off and augment.labelled_intensity 0"
    if not of.corruptions:
        for name in ("corrupt_strong", "corrupt_labelled", "corrupt_networks"):
            yield f"augment.{name}", "augment.corruptions names none"
    elif of.corrupt_networks == "all" and teacher_dims(recipe.teacher.network) == 3:
        yield "augment.corrupt_networks", "a 3-D teacher gets no corruptions"


def _of_data(recipe: Recipe) -> Unused:
    data = recipe.data
    if data.layout.startswith("phantom"):
        yield (
            "data.root",
            f"data.layout {data.layout} draws its images (edgemt run auto --data.root DIR reads a folder)",
        )
        drawn = ("mask_threshold", "label_map", "ignore", "depth", "window") if data.layout == "phantom" else ()
        for name in ("patient_pattern", "val_in_training", "axes", "slice_axis", "affines", *drawn):
            yield f"data.{name}", f"data.layout {data.layout} reads no files"
    else:
        yield "data.phantom", f"data.layout is {data.layout}, not phantom"
        if not _draws(recipe):
            yield "data.seed", "labelled and validation images are not drawn; seed is that of the training"
    if data.channel_names:
        yield "data.channels", "data.channel_names gives the channels"
    if data.channel_depth:
        yield "data.depth", "data.channel_depth has a rule for each channel"
    if not data.calibration and not data.calibration_share:
        yield "contours", "neither data.calibration nor data.calibration_share is set"
    if data.labelled_seed is not None and not data.labelled:
        yield "data.labelled_seed", "data.labelled is not set, so that every image with a mask is labelled"


def _draws(recipe: Recipe) -> bool:
    """Whether `data.seed` decides which image plays which part."""
    data = recipe.data
    counted = [data.labelled if data.labelled_seed is None else "", data.val]
    drawn = any(parse_count_or_fraction(text, field="labelled") is not None for text in counted)
    return drawn or bool(data.calibration_share) or (data.folds > 1 and not data.fold_file)


def _of_methods(recipe: Recipe) -> Unused:
    yield from _of_method("teacher", recipe.teacher, recipe, dims=teacher_dims(recipe.teacher.network))
    yield from _of_method("student", recipe.student, recipe, dims=2)


def _of_method(stage: str, of: TeacherOptions | StudentOptions, recipe: Recipe, *, dims: int) -> Unused:
    method, at = of.method, f"{stage}.method"
    views, on = ("volume", recipe.volume.strong) if dims == 3 else ("augment", recipe.augment.strong)
    if getattr(method, "strong", None) is True and not on:
        yield f"{at}.strong", f"{views}.strong is off, so that there are no strong views"
    if getattr(method, "mix", "cutmix") != "cutmix":
        yield f"{at}.box", f"{at}.mix is not cutmix"
    if hasattr(method, "pretrain_volumes"):
        yield f"{at}.{'pretrain' if dims == 3 else 'pretrain_volumes'}", f"{of.network} is {dims}-D"
    if getattr(getattr(method, "target", None), "by_class", True) is False:
        yield f"{at}.target.floor", f"{at}.target.by_class is off"
    if isinstance(method, Distillation):
        yield from _of_distillation(method, at, warm_up=recipe.student.warm_up_steps > 0)
    yield from _of_second_teacher(method, at, dims=dims)


def _of_distillation(method: Distillation, at: str, *, warm_up: bool) -> Unused:
    for name, weight in (("temperature", "kl"), ("boundary", "kl"), ("cwd_temperature", "cwd"), ("motion", "temporal")):
        if not getattr(method, weight):
            yield f"{at}.{name}", f"{at}.{weight} is 0"
    feature = method.feature
    yield f"{at}.feature.source", "student.feature_teacher decides"
    if feature.kind == "none" and not warm_up:
        for name in ("weight", "at", "strides", "temperature"):
            yield f"{at}.feature.{name}", f"{at}.feature.kind is none"
    elif feature.kind != "cwd":
        yield f"{at}.feature.temperature", f"{at}.feature.kind is not cwd"


def _of_second_teacher(method: Method, at: str, *, dims: int) -> Unused:
    second: Any = getattr(method, "second", None)
    if second is None or not hasattr(second, "pretrain_steps"):
        return
    if second.model == "small":
        yield f"{at}.second.gigabytes", "the small promptable network stores no embeddings"
    else:
        yield f"{at}.second.pretrain_steps", f"{second.model} is trained already"
    if dims == 2:
        yield f"{at}.second.slices", "frames are no volumes"


def _of_pruning(recipe: Recipe) -> Unused:
    prune = recipe.slim.prune
    if prune.plan:
        for name in ("share", "target", "runtime", "precision", "steps"):
            yield f"slim.prune.{name}", "slim.prune.plan is repeated as it is"
        yield "slim.milder", "slim.prune.plan is repeated as it is"
    elif not prune.share:
        for f in fields(prune):
            if f.name not in ("share", "plan"):
                yield f"slim.prune.{f.name}", "slim.prune.share is 0, and nothing is pruned"
        for name in ("batches", "milder"):
            yield f"slim.{name}", "slim.prune.share is 0, and nothing is pruned"
    elif prune.target != "latency":
        for name in ("runtime", "precision"):
            yield f"slim.prune.{name}", f"slim.prune.target is {prune.target}, not latency"
    if recipe.strict:
        for name in ("extra", "milder"):
            yield f"slim.{name}", "strict ends the run where the first attempt is refused"


def _of_int8(recipe: Recipe) -> Unused:
    if "mixed" not in recipe.int8.ladder:
        for name in ("float_layers", "min_speedup"):
            yield f"int8.{name}", "int8.ladder has no mixed"
    if "distil" not in recipe.int8.ladder:
        yield "int8.schedule", "int8.ladder has no distil"
    if recipe.strict:
        yield "int8.fallback", "strict ends the run where no candidate passes"


def _of_schedules(recipe: Recipe) -> Unused:
    trained = {"student": recipe.student.schedule, "slim": recipe.slim.schedule, "int8": recipe.int8.schedule}
    if teacher_dims(recipe.teacher.network) == 2:
        trained["teacher"] = recipe.teacher.schedule
    sides = recipe.data.size
    for stage, schedule in trained.items():
        if schedule.start_size < 1 and first_size(sides, schedule.start_size) == tuple(sides):
            side = " x ".join(map(str, sides))
            yield f"{stage}.schedule.start_size", f"{side} is the nearest size, sides are in steps of {MULTIPLE} pixels"


def _of_bench(recipe: Recipe) -> Unused:
    of = recipe.bench
    if not of.soak_minutes:
        yield "bench.soak_interval_s", "bench.soak_minutes is 0"
    if not of.streams:
        yield "bench.streams_seconds", "bench.streams names no number of cameras"
    if not of.paced_hz and not of.second_hz:
        yield "bench.paced_seconds", "bench.paced_hz and bench.second_hz are 0"


_RULES: tuple[Callable[[Recipe], Unused], ...] = (
    *(_of_data, _of_augmentation, _of_volumes, _of_teacher, _of_student, _of_first_conv, _of_methods),
    *(_of_pruning, _of_int8, _of_schedules, _of_bench),
)
