"""Methods under one budget: what is trained, what is paired with what, and what the table says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import teachers
from edgemt import cli
from edgemt.comparison import runs, subprocess_pool
from edgemt.comparison.bootstrap import _counts as draws_of
from edgemt.comparison.bootstrap import dice, difference
from edgemt.comparison.published import ATRIUM, SOURCE_NOTE, published
from edgemt.contract import Batch
from edgemt.methods import METHODS
from edgemt.methods.mean_teacher import MeanTeacher
from edgemt.recipes import load
from edgemt.report.comparison_page import comparison_page, comparison_picture, comparison_table

TINY = [
    *("--data.size", "32", "32", "--data.phantom", "3", "4", "4", "--teacher.widths", "2", "4", "4", "4", "4"),
    *("--teacher.schedule.steps=8", "--teacher.schedule.labelled=2", "--teacher.schedule.unlabelled=2"),
    *("--teacher.schedule.validations=1", "--teacher.schedule.patience=5"),
    *("--teacher.schedule.precision=32-true", "--threads=1"),
]


@dataclass(frozen=True)
class Exploding(MeanTeacher):
    """A method whose loss is never a number."""

    def losses(self, nets, batch: Batch, step):
        terms = super().losses(nets, batch, step)
        terms["consistency"] = terms["consistency"] * float("nan")
        return terms


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mean teacher, which delivers an average, and cross pseudo supervision, which does not; a third one fails."""
    out = tmp_path_factory.mktemp("compare") / "all"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "exploding", Exploding())
        names = ["mean_teacher", "cps", "exploding"]
        cli.main(["compare", *names, "--recipe", "phantom", "--seeds", "2", "--out", str(out), *TINY])
    return out


def record(folder: Path) -> dict:
    return json.loads((folder / "table.json").read_text())


def row(folder: Path, name: str) -> dict:
    return next(row for row in record(folder)["rows"] if row["method"] == name)


def test_every_method_and_seed_has_a_run_folder_with_a_stage_in_it(compared):
    for name in ("supervised", "supervised_student", "mean_teacher", "cps"):
        for seed in (0, 1):
            assert (compared / f"{name}-{seed}" / "teacher" / "card.json").exists()


def test_each_is_compared_with_the_control_that_delivers_the_same(compared):
    assert row(compared, "mean_teacher")["control"] == "supervised"
    assert row(compared, "cps")["control"] == "supervised_student"
    assert row(compared, "supervised")["difference"] is None


def test_the_difference_is_that_of_the_means_and_lies_in_its_interval(compared):
    for name in ("mean_teacher", "cps"):
        mine = row(compared, name)
        control, gap = row(compared, mine["control"]), mine["difference"]
        assert gap["mean"] == pytest.approx(mine["dice"] - control["dice"], abs=1e-9)
        assert gap["low"] <= gap["mean"] <= gap["high"]


def test_the_two_controls_learn_the_same_and_deliver_different_players(compared):
    average, student = (json.loads((compared / f"{n}-0/teacher/curves.json").read_text()) for n in runs_of_control())
    assert average["terms"]["supervised"] == student["terms"]["supervised"]
    weights = [(compared / f"{n}-0/teacher/weights.safetensors").read_bytes() for n in runs_of_control()]
    assert weights[0] != weights[1]


def runs_of_control() -> tuple[str, str]:
    return runs.EMA_CONTROL, runs.STUDENT_CONTROL


def test_a_method_that_fails_is_a_row_that_says_so(compared):
    failed = row(compared, "exploding")
    assert failed["dice"] is None and set(failed["failed"]) == {"0", "1"}
    assert "not finite" in failed["failed"]["0"]
    assert "seed 0: the loss is not finite" in (compared / "table.md").read_text()


def test_the_table_says_what_was_measured_and_how(compared):
    text = (compared / "table.md").read_text()
    for words in ("8 steps of 2 labelled and 2 unlabelled rows", "last weights", "paired by case and seed"):
        assert words in text
    assert "| mean_teacher | average |" in text and "| cps | student |" in text
    assert "Difference of each seed; the interval is of patients alone." in text


