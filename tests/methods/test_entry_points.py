"""Methods of other packages: named by an entry point, loaded when asked for, held to the contract."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

import teachers
from edgemt import cli
from edgemt.commands import list_rows
from edgemt.contract import HEADS
from edgemt.methods import METHODS, Method, get
from edgemt.methods.catalogue import explain
from edgemt.testing import check_package

GOOD = '''
from dataclasses import dataclass, field
from typing import ClassVar

from edgemt.learning.losses import dice_ce, mse, probabilities
from edgemt.methods import Method, LossTerms
from edgemt.learning.schedules import SigmoidRampUp
from edgemt.learning.roles import Ema, Trainable


@dataclass(frozen=True)
class Plain(Method):
    """The student follows its own average, without any noise."""

    delivers: ClassVar[str] = "teacher"
    citation: ClassVar[str] = "A. Stranger, 2030"
    ramp: SigmoidRampUp = field(default_factory=SigmoidRampUp)

    def roles(self):
        return {"student": Trainable(), "teacher": Ema(mode="eval")}

    def losses(self, nets, batch, step):
        logits = nets.student(batch.image).logits
        terms = LossTerms(supervised=dice_ce(logits[: batch.count], batch.label))
        if len(batch.unlabelled):
            target = probabilities(nets.teacher(batch.unlabelled).logits).detach()
            terms["consistency"] = self.ramp(step) * mse(probabilities(logits[batch.count :]), target).mean()
        return terms


@dataclass(frozen=True)
class Blind(Plain):
    """It looks at labelled images only and calls it consistency."""

    def losses(self, nets, batch, step):
        p = probabilities(nets.student(batch.labelled).logits)
        target = probabilities(nets.teacher(batch.labelled).logits).detach()
        return LossTerms(supervised=dice_ce(p.log(), batch.label), consistency=mse(p, target).mean())


@dataclass(frozen=True)
class TwoClasses(Plain):
    """It takes channel 1 for the foreground, and fails in three axes."""

    def losses(self, nets, batch, step):
        n, c, h, w = batch.image.shape
        return super().losses(nets, batch, step)


METHOD = Plain()
'''

MISTAKES = '''
from dataclasses import dataclass
from typing import ClassVar

from edgemt.learning.losses import dice_ce
from edgemt.methods import Method, LossTerms


@dataclass(frozen=True)
class Right(Method):
    """Labelled images."""

    citation: ClassVar[str] = "A. Stranger, 2030"

    def losses(self, nets, batch, step):
        return LossTerms(supervised=dice_ce(nets.student(batch.labelled).logits, batch.label))


class PlainDict(Right):
    """A mapping is no LossTerms: the engine logs what LossTerms has beside the losses."""

    def losses(self, nets, batch, step):
        return dict(super().losses(nets, batch, step))


class NoScalar(Right):
    """A map of losses."""

    def losses(self, nets, batch, step):
        return LossTerms(supervised=nets.student(batch.labelled).logits.square())


class OneWord(Right):
    """The name of a player, not a tuple of names."""

    def steps(self, nets, batch, step):
        yield "student", self.losses(nets, batch, step)


class Nobody(Right):
    """It moves a player who is not there."""

    def steps(self, nets, batch, step):
        yield ("studnet",), self.losses(nets, batch, step)


class UnknownHead(Right):
    """A misspelt head."""

    heads = ("sfd",)


class UnnamedHead(Right):
    """It uses a head that it does not ask for."""

    def losses(self, nets, batch, step):
        return LossTerms(supervised=nets.student(batch.labelled).sdf.square().mean())


class UnnamedDisturb(Right):
    """It disturbs features and does not ask for it."""

    def losses(self, nets, batch, step):
        nets.student(batch.labelled, disturb=lambda feature: 2 * feature)
        return super().losses(nets, batch, step)


class BadRoles(Right):
    """Its players cannot be told."""

    def roles(self):
        return {"student": Trainable()}
'''


def package(folder: Path, name: str, points: str, code: str) -> None:
    """An installed package, made by hand: a module and the folder that pip would have written beside it."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[edgemt.methods]\n{points}\n")


