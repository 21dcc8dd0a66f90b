"""Corruptions in training: random rows of a batch, from the seed alone, for the student and not for its teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("cv2")

from edgemt.artefacts import stage_folder  # noqa: E402
from edgemt.data.augment_options import NO_AUGMENT, AugmentOptions  # noqa: E402
from edgemt.data.corrupt_views import corrupt_rows  # noqa: E402
from edgemt.data.corruptions import BY_MODALITY  # noqa: E402
from edgemt.data.slice_dataset import SliceDataset, TwoStreamBatches  # noqa: E402
from edgemt.model_card import Normalisation  # noqa: E402
from edgemt.pipeline import train  # noqa: E402
from edgemt.pipeline.corruptions import training_corruptions  # noqa: E402
from edgemt.pipeline.overrides import override  # noqa: E402
from edgemt.pipeline.recipe import Recipe  # noqa: E402
from edgemt.pipeline.run_context import RunContext, open_run  # noqa: E402
from edgemt.recipes import RECIPES  # noqa: E402

ALWAYS = replace(NO_AUGMENT, strong=True, chance=0, cutout=0, blur=(1, 1), noise=0, corruptions=("noise",))


def stack(count: int, *, labels: bool, channels: int = 3) -> SliceDataset:
    draw = np.random.default_rng(count)
    image = torch.from_numpy(draw.integers(40, 200, (count, 24, 24, channels), dtype=np.uint8))
    return SliceDataset(image, torch.ones(count, 24, 24, dtype=torch.uint8) if labels else None)


def batches(augment: AugmentOptions, kinds: tuple[str, ...], *, alike: bool = False) -> TwoStreamBatches:
    normalise = Normalisation((0.0,) * 3, (1.0,) * 3)
    streams = stack(5, labels=True), stack(7, labels=False)
    return TwoStreamBatches(
        *streams, batch_size=(4, 6), augment=augment, normalise=normalise, alike=alike, corruptions=kinds
    )


def changed_rows(a: torch.Tensor, b: torch.Tensor) -> int:
    return sum(not torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("labelled", "strong"), [(0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
def test_strong_views_and_labelled_rows_are_corrupted_as_often_as_asked(labelled: float, strong: float) -> None:
    augment = replace(ALWAYS, corrupt_labelled=labelled, corrupt_strong=strong)
    clean, found = batches(augment, ()).batch(3), batches(augment, ("noise", "smoke")).batch(3)
    assert clean.strong is not None and found.strong is not None
    assert changed_rows(clean.labelled, found.labelled) == 4 * labelled
    assert torch.equal(clean.unlabelled, found.unlabelled), "the view of the teacher was changed"
    assert changed_rows(clean.strong, found.strong) == 6 * strong
    assert torch.equal(clean.label, found.label)
    assert found.strong.min() >= 0 and found.strong.max() <= 1


def test_a_batch_with_corruptions_is_a_function_of_seed_and_number() -> None:
    one, other = (batches(AugmentOptions(corruptions=("auto",)), BY_MODALITY["endoscopy"]) for _ in range(2))
    one.batch(0)
    a, b = one.batch(5), other.batch(5)
    assert torch.equal(a.image, b.image) and a.strong is not None and torch.equal(a.strong, b.strong)  # type: ignore[arg-type]


def test_with_matched_intensity_unlabelled_rows_are_corrupted_as_labelled_ones() -> None:
    augment = replace(ALWAYS, corrupt_labelled=1.0)
    clean, found = batches(augment, ()).batch(0), batches(augment, ("noise",), alike=True).batch(0)
    assert changed_rows(clean.unlabelled, found.unlabelled) == 6


def test_neighbouring_slices_get_one_field() -> None:
    flat = torch.full((1, 3, 16, 16), 0.5)
    generator = torch.Generator().manual_seed(0)
    (row,) = corrupt_rows(flat, names=("bias_field",), chance=1.0, generator=generator, slices=True)
    assert not torch.equal(row[0], flat[0, 0]) and torch.equal(row[0], row[2])


def recipe(*flags: str, base: str = "phantom") -> Recipe:
    return override(RECIPES[base](), ["--data.phantom=2", "2", "2", "--data.size=32", "32", *flags], prog="x")


def keys(out: Path, given: Recipe) -> tuple[str, str]:
    """The keys of teacher and student."""
    context: RunContext = open_run(given, out)
    return tuple(  # type: ignore[return-value]
        stage_folder.key_of(train.inputs_of(context, of, of.method, parents={}, all_labels=False))
        for of in (given.teacher, given.student)
    )


def test_the_teacher_stays_as_it_is_and_the_student_is_trained_again(tmp_path: Path) -> None:
    teacher, student = keys(tmp_path, recipe())
    assert keys(tmp_path, recipe("--augment.corrupt-strong", "0.5")) == (teacher, student)
    with_corruptions = keys(tmp_path, recipe("--augment.corruptions"))
    assert with_corruptions[0] == teacher and with_corruptions[1] != student
    both = keys(tmp_path, recipe("--augment.corruptions", "smoke", "--augment.corrupt-networks", "all"))
    assert both[0] != teacher


def test_the_batches_of_the_teacher_are_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = recipe("--augment.corruptions", "noise", "--augment.corrupt-strong", "1", "--augment.corrupt-labelled", "1")
    context, plain = open_run(given, tmp_path), open_run(recipe(), tmp_path)
    want = plain.slices.draw(given.teacher.schedule)(0)
    clean = train.training_data_for(context, given.teacher).draw(given.teacher.schedule)(0)
    assert torch.equal(clean.image, want.image) and "corruptions" not in capsys.readouterr().err
    noisy = train.training_data_for(context, given.student).draw(given.teacher.schedule)(0)
    assert changed_rows(noisy.labelled, want.labelled) == len(want.label)
    assert "augment.corruptions: noise; 1 of the strong views" in capsys.readouterr().err
    weak = open_run(recipe("--augment.corruptions", "noise", "--augment.no-strong"), tmp_path)
    train.training_data_for(weak, given.student).draw(given.teacher.schedule)(0)
    assert "noise; there are no strong views, 0.25 of the labelled images" in capsys.readouterr().err


def test_a_flag_without_a_name_takes_the_kinds_of_the_modality() -> None:
    assert training_corruptions(recipe()) == ()
    assert training_corruptions(recipe("--augment.corruptions")) == BY_MODALITY["endoscopy"]
    mri = recipe("--augment.corruptions", "--augment.preset", "mri")
    assert mri.augment.rotation == 20 and training_corruptions(mri) == BY_MODALITY["mri"]
    assert training_corruptions(recipe("--augment.corruptions", base="phantom_volumes")) == BY_MODALITY["mri"]


def test_corruptions_that_do_not_fit_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown corruption 'smok'; nearest: smoke"):
        AugmentOptions(corruptions=("smok",))
    with pytest.raises(ValueError, match=r"augment\.corrupt_strong: must lie in 0 to 1"):
        AugmentOptions(corrupt_strong=2)
    with pytest.raises(ValueError, match="corruption 'blood': needs RGB frames"):
        open_run(recipe("--augment.corruptions", "blood", base="phantom_volumes"), tmp_path)
