"""What recipes train with: augmentation presets, smaller first batches, Dice of each image, separate streams."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from edgemt import recipes
from edgemt.contract import Batch, Output, Step
from edgemt.data.augment_options import NO_AUGMENT, PRESETS
from edgemt.data.resize import resize_batch
from edgemt.learning.losses import dice, dice_ce
from edgemt.learning.roles import Networks
from edgemt.learning.student_teacher import two_streams
from edgemt.methods import METHODS
from edgemt.methods.mean_teacher import MeanTeacher
from edgemt.pipeline.overrides import override
from edgemt.training.options import Schedule


def test_a_preset_sets_every_field_and_a_flag_changes_one_of_them() -> None:
    recipe = recipes.load("kvasir_cpu")
    flags = ["--augment.rotation", "45", "--augment.preset", "mri"]  # the order does not matter
    changed = override(recipe, flags, prog="edgemt run")
    assert changed.augment == replace(PRESETS["mri"], rotation=45.0)
    assert override(recipe, ["--augment.preset=none"], prog="x").augment == replace(NO_AUGMENT, preset="none")
    with pytest.raises(ValueError, match="augment.preset: unknown preset 'mir'; nearest: mri"):
        override(recipe, ["--augment.preset", "mir"], prog="edgemt run")


def test_the_mri_preset_neither_zooms_nor_shifts() -> None:
    mri = PRESETS["mri"]
    assert (mri.scale, mri.translate, mri.elastic) == ((1, 1), 0, 0)
    assert recipes.load("acdc_cpu").augment == mri


def batch_of(size: int) -> Batch:
    g = torch.Generator().manual_seed(0)
    image = torch.randn(4, 3, size, size, generator=g)
    label = torch.zeros(2, size, size, dtype=torch.int64)
    label[:, size // 4 : size // 2, size // 4 : size // 2] = 1
    return Batch(image, label, image[2:] + 1, torch.rand(4, 2, size, size, generator=g))


def test_the_first_batches_are_smaller_and_the_last_are_not() -> None:
    schedule = Schedule(steps=100, start_size=0.5)
    fractions = [schedule.size_fraction(i) for i in (0, 35, 70, 99)]
    assert fractions == [0.5, 0.75, 1.0, 1.0] and Schedule().size_fraction(0) == 1.0
    batch = batch_of(128)
    small = resize_batch(batch, 0.5)
    assert small.image.shape[2:] == small.label.shape[1:] == (64, 64)
    assert small.strong is not None and small.strong.shape == (2, 3, 64, 64)
    assert small.soft is not None and small.soft.shape == (4, 2, 64, 64)
    assert small.label.dtype == torch.int64 and small.label.float().mean() == batch.label.float().mean()
    assert resize_batch(batch, 1.0) is batch
    assert resize_batch(batch_of(32), 0.5).image.shape[2:] == (32, 32)  # the deepest stride needs 32
    with pytest.raises(ValueError, match="start_size"):
        Schedule(start_size=0.0)
    volume = Batch(torch.zeros(2, 1, 32, 32, 32), torch.zeros(1, 32, 32, 32, dtype=torch.int64))
    with pytest.raises(ValueError, match="only frames"):
        resize_batch(volume, 0.5)


def test_dice_of_each_image_counts_a_small_object_as_much_as_a_large_one() -> None:
    q = torch.zeros(2, 2, 16, 16)
    q[0, 1, :8], q[1, 1, 0, 0] = 1, 1
    q[:, 0] = 1 - q[:, 1]
    missed = q.clone()
    missed[1, 1] = 0  # the small object is not found
    torch.testing.assert_close(dice(missed, q, per_image=True), torch.tensor(0.5), atol=1e-4, rtol=0)
    assert dice(missed, q) < 0.01
    empty = torch.zeros_like(q)
    empty[:, 0] = 1
    assert dice(missed, empty, per_image=True) == 0  # no image has the class: no gradient


def test_dice_of_each_image_is_the_mean_over_images() -> None:
    g = torch.Generator().manual_seed(1)
    logits, label = torch.randn(3, 3, 8, 8, generator=g), torch.randint(0, 3, (3, 8, 8), generator=g)
    each = torch.stack([dice_ce(logits[i : i + 1], label[i : i + 1]) for i in range(3)]).mean()
    torch.testing.assert_close(dice_ce(logits, label, per_image=True), each)


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, affine=False)

    def forward(self, x: torch.Tensor) -> Output:
        return Output(self.norm(x).repeat(1, 2, 1, 1))


def test_separate_streams_have_their_own_batch_statistics() -> None:
    labelled, unlabelled = torch.randn(2, 1, 4, 4), 5 + 3 * torch.randn(2, 1, 4, 4)
    apart = two_streams(Norm().train(), labelled, unlabelled, separate=True)
    joint = two_streams(Norm().train(), labelled, unlabelled, separate=False)
    assert all(abs(float(x.mean())) < 1e-5 for x in apart)
    assert abs(float(joint[0].mean())) > 0.5
    torch.testing.assert_close(apart[0], Norm().train()(labelled).logits)


@pytest.mark.parametrize("name", ["two_stream_mt", "two_stream_distillation"])
def test_the_default_method_sees_streams_apart_and_images_one_by_one(name: str) -> None:
    method = METHODS[name]
    assert method.separate_streams and method.image_dice  # type: ignore[attr-defined]
    seen: list[int] = []

    class Counting(Norm):
        def forward(self, x: torch.Tensor) -> Output:
            seen.append(len(x))
            return super().forward(x)

    nets = Networks({role: Counting() if role == "student" else Norm() for role in method.roles()})
    batch = replace(batch_of(32), image=torch.randn(4, 1, 32, 32), strong=torch.randn(2, 1, 32, 32), soft=None)
    method.losses(nets, batch, Step(0, 10, torch.Generator().manual_seed(0)))
    assert seen == [2, 2]
    assert isinstance(METHODS["two_stream_mt"], MeanTeacher)