@pytest.fixture
def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package(tmp_path, "their_methods", "plain_mt = their_methods:METHOD", GOOD)
    package(tmp_path, "bad_methods", "blind = bad_methods:Blind\nflat = bad_methods:TwoClasses", GOOD)
    package(
        tmp_path,
        "broken_methods",
        "torn = broken_methods:METHOD\nnumber = json:loads",
        "raise RuntimeError('no\\nidea')",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("their_methods", "bad_methods", "broken_methods"):
        sys.modules.pop(name, None)


def test_a_strangers_method_is_found_by_its_name_explained_and_listed(strangers):
    method = get("plain_mt")
    assert type(method).__name__ == "Plain"
    assert "A. Stranger, 2030" in explain("plain_mt")
    shown = dict(list_rows.rows("methods"))
    assert "without any noise" in shown["plain_mt"] and "their_methods" in shown["plain_mt"]


def test_a_misspelt_name_is_answered_with_the_strangers_nearest(strangers):
    with pytest.raises(ValueError, match="nearest: plain_mt"):
        get("plain_mtt")


def test_no_package_is_imported_before_one_of_its_methods_is_asked_for(strangers):
    code = "import sys; from edgemt.methods import get; get('ua_mt'); print('their_methods' in sys.modules)"
    words = [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(strangers)!r}, {str(ROOT)!r}]; {code}"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_a_broken_package_is_one_line_and_hides_nothing(strangers):
    with pytest.raises(ValueError, match=r"method 'torn' of package 'broken_methods'.*RuntimeError") as error:
        get("torn")
    shown = dict(list_rows.rows("methods"))
    assert set(METHODS) <= set(shown) and "plain_mt" in shown
    assert "cannot be loaded" in shown["torn"] and "\n" not in shown["torn"]
    assert "RuntimeError" in str(error.value)


def test_what_is_no_method_is_refused(strangers):
    with pytest.raises(ValueError, match="is a function, not an edgemt.Method"):
        get("number")


def test_two_packages_with_one_name_are_both_named(strangers):
    package(strangers, "rival", "plain_mt = their_methods:METHOD", "")
    with pytest.raises(ValueError, match="their_methods, rival|rival, their_methods"):
        get("plain_mt")


def test_a_name_of_ours_stays_ours(strangers):
    package(strangers, "thief", "ua_mt = their_methods:METHOD", "")
    assert get("ua_mt") is METHODS["ua_mt"]
    assert ("ua_mt", "thief: not reachable, the name is that of a method above") in list_rows.rows("methods")
    first = next(check_package.check("thief"))
    assert "choose another name" in first.failure


def test_check_keeps_a_line_for_every_promise_of_a_good_package(strangers, capsys):
    cli.main(["check", "their-methods"])
    output = capsys.readouterr().out
    assert output.startswith("plain_mt\n") and "FAILED" not in output
    assert "passed  unlabelled images change the gradient of the student" in output
    assert "passed  resuming equals never stopping, bit for bit" in output


def test_check_says_which_promise_is_broken_where_and_how(strangers, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["check", "bad_methods"])
    assert left.value.code == 2
    heard = capsys.readouterr()
    assert "FAILED  unlabelled images change the gradient of the student" in heard.out
    assert "2-D with 2 classes: the unlabelled images make no difference" in heard.out
    assert "3-D with 2 classes: ValueError: too many values to unpack" in heard.out
    assert "checks failed" in heard.err


def test_check_goes_on_behind_a_method_that_cannot_be_loaded(strangers, capsys):
    with pytest.raises(SystemExit):
        cli.main(["check", "broken_methods"])
    output = capsys.readouterr().out
    assert output.count("FAILED  it can be loaded") == 2


def test_check_of_what_nobody_offers_names_the_nearest(strangers, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["check", "their_method"])
    assert left.value.code == 2
    assert "nearest: their_methods" in capsys.readouterr().err


def test_a_method_of_the_table_can_be_checked_by_its_name(capsys):
    cli.main(["check", "entropy"])
    assert "FAILED" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ("PlainDict", "ValueError: PlainDict.losses: gave a dict; give edgemt.methods.LossTerms(supervised=...)"),
        ("NoScalar", "supervised: is no tensor of a single number"),
        ("OneWord", 'a step yields no pair of players and losses, such as ("student",)'),
        ("Nobody", "('studnet',) cannot all learn; student can"),
        ("UnknownHead", "heads: sfd is not known; use sdf, features"),
        ("UnnamedHead", "an output that heads does not name is None, and it names none"),
        ("UnnamedDisturb", "disturb: the method passes it to the network, and heads does not name it"),
        ("BadRoles", "NameError: name 'Trainable' is not defined"),
    ],
)
def test_a_mistake_in_a_step_is_one_line_and_ends_the_trial(mistake, says, tmp_path, monkeypatch):
    package(tmp_path, "mistakes", f"mine = mistakes:{mistake}", MISTAKES)
    monkeypatch.syspath_prepend(str(tmp_path))
    *_, last = check_package.check("mistakes")
    sys.modules.pop("mistakes", None)
    assert says in last.failure and "\n" not in last.failure
    assert last.check == "a step yields names of trainable networks and losses"


def test_every_head_that_a_method_can_name_is_one_that_some_network_has():
    able = {head for teacher in teachers.TEACHERS.values() for head in teacher.heads}
    assert set(HEADS) == able
    assert {head for method in METHODS.values() for head in method.heads} <= able


@pytest.mark.parametrize(
    ("old", "new"),
    [("compared", "losses_with_unlabelled"), ("aside", "variant_note"), ("alike", "matched_intensity")],
)
def test_method_that_overrides_an_old_name_is_rejected(old: str, new: str) -> None:
    with pytest.raises(TypeError, match=rf"Mine\.{old}: is called {new} now; rename it"):
        type("Mine", (Method,), {old: None})