def test_the_cost_of_a_step_is_what_was_measured_in_turns(compared):
    from edgemt.methods.catalogue import costs

    known = costs()["relative"]
    assert row(compared, "mean_teacher")["times"] == known["mean_teacher"]["2d"]
    assert row(compared, "cps")["times"] == known["cps"]["2d"]
    assert row(compared, "supervised")["times"] == 1.0


def test_the_same_command_again_trains_nothing(compared, capsys):
    before = {file: file.stat().st_mtime_ns for file in compared.rglob("weights.safetensors")}
    told = record(compared)
    cli.main(["compare", "mean_teacher", "cps", "--recipe", "phantom", "--seeds", "2", "--out", str(compared), *TINY])
    assert {file: file.stat().st_mtime_ns for file in compared.rglob("weights.safetensors")} == before
    for again in record(compared)["rows"]:
        assert again == next(first for first in told["rows"] if first["method"] == again["method"])
    assert capsys.readouterr().out.strip().endswith("report.html")


def test_a_seed_can_be_trained_alone_and_is_found_by_the_table(compared, tmp_path):
    one = ["compare", "mean_teacher", "--recipe", "phantom", "--out", str(tmp_path), *TINY]
    cli.main([*one, "--seed", "1"])
    assert not (tmp_path / "table.md").exists()
    same = [f / "mean_teacher-1" / "teacher" / "weights.safetensors" for f in (tmp_path, compared)]
    assert same[0].read_bytes() == same[1].read_bytes()


@pytest.mark.slow
def test_processes_beside_each_other_give_the_same_table(compared, tmp_path):
    flags = ["--recipe", "phantom", "--seeds", "2", "--jobs", "2", "--out", str(tmp_path), *TINY]
    cli.main(["compare", "mean_teacher", "cps", *flags])
    for name in ("supervised", "mean_teacher", "cps"):
        assert row(tmp_path, name)["each"] == row(compared, name)["each"]


SLEEPS = "import time; print('up', flush=True); time.sleep(60)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPS


@pytest.fixture
def sleepers(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen]:
    """The processes of a comparison, each a sleep; the one of seed 1 does not hear SIGTERM."""
    started: list[subprocess.Popen] = []

    class Sleeper(subprocess.Popen):
        def __init__(self, words: list[str], **options) -> None:
            code = {"short": "pass", "seed-1": DEAF}.get(words[-1], SLEEPS)
            super().__init__([sys.executable, "-c", code], **options)
            started.append(self)

    monkeypatch.setattr(subprocess_pool.subprocess, "Popen", Sleeper)
    monkeypatch.setattr(subprocess_pool, "PATIENCE", 1.0)
    return started


