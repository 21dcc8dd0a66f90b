"""Methods of other packages: named by an entry point, loaded when asked for, held to the contract."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgemt import cli, listing, plugins
from edgemt.methods import METHODS, explain, get

ROOT = Path(__file__).parent.parent

GOOD = '''
from dataclasses import dataclass, field
from typing import ClassVar

from edgemt.losses import dice_ce, mse, probabilities
from edgemt.methods import Method, Terms
from edgemt.ramps import Ramp
from edgemt.roles import Ema, Trainable


@dataclass(frozen=True)
class Plain(Method):
    """The student follows its own average, without any noise."""

    delivers: ClassVar[str] = "teacher"
    citation: ClassVar[str] = "A. Stranger, 2030"
    ramp: Ramp = field(default_factory=Ramp)

    def roles(self):
        return {"student": Trainable(), "teacher": Ema(mode="eval")}

    def losses(self, nets, batch, step):
        logits = nets.student(batch.image).logits
        terms = Terms(supervised=dice_ce(logits[: batch.count], batch.label))
        if len(batch.unlabelled):
            said = probabilities(nets.teacher(batch.unlabelled).logits).detach()
            terms["consistency"] = self.ramp(step) * mse(probabilities(logits[batch.count :]), said).mean()
        return terms


@dataclass(frozen=True)
class Blind(Plain):
    """It looks at labelled images only and calls it consistency."""

    def losses(self, nets, batch, step):
        p = probabilities(nets.student(batch.labelled).logits)
        said = probabilities(nets.teacher(batch.labelled).logits).detach()
        return Terms(supervised=dice_ce(p.log(), batch.label), consistency=mse(p, said).mean())


@dataclass(frozen=True)
class TwoClasses(Plain):
    """It takes channel 1 for the foreground, and fails in three axes."""

    def losses(self, nets, batch, step):
        n, c, h, w = batch.image.shape
        return super().losses(nets, batch, step)


METHOD = Plain()
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
    shown = dict(listing.rows("methods"))
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
    shown = dict(listing.rows("methods"))
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
    assert ("ua_mt", "thief: not reachable, the name is that of a method above") in listing.rows("methods")
    first = next(plugins.check("thief"))
    assert "choose another name" in first.broken


def test_check_keeps_a_line_for_every_promise_of_a_good_package(strangers, capsys):
    cli.main(["check", "their-methods"])
    said = capsys.readouterr().out
    assert said.startswith("plain_mt\n") and "BROKEN" not in said
    assert "kept    unlabelled images teach the student" in said
    assert "kept    resuming equals never stopping, bit for bit" in said


def test_check_says_which_promise_is_broken_where_and_how(strangers, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["check", "bad_methods"])
    assert left.value.code == 2
    heard = capsys.readouterr()
    assert "BROKEN  unlabelled images teach the student" in heard.out
    assert "2-D with 2 classes: the unlabelled images make no difference" in heard.out
    assert "3-D with 2 classes: ValueError: too many values to unpack" in heard.out
    assert "promises are broken" in heard.err


def test_check_goes_on_behind_a_method_that_cannot_be_loaded(strangers, capsys):
    with pytest.raises(SystemExit):
        cli.main(["check", "broken_methods"])
    said = capsys.readouterr().out
    assert said.count("BROKEN  it can be loaded") == 2


def test_check_of_what_nobody_offers_names_the_nearest(strangers, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["check", "their_method"])
    assert left.value.code == 2
    assert "nearest: their_methods" in capsys.readouterr().err


def test_a_method_of_the_table_can_be_checked_by_its_name(capsys):
    cli.main(["check", "entropy"])
    assert "BROKEN" not in capsys.readouterr().out
