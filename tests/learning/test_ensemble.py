"""Several teachers as one: members with seeds of their own, the mean of their probabilities, flips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from edgemt.artefacts import network_folder, stage_folder
from edgemt.contract import Output
from edgemt.learning.ensemble import Ensemble, between_variance
from edgemt.pipeline import flow
from edgemt.recipes import RECIPES, Recipe, StudentOptions
from edgemt.training.options import Schedule

QUICK = Schedule(steps=2, labelled=2, unlabelled=2, validations=1, warmup=1)


class Left(nn.Module):
    """Foreground on the left half, whatever the image shows; `right` mirrors it."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x: torch.Tensor) -> Output:
        logits = torch.zeros(len(x), 2, *x.shape[2:])
        logits[:, 1, :, : x.shape[3] // 2] = self.value
        return Output(logits)


def test_logits_are_the_log_of_the_mean_probability() -> None:
    out = Ensemble([Left(2.0), Left(-1.0)])(torch.zeros(1, 3, 4, 4)).logits
    wanted = (torch.tensor([2.0, -1.0]).sigmoid()).mean()
    torch.testing.assert_close(out.softmax(1)[0, 1, 0, 0], wanted)
    torch.testing.assert_close(out.exp().sum(1), torch.ones(1, 4, 4))


def test_flipped_predictions_are_flipped_back() -> None:
    plain = Ensemble([Left(3.0)])(torch.zeros(1, 3, 4, 4)).logits.softmax(1)[0, 1]
    mirrored = Ensemble([Left(3.0)], flips=2)(torch.zeros(1, 3, 4, 4)).logits.softmax(1)[0, 1]
    torch.testing.assert_close(mirrored, (plain + plain.flip(1)) / 2)
    with pytest.raises(ValueError, match="teacher.flips: 3"):
        Ensemble([Left(1.0)], flips=3)


def tiny(**teacher: object) -> Recipe:
    base = RECIPES["phantom"]()
    return replace(
        base,
        data=replace(base.data, size=(32, 32), phantom=(3, 3, 1)),
        teacher=replace(base.teacher, widths=(2, 2, 4, 4, 4), schedule=QUICK, **teacher),  # type: ignore[arg-type]
        student=StudentOptions(network="test_efficientnet", pretrained="never", schedule=QUICK),
    )


def test_a_student_is_distilled_from_the_mean_of_the_members(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = tiny(members=2, flips=2), tmp_path / "run"
    flow.run(recipe, out, until="student")
    assert capsys.readouterr().err.count("data: synthetic") == 1  # the images are read once, not once a member
    first, second = (network_folder.load_network(out / "members" / name) for name in "12")
    assert not torch.equal(next(first.parameters()), next(second.parameters()))
    teacher, x = network_folder.load_network(out / "teacher"), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = Ensemble([first, second], flips=2).eval()(x).logits
        torch.testing.assert_close(teacher(x).logits, wanted)
    card = stage_folder.read_card(out / "teacher")
    assert card.measured[stage_folder.WEIGHTS].dice is not None and len(card.parents) == 2
    before = stage_folder.identity(out / "student")
    flow.run(recipe, out, until="student")
    assert stage_folder.identity(out / "student") == before


def test_one_member_is_the_plain_teacher_and_volumes_refuse_more(tmp_path: Path) -> None:
    flow.run(tiny(), tmp_path / "run", until="teacher")
    assert not (tmp_path / "run" / "members").exists()
    with pytest.raises(ValueError, match="only for 2-D"):
        deep = RECIPES["phantom_volumes"]()
        flow.run(replace(deep, teacher=replace(deep.teacher, members=2)), tmp_path / "deep", until="teacher")
    with pytest.raises(ValueError, match="members: 0"):
        flow.run(tiny(members=0), tmp_path / "none", until="teacher")


def test_the_variance_is_between_members_and_of_one_member_between_its_flips() -> None:
    x, p = torch.zeros(1, 3, 4, 4), torch.tensor([3.0, -1.0, 0.5]).sigmoid()
    each = Ensemble([Left(3.0), Left(-1.0), Left(0.5)]).each(x)
    assert each.shape == (3, 1, 2, 4, 4)
    expected = 2 * ((p - p.mean()) ** 2).mean()  # both classes of a pixel vary alike
    torch.testing.assert_close(between_variance(each)[0, 0, 0], expected)
    torch.testing.assert_close(between_variance(each)[0, :, 2:], torch.zeros(4, 2))
    yes = each[:, :, 1:]  # an overlapping class varies as the two classes that its yes and no are
    torch.testing.assert_close(between_variance(yes, overlapping=True), between_variance(each))
    both_classes = torch.cat([yes, yes.flip(0) * 0.5], dim=2)
    torch.testing.assert_close(between_variance(both_classes, overlapping=True), between_variance(each))
    views = Ensemble([Left(3.0)], flips=2).each(x)
    assert views.shape[0] == 2 and between_variance(views).min() > 0
    both = Ensemble([Left(3.0), Left(3.0)], flips=2)
    assert between_variance(both.each(x)).max() == 0  # flips are averaged before members are compared
    torch.testing.assert_close(both.each(x).mean(0).log(), both(x).logits)