@pytest.fixture
def plain_sigterm() -> Iterator[None]:
    """SIGTERM as a program begins with it; coverage installs a handler, which a comparison would leave alone."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def up(plan: list[runs.TrainingRun], jobs: int) -> bool:
    logs = [one.folder / "train.log" for one in plan[:jobs]]
    return all(log.exists() and log.read_text() for log in logs)


def test_a_comparison_that_is_told_to_stop_leaves_no_process_behind(sleepers, plain_sigterm, tmp_path, monkeypatch):
    """SIGTERM as a queue or a service sends it: to the parent alone."""
    plan = runs.plan_runs(["cps"], seeds=[0, 1], out=tmp_path)
    told = []

    def rest(seconds: float) -> None:
        time.sleep(0.02)
        if up(plan, jobs=4) and not told:  # two of them could end the tests themselves
            told.append(True)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(subprocess_pool, "time", type("Clock", (), {"sleep": rest, "monotonic": time.monotonic}))
    with pytest.raises(KeyboardInterrupt):
        list(subprocess_pool.train_in_subprocesses(plan, lambda one: [f"seed-{one.seed}"], jobs=4))
    assert len(sleepers) == 4
    assert {process.returncode for process in sleepers} == {-signal.SIGTERM, -signal.SIGKILL}
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_comparison_that_breaks_off_between_two_runs_leaves_no_process_behind(sleepers, tmp_path):
    plan = runs.plan_runs(["mean_teacher"], seeds=[0], out=tmp_path)
    words = {plan[0]: ["short"], plan[1]: ["long"]}
    with (
        pytest.raises(ZeroDivisionError),
        closing(subprocess_pool.train_in_subprocesses(plan, words.__getitem__, jobs=2)) as finished,
    ):
        for one, failed in finished:
            assert (one, failed) == (plan[0], "")
            raise ZeroDivisionError
    assert [process.returncode for process in sleepers] == [0, -signal.SIGTERM]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--recipe", "phantom"], "name the methods"),
        (["mean_techer", "--recipe", "phantom"], "nearest: mean_teacher"),
        (["cps", "--recipe", "phantom", "--seeds", "0"], "--seeds 0"),
        (["cps", "--recipe", "phantom", "--teacher.method", "cps"], "leave out --teacher.method"),
        (["cps", "ict", "--recipe", "phantom", "--seed", "0"], "trains one method"),
    ],
)
def test_bad_input_is_one_line_and_status_2(words, says, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["compare", *words])
    assert left.value.code == 2
    assert says in capsys.readouterr().err


def test_page_and_picture_are_whole_and_escape_what_they_are_given(compared):
    told = record(compared)
    told["rows"][-1] |= {"method": "<script>", "failed": {"0": "a < b | c"}}
    page, picture = comparison_page(told), comparison_picture(told)
    assert "<script>" not in page and "&lt;script&gt;" in page and "<svg" in page
    assert "<script>" not in picture and picture.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "a < b / c" in comparison_table(told)


def test_every_figure_of_the_page_stands_under_its_own_head(compared):
    told = record(compared)
    page = comparison_page(told).split("</table>")[0]
    heads = re.findall(r"<th(?: [^>]*)?>([^<]*)", page)
    found = {cells[0]: cells[1:] for cells in [re.findall(r"<td[^>]*>([^<]*)", one) for one in page.split("<tr")[2:]]}
    assert set(found) == {row["method"] for row in told["rows"]}
    for one in told["rows"]:
        cells = dict(zip(heads[1:], found[one["method"]], strict=True))
        if one["dice"] is not None:
            assert cells["Dice"].startswith(f"{one['dice']:.3f}")
            assert cells["Median"] == f"{one['median']:.3f}" and cells["Tier"] == str(one["tier"])
            assert cells["HD95"] == f"{one['hd95']:.1f}" and cells["Step"].endswith(" x")
            assert all(cells[name] == f"{value:.3f}" for name, value in one["per_class"].items())


def test_a_published_value_stands_beside_a_run_of_the_same_protocol_alone(compared):
    told = record(compared)
    assert told["labelled"] == 3 and "Published" not in comparison_table(told) and told["published"] is None
    assert published("dtc", recipe="la", labelled=8) == 0.8751
    assert published("dtc", recipe="la", labelled=3) is None and published("dtc", recipe="acdc", labelled=8) is None
    told["published"], told["rows"][-1]["published"] = SOURCE_NOTE, 0.8751
    last = next(line for line in comparison_table(told).splitlines() if f"| {told['rows'][-1]['method']} |" in line)
    assert last.endswith("| 0.875 |")
    page = comparison_page(told)
    assert "Published" in page and page.count('<td class="n">0.875</td>') == 1
    assert all(set(known) <= set(METHODS) for known in ATRIUM.values())


def test_methods_that_were_not_trained_yet_are_named_in_one_line_and_not_as_rows_of_dashes(compared):
    told = record(compared)
    told["rows"][-1] |= {"method": "later", "failed": {}, "dice": None, "each": {}, "difference": None}
    page = comparison_page(told)
    assert "To come: later." in page and "<td>later</td>" not in page
    assert "To come" not in comparison_page(record(compared))


def test_each_control_has_a_line_through_the_chart(compared):
    told = record(compared)
    lines = comparison_picture(told).count('class="deadline"')
    told["rows"] = [row for row in told["rows"] if row["method"] not in runs_of_control()]
    assert lines == comparison_picture(told).count('class="deadline"') + 2


def scores(*, seeds: int = 3, cases: int = 12, shift: float = 0.0, noise: float = 0.0) -> np.ndarray:
    draw = np.random.default_rng(0)
    common = draw.uniform(0.2, 0.9, (seeds, cases, 2))
    return common + shift + noise * np.random.default_rng(1).normal(size=common.shape)


def test_pairing_takes_away_what_cases_and_seeds_have_in_common():
    gap = difference(scores(shift=0.05), scores(), groups=list("abcdefghijkl"))
    assert gap.low == pytest.approx(0.05) and gap.high == pytest.approx(0.05)


def test_an_interval_of_nothing_but_chance_holds_zero_and_one_of_a_real_gap_does_not():
    groups = list("abcdefghijkl")
    chance = difference(scores(noise=0.05), scores(), groups=groups)
    real = difference(scores(noise=0.01, shift=0.1), scores(), groups=groups)
    assert chance.low < 0 < chance.high
    assert real.low > 0.05


def test_two_images_of_a_patient_are_not_two_patients():
    """Twice the cases, each a copy of another: as patients the interval stays, as cases of their own it shrinks."""
    mine, control = scores(noise=0.05, seeds=1), scores(seeds=1)
    once = difference(mine, control, groups=list("abcdefghijkl"))
    twice = [np.repeat(part, 2, axis=1) for part in (mine, control)]
    kept = difference(*twice, groups=[letter for letter in "abcdefghijkl" for _ in range(2)])
    wrong = difference(*twice, groups=[str(i) for i in range(24)])
    assert kept.high - kept.low == pytest.approx(once.high - once.low)
    assert wrong.high - wrong.low < 0.85 * (once.high - once.low)


def test_a_class_that_a_case_has_not_is_left_out_and_not_counted_as_zero():
    mine = scores(seeds=1)
    mine[0, 0, 1] = np.nan
    want = np.mean([mine[0, :, 0].mean(), np.nanmean(mine[0, :, 1])])
    assert dice(mine)[0] == pytest.approx(want)
    assert np.isfinite(difference(mine, scores(seeds=1), groups=list("abcdefghijkl")).high)


def test_few_seeds_do_not_make_the_interval_too_narrow():
    """The drawn means of five seeds vary as the mean of five does; draws of all five would vary by a fifth less."""
    gains = np.array([0.01, 0.05, -0.02, 0.08, 0.03])
    counts = draws_of(np.random.default_rng(0), 20_000, 5)
    means = (counts * gains).sum(1) / counts.sum(1)
    assert means.var() == pytest.approx(gains.var(ddof=1) / 5, rel=0.03)
    assert (draws_of(np.random.default_rng(0), 3, 1) == 1).all(), "of one there is nothing to draw"


def test_scores_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="groups"):
        difference(scores(), scores(cases=11), groups=list("abcdefghijkl"))


def test_the_controls_come_first_and_only_those_that_are_needed():
    averaged = runs.plan_runs(["mean_teacher"], seeds=[0], out=Path("x"))
    assert [one.method for one in averaged] == ["supervised", "mean_teacher"]
    both = runs.plan_runs(["cps", "supervised", "cps"], seeds=[3], out=Path("x"))
    assert [one.folder.name for one in both] == ["supervised-3", "supervised_student-3", "cps-3"]


def test_the_network_of_the_recipe_for_comparing_has_the_heads_of_every_method():
    recipe = load("acdc_methods")
    of, size = recipe.teacher, {"channels": recipe.data.frame_channels, "classes": len(recipe.data.classes)}
    for heads in {method.heads for method in METHODS.values()}:
        network = teachers.build(of.network, heads=heads, widths=of.widths, **size)
        said = network(torch.zeros(2, 1, 32, 32))
        assert said.logits.shape == (2, 4, 32, 32)
        assert ("sdf" in heads) == (said.sdf is not None)
