"""Renamed options: the old names are still read, and stay in stage keys and records."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from edgemt.artefacts import stage_folder
from edgemt.learning.sam_guidance import PromptableTeacherOptions
from edgemt.methods import METHODS
from edgemt.pipeline.overrides import override
from edgemt.pipeline.recipe import Int8Stage
from edgemt.recipes import load
from edgemt.renamed_fields import old_names_of
from teachers.promptable import Promptable

# what versions before the renaming wrote into recipe.json and hashed into stage keys
BEFORE = {
    "Int8": (Int8Stage(), {"images", "ladder", "kept", "gain", "schedule", "otherwise"}),
    "SecondTeacher": (
        PromptableTeacherOptions(),
        {"model", "lessons", "boxes", "points", "masks", "sure", "slices", "gigabytes"},
    ),
    "Distillation": (
        METHODS["distillation"],
        {
            "temperature", "kl", "cwd", "cwd_temperature", "intra", "overlap", "boundary", "hard",
            "consistency", "ema", "strong", "mix", "box", "teacher_sees", "guide", "feature", "separate_streams",
            "image_dice",
        },
    ),
    "MutualTasks": (METHODS["ug_mcl"], {"bar", "ema", "noise", "passes", "ramp", "steepness"}),
    "VirtualAdversarial": (METHODS["vat"], {"probe", "ramp", "reach"}),
    "SmoothSeparate": (METHODS["ss_net"], {"contrast", "memory", "probe", "ramp", "reach"}),
}  # fmt: skip


@pytest.mark.parametrize("name", BEFORE)
def test_keys_of_stages_have_the_old_names(name: str) -> None:
    value, fields = BEFORE[name]
    assert set(stage_folder.plain(value)) == {"is", *fields}
    assert stage_folder.plain(value)["is"] == name


@pytest.mark.parametrize(
    "flags",
    [
        ["--int8.kept", "3", "--int8.gain=1.5", "--int8.otherwise", "stop", "--student.method.teacher-sees", "same"],
        [
            "--int8.float_layers", "3", "--int8.min-speedup", "1.5", "--int8.fallback=stop",
            "--student.method.teacher_view", "same",
        ],
    ],
)  # fmt: skip
def test_flags_have_both_names(flags: list[str]) -> None:
    recipe = override(load("phantom"), flags, prog="edgemt run")
    assert (recipe.int8.float_layers, recipe.int8.min_speedup, recipe.int8.fallback) == (3, 1.5, "stop")
    assert recipe.student.method.teacher_view == "same"  # type: ignore[attr-defined]


def test_flags_of_a_method_within_a_method_have_both_names() -> None:
    flags = ["--teacher.method=ua_mt", "--teacher.method.target.bar.top", "0.5"]
    recipe = override(load("phantom"), flags, prog="edgemt run")
    assert recipe.teacher.method.target.entropy_threshold.top == 0.5  # type: ignore[attr-defined]


def test_recipes_of_ones_own_have_both_names() -> None:
    assert Int8Stage(kept=3) == Int8Stage(float_layers=3) != Int8Stage()  # type: ignore[call-arg]
    assert replace(Int8Stage(), kept=3).kept == 3  # type: ignore[call-arg, attr-defined]
    assert replace(METHODS["vat"], reach=6.0).epsilon == 6.0  # type: ignore[call-arg, attr-defined]


def test_the_report_shows_the_current_names_also_of_an_older_record() -> None:
    for record in (load("phantom"), stage_folder.plain(load("phantom"))):
        rows = stage_folder.flat(record)
        assert rows["int8.float_layers"] == 8 and "int8.kept" not in rows


def test_a_subclass_has_the_old_names_of_its_base() -> None:
    class Own(Int8Stage):
        pass

    assert old_names_of(Own) == old_names_of(Int8Stage) and "kept" in stage_folder.plain(Own())


def test_a_promptable_network_reads_weights_of_earlier_versions() -> None:
    first, second = (
        Promptable(channels=1, widths=(8, 8, 8, 8), features=8),
        Promptable(channels=1, widths=(8, 8, 8, 8), features=8),
    )
    weights = first.state_dict()
    second.load_state_dict({"asked" if name == "output_tokens" else name: x for name, x in weights.items()})
    assert torch.equal(second.output_tokens, first.output_tokens)
