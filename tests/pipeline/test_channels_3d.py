"""A V-Net of two channels teaches a student of two channels: bank, distillation, graph, INT8, masks of files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import volume_channel_samples as samples
from tiny_flags import BRIEF

torch = pytest.importorskip("torch")
nibabel = pytest.importorskip("nibabel")

from deploy.package.package import open_package  # noqa: E402
from edgemt import cli, recipes  # noqa: E402
from edgemt.artefacts import network_folder, stage_folder  # noqa: E402
from edgemt.data.soft_labels import read_bank  # noqa: E402
from edgemt.io.volumes import read_label_volume  # noqa: E402
from edgemt.pipeline import flow  # noqa: E402
from edgemt.pipeline.overrides import override  # noqa: E402
from edgemt.pipeline.promptable_teacher import training_images  # noqa: E402
from edgemt.pipeline.recipe import Recipe  # noqa: E402
from edgemt.pipeline.recipe_checks import check_recipe  # noqa: E402
from edgemt.pipeline.run_context import RunContext  # noqa: E402


def flags(root: Path, *more: str) -> list[str]:
    return [
        *("--data.root", str(root), "--data.layout", "volumes", "--data.channel-names", *samples.NAMES),
        *("--data.labelled", "labelled.txt", "--data.val", "val.txt", "--data.size", "32", "32"),
        *("--volume.patch", "16", "16", "8", "--volume.stride", "16", "16", "8"),
        *("--volume.report-stride", "16", "16", "8", "--teacher.filters=2", "--teacher.schedule.steps=4"),
        *("--student.schedule.steps=4", "--slim.schedule.steps=2", "--slim.batches=1", "--int8.images=6"),
        *("--augment.drop-channel", "0.3", *BRIEF, *more),
    ]


def recipe(root: Path, *more: str) -> Recipe:
    return override(recipes.load("phantom_volumes"), flags(root, *more), prog="edgemt run")


def test_from_two_files_a_case_to_a_student(tmp_path: Path) -> None:
    """Teacher -> bank -> student of three slices of each; the teacher sees both channels, each in its place."""
    root = samples.write(tmp_path / "data")
    context = RunContext(recipe(root, "--student.schedule.validations=1"), tmp_path / "run")
    teacher = flow.teacher(context)
    card = stage_folder.read_card(teacher)
    assert (card.channels, card.channel_order, card.network["channels"], len(card.normalise.mean)) == (
        2,
        "channels",
        2,
        2,
    )
    assert card.data["channel_names"] == list(samples.NAMES) and open_package(teacher).card == card
    bank = flow.bank(context)
    network = network_folder.load_network(teacher)
    volumes, labelled = context.volumes, context.slices.cohort.labelled
    soft = read_bank(bank, labelled)
    assert soft.shape == (16, 3, 32, 32)
    again = volumes.slice_probabilities(network, volumes.cohort.labelled[0])
    assert np.allclose(soft[:8], again[:, 1:], atol=1e-3)
    other = replace(volumes.cohort.labelled[0], channels=volumes.cohort.labelled[0].channels[::-1])
    assert not np.allclose(volumes.slice_probabilities(network, other), again, atol=1e-3)
    frames = training_images(volumes)
    assert torch.equal(frames[1][3], torch.from_numpy(samples.case(1)[0][:, :, 3]).movedim(-1, 0))
    student = flow.student(context)
    made = stage_folder.read_card(student)
    assert (made.channels, made.channel_order, made.network["channels"]) == (6, "channels", 6)
    masks = context.slices.predict(network_folder.load_network(student))(context.slices.val.frames)
    assert masks.shape == (8, 32, 32) and masks.max() < len(samples.CLASSES)


def test_what_two_channels_cannot_do_is_refused_before_training(tmp_path: Path) -> None:
    root = samples.write(tmp_path / "data")
    with pytest.raises(ValueError, match="data.slices: a volume has no colours and 3 slices none of rgb"):
        recipe(root, "--data.slices", "3", "--data.channel-names", "rgb", "t2")
    with pytest.raises(ValueError, match="first_conv: middle is the middle slice of one channel"):
        check_recipe(recipe(root, "--student.first-conv", "middle"))
    one = recipe(root)
    one = replace(one, data=replace(one.data, channel_names=(), channels=1))
    with pytest.raises(ValueError, match="augment.drop_channel: the data have one channel"):
        check_recipe(one)
    check_recipe(recipe(root))


def test_the_key_of_a_teacher_of_one_channel_knows_nothing_of_channels() -> None:
    one = RunContext(recipes.load("phantom_volumes"), Path("run")).volumes
    assert set(one.cache_inputs) == {"data", "volume", "per_image"} and one.example.shape[1] == 1
    assert one.channels == 1
    assert not [name for name in one.cache_inputs["data"] if "channel_" in name]


@pytest.mark.slow
@pytest.mark.parametrize(("stacked", "slices"), [(False, 3), (True, 1)])
def test_a_whole_run_of_two_channels_ships_int8(
    tmp_path: Path, stacked: bool, slices: int, capsys: pytest.CaptureFixture[str]
) -> None:
    root, run = samples.write(tmp_path / "data", stacked=stacked), tmp_path / "run"
    cli.main(["run", "phantom_volumes", "--out", str(run), *flags(root, f"--data.slices={slices}")])
    for stage in ("teacher", "bank", "student", "slim", "int8", "ship", "report"):
        assert (run / stage).is_dir(), stage
    card = stage_folder.read_card(run / "ship")
    assert (card.channels, card.channel_order) == (2 * slices, "channels") and any(
        "int8" in name for name in card.files
    )
    cli.main(["eval", str(run / "ship"), "--data.root", str(root), "--without-channel", "t2"])
    cli.main(["predict", str(run / "ship"), str(root / "images"), "--out", str(tmp_path / "masks")])
    first, second = (root / f"images/p1_{name}.nii.gz" for name in samples.NAMES)
    named = root / "images/p1.nii.gz" if stacked else f"{first}+{second}"
    cli.main(["predict", str(run / "ship"), str(named), "--out", str(tmp_path / "named")])
    masks = [read_label_volume(tmp_path / folder / "p1.mask.nii.gz") for folder in ("masks", "named")]
    assert masks[0].shape == samples.SHAPE and np.array_equal(*masks)
    with pytest.raises(SystemExit):
        cli.main(["eval", str(run / "teacher")])
    assert "holds a 3-D network, which is measured in its run" in capsys.readouterr().err
