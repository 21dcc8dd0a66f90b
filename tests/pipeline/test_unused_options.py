"""An option that changes nothing is refused as a flag, and named where a recipe has it: no result is what it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

from tiny_flags import TINY

from edgemt import cli, recipes
from edgemt.data.augment_options import PRESETS, AugmentOptions
from edgemt.pipeline.overrides import given_fields, override, paths
from edgemt.pipeline.recipe import Recipe
from edgemt.pipeline.recipe_checks import check_recipe
from edgemt.pipeline.unused_options import _RULES, check_flags, log_unused


def made(name: str, *flags: str) -> Recipe:
    recipe = override(recipes.load(name), list(flags), prog="edgemt run")
    check_flags(recipe, flags)
    check_recipe(recipe)
    return recipe


FEATURE = "--student.method.feature"
REFUSED = [
    (("phantom", "--data.root", "DIR"), "data.root: .*draws its images .edgemt run auto --data.root DIR"),
    (("phantom", "--data.ignore", "3"), "data.ignore: .*reads no files"),
    (
        ("kvasir", "--teacher.schedule.start-size", "0.95"),
        "teacher.schedule.start_size: .*256 x 256 is the nearest size",
    ),
    (("phantom", "--data.val-in-training"), "data.val_in_training: .*reads no files"),
    (("kvasir_cpu", "--data.phantom", "4", "4", "4"), "data.phantom: .*layout is pairs"),
    (("kvasir_cpu", "--data.seed", "1"), "data.seed: .*not drawn; seed is that of the training"),
    (("kvasir_cpu", "--data.labelled=", "--data.labelled-seed", "1"), "data.labelled_seed: .*every image with a mask"),
    (("kvasir_cpu", "--contours.alpha", "0.05"), "contours.alpha: .*data.calibration"),
    (("la", "--volume.no-strong", "--volume.noise", "0.2"), "volume.noise: .*volume.strong is off"),
    (("acdc_cpu", "--augment.hue", "0.1"), "augment.hue: .*grey"),
    (("kvasir_cpu", "--augment.no-strong", "--augment.cutout", "0.4"), "augment.cutout: .*strong is off"),
    (("kvasir_cpu", "--augment.preset", "none", "--augment.noise", "0.2"), "augment.noise: .*labelled_intensity 0"),
    (("kvasir_cpu", "--augment.corrupt-labelled", "0.5"), "augment.corrupt_labelled: .*names none"),
    (("la", "--augment.corruptions", "--augment.corrupt-networks", "all"), "corrupt_networks: .*3-D teacher"),
    (("kvasir_cpu", "--teacher.encoder", "resnet34"), "teacher.encoder: .*only smp/"),
    (("kvasir", "--teacher.decoder", "dense2"), "teacher.decoder: .*only students/"),
    (("phantom", "--teacher.pretrained", "always"), "teacher.pretrained: .*unet"),
    (("phantom", "--student.pretrained=never", "--student.first-conv", "spread"), "student.first_conv: .*never"),
    (("kvasir_cpu", "--student.feature-teacher-size", "224"), "feature_teacher_size: .*no student.feature_teacher"),
    (("kvasir_cpu", f"{FEATURE}.weight", "3"), "feature.weight: .*kind is none"),
    (("kvasir", f"{FEATURE}.kind", "vid", f"{FEATURE}.source=teacher"), "feature.source: .*feature_teacher decides"),
    (("kvasir", f"{FEATURE}.kind", "vid", f"{FEATURE}.temperature", "2"), "feature.temperature: .*not cwd"),
    (("kvasir", "--student.method.motion.blur", "0.2"), "motion.blur: .*temporal is 0"),
    (("kvasir", "--student.method.kl", "0", "--student.method.boundary", "2"), "boundary: .*kl is 0"),
    (("kvasir", "--student.method.mix", "none", "--student.method.box.chance", "1"), "box.chance: .*not cutmix"),
    (("la", "--teacher.method", "bcp", "--teacher.method.pretrain", "0.5"), "method.pretrain: .*vnet is 3-D"),
    (("kvasir", "--teacher.method", "sam_handover", "--teacher.method.second.slices", "4"), "second.slices: "),
    (("kvasir", "--slim.prune.runtime", "onnxruntime"), "slim.prune.runtime: .*not latency"),
    (("kvasir", "--slim.prune.plan", "plan.json", "--slim.prune.share", "0.3"), "slim.prune.share: .*as it is"),
    (("kvasir", "--strict", "--slim.milder", "0.3"), "slim.milder: .*strict"),
    (("kvasir", "--int8.ladder", "distil", "--int8.kept", "4"), "int8.float_layers: .*no mixed"),
    (("kvasir", "--int8.ladder", "mixed", "--int8.schedule.steps=9"), "int8.schedule.steps: .*no distil"),
    (("kvasir", "--bench.soak-interval-s", "5"), "soak_interval_s: .*soak_minutes is 0"),
]


@pytest.mark.parametrize(("words", "says"), REFUSED, ids=lambda value: " ".join(value) if type(value) is tuple else "")
def test_a_flag_without_effect_is_refused_with_the_reason(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        made(*words)


@pytest.mark.parametrize(
    "words",
    [
        ("kvasir_cpu", "--data.seed", "1", "--data.val", "0.2"),
        ("phantom", "--data.seed", "1"),
        ("phantom_volumes", "--data.window", "10", "200", "--data.ignore", "255"),
        ("kvasir", "--teacher.schedule.start-size", "0.9"),
        ("kvasir_cpu", "--data.folds=3", "--teacher.members=1", "--data.seed=1"),
        ("kvasir_cpu", "--contours.alpha", "0.05", "--data.calibration-share", "0.5"),
        ("la", "--volume.report-stride", "9", "9", "9"),
        ("kvasir", "--volume.no-flip"),  # switches off what is off
        ("kvasir", "--teacher.encoder", "resnet34", "--slim.prune.target=latency", "--slim.prune.runtime=onnxruntime"),
        ("kvasir", f"{FEATURE}.kind", "cwd", f"{FEATURE}.temperature", "2", "--student.method.temporal", "1"),
        ("kvasir_cpu", "--augment.corruptions", "--augment.corrupt-labelled", "0.5"),
        ("kvasir", "--int8.fallback", "stop", "--int8.float-layers", "4"),
        ("la", "--teacher.method", "bcp", "--teacher.method.pretrain-volumes", "0.5"),
    ],
    ids=" ".join,
)
def test_a_flag_with_an_effect_is_taken(words: tuple[str, ...]) -> None:
    made(*words)


def test_no_recipe_of_the_package_has_a_value_without_effect(capsys) -> None:
    for name in recipes.BASES:
        log_unused(recipes.load(name))
    assert not capsys.readouterr().err


def test_sizes_of_another_network_and_values_of_a_recipe_are_named_in_one_line(capsys) -> None:
    log_unused(made("kvasir_cpu", "--teacher.widths", "4", "8", "8", "8", "8"))
    said = capsys.readouterr().err
    assert said.startswith("without effect: teacher.widths (students/efficientnet_lite2 has none)")
    assert said.count("\n") == 1
    log_unused(made("kvasir_cpu", "--teacher.network", "unet", "--augment.preset", "none"))
    said = capsys.readouterr().err
    assert "teacher.decoder (" in said and "teacher.pretrained (" in said and said.count("\n") == 1
    log_unused(made("la", "--teacher.network", "unet", "--volume.report-stride", "9", "9", "9"))
    said = capsys.readouterr().err
    assert "volume.report_stride (unet is a 2-D teacher)" in said and said.count("\n") == 1
    log_unused(made("kvasir_cpu", "--slim.prune.share", "0"))
    assert not capsys.readouterr().err
    made("kvasir", "--slim.prune.share", "0", "--slim.batches", "4", "--slim.prune.max-ratio", "0.5")
    said = capsys.readouterr().err
    assert said.startswith("without effect: slim.batches, slim.prune.max_ratio (slim.prune.share is 0")
    log_unused(made("kvasir", "--augment.preset", "none"))
    assert "teacher.method.strong (augment.strong is off" in capsys.readouterr().err


def test_every_rule_names_fields_that_there_are() -> None:
    flags = ["--slim.prune.share=0", "--int8.ladder", "--strict", "--augment.preset=none", "--teacher.method=bcp"]
    for name in ("phantom", "kvasir", "kvasir_cpu", "la"):
        for more in ([], flags, ["--slim.prune.plan=p.json", "--data.layout=phantom"]):
            recipe = override(recipes.load(name), [*more], prog="edgemt run")
            known = paths(recipe)
            for prefix, reason in (pair for rules in _RULES for pair in rules(recipe)):
                assert reason and any(path == prefix or path.startswith(prefix + ".") for path in known), prefix


def test_given_fields_are_found_under_old_names_and_negations() -> None:
    flags = ["--int8.kept=4", "--bench.no-cold", "--no-strict", "--seed", "3", "--seed=4", "--data.size", "64", "64"]
    found = given_fields(recipes.load("phantom"), flags)
    assert found == ["int8.float_layers", "bench.cold", "strict", "seed", "data.size"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("acdc_cpu", "--normalise", "encoder"), "normalise: encoder excludes per_image"),
        (
            ("kvasir", "--student.method=mean_teacher", "--student.schedule.unlabelled=0"),
            "student.schedule.unlabelled is 0",
        ),
        (("kvasir", "--student.method=mean_teacher", "--slim.schedule.unlabelled=0"), "slim.schedule.unlabelled is 0"),
        (("kvasir", "--student.method=mean_teacher", "--int8.schedule.unlabelled=0"), "int8.schedule.unlabelled is 0"),
        (
            ("kvasir", "--student.method.temporal=1", "--student.schedule.unlabelled=0"),
            "method.temporal: .*temporal to 0",
        ),
        (
            ("kvasir", "--controls", "student_no_distillation", "--student.schedule.unlabelled=0"),
            "controls: student_no_distillation learns from unlabelled images",
        ),
        (("phantom", "--student.warm-up-steps=5", "--data.folds=3"), "warm_up_steps: .*folds"),
        (("phantom", "--student.method=slice_distillation", f"{FEATURE}.kind=vid"), "kind: a bank has no feature maps"),
        (("kvasir", "--augment.preset=mri", "--augment.preset", "ct"), "augment.preset: is given twice"),
    ],
    ids=lambda value: " ".join(value) if type(value) is tuple else "",
)
def test_options_that_would_take_each_other_s_effect_are_refused(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        made(*words)


def test_features_of_a_backbone_that_is_not_named_are_refused_before_anything_is_trained() -> None:
    recipe = override(recipes.load("kvasir"), [f"{FEATURE}.kind=vid", f"{FEATURE}.source=backbone"], prog="")
    with pytest.raises(ValueError, match="feature.source: backbone needs a student.feature_teacher"):
        check_recipe(recipe)


def test_a_distillation_of_labelled_rows_alone_is_no_mistake() -> None:
    made("kvasir", "--student.schedule.unlabelled=0", "--slim.schedule.unlabelled=0", "--int8.schedule.unlabelled=0")


def test_a_preset_s_name_alone_is_refused() -> None:
    recipe = recipes.load("phantom")
    with pytest.raises(ValueError, match=r'augment.preset: is the name .mri. alone.*PRESETS\["mri"\]'):
        check_recipe(replace(recipe, augment=AugmentOptions(preset="mri")))
    check_recipe(replace(recipe, augment=PRESETS["mri"]))
    check_recipe(replace(recipe, augment=replace(PRESETS["mri"], rotation=0)))


def test_blur_alone_can_be_switched_off() -> None:
    import torch

    from edgemt.data.augment2d import augment_intensity_2d

    still = dict.fromkeys(("brightness", "contrast", "gamma", "saturation"), (1, 1))
    options = AugmentOptions(**still, hue=0, noise=0, blur=(0, 0), chance=1)
    image = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    changed = augment_intensity_2d(image, options=options, generator=torch.Generator().manual_seed(0), cutout=False)
    assert torch.allclose(changed, image, atol=1e-5)
    with pytest.raises(ValueError, match="augment.gamma"):
        AugmentOptions(gamma=(0, 0))


ONE_STEP = [*TINY, "--teacher.schedule.steps=1", "--teacher.schedule.validations=0", "--data.phantom", "4", "0", "1"]


def test_a_run_without_unlabelled_images_states_what_its_method_is_then(tmp_path, capsys) -> None:
    more = ["--student.method.temporal", "1", "--controls", "student_no_distillation"]
    cli.main(["train", "phantom", "--out", str(tmp_path), *ONE_STEP, *more])
    said = capsys.readouterr().err
    assert "teacher: MeanTeacher has no unlabelled images and learns from labels alone: as supervised" in said
    assert "student: Distillation has no unlabelled images" in said and "student.method.temporal has no effect" in said
    assert "controls: student_no_distillation has no unlabelled images and is supervised" in said


def test_the_control_with_all_labels_needs_masks_of_the_others(tmp_path, capsys) -> None:
    import numpy as np
    from PIL import Image

    from edgemt.data import phantom2d

    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for seed in range(6):
        image, label = phantom2d.frame(seed, size=(64, 64))
        Image.fromarray(image).save(tmp_path / "data" / "images" / f"{seed}.png")
        if seed < 3:
            Image.fromarray((label == 1).astype(np.uint8)).save(tmp_path / "data" / "masks" / f"{seed}.png")
    data = ["--data.layout=pairs", f"--data.root={tmp_path / 'data'}", "--data.val=1", "--data.classes", "no", "yes"]
    tiny = [flag for flag in TINY if not flag.startswith("--data.phantom") and flag not in ("6", "12", "4")]
    words = ["train", "phantom", "--out", str(tmp_path / "run"), *data, *tiny, "--controls", "student_all_labels"]
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    assert left.value.code == 2 and "student_all_labels needs masks of the unlabelled" in capsys.readouterr().err
    cli.main([*words, "--data.labelled", "1", "--teacher.schedule.steps=1", "--teacher.schedule.validations=0"])
    assert "learns from the 2 of 5 images that have a mask" in capsys.readouterr().err
