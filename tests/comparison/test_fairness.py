"""What makes a comparison fair: drawn patients, tiers, published settings, and tables filled over many days."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT

from edgemt import cli
from edgemt.comparison import budget, docs, one_run, results, runs, table_only
from edgemt.comparison.record import record_of
from edgemt.comparison.results import Result
from edgemt.comparison.run_inputs import RunInputs, draws_of
from edgemt.comparison.tiers import tiers
from edgemt.methods import METHODS
from edgemt.pipeline.overrides import override
from edgemt.recipes import load
from edgemt.recipes.acdc import LIGHT
from edgemt.report.comparison_page import comparison_page, comparison_picture, comparison_table

DOCS = ROOT / "docs"
TINY = [
    *("--data.size", "32", "32", "--data.phantom", "3", "4", "4", "--teacher.widths", "2", "4", "4", "4", "4"),
    *("--teacher.schedule.steps=4", "--teacher.schedule.labelled=2", "--teacher.schedule.unlabelled=2"),
    *("--teacher.schedule.validations=1", "--teacher.schedule.precision=32-true", "--threads=1"),
]
DRAW = ["--recipe", "phantom", "--seeds", "2", "--draw-labelled", "2", *TINY]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Mean teacher beside supervised training, two seeds with two drawn phantoms each; what was printed."""
    out = tmp_path_factory.mktemp("fair") / "all"
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("edgemt.comparison._log", lines.append)
        cli.main(["compare", "mean_teacher", *DRAW, "--out", str(out)])
    return out, "\n".join(lines)


def record(folder: Path) -> dict:
    return json.loads((folder / "table.json").read_text())


def stored(folder: Path) -> dict[tuple[str, int], Result]:
    return {(result.name, result.seed): result for result in results.read_all(folder / "results")}


# --- another draw of labelled patients for each seed ---


def test_every_method_of_a_seed_learns_from_the_same_draw_and_another_seed_from_another(compared):
    found = stored(compared[0])
    assert set(found) == {(name, seed) for name in ("supervised", "mean_teacher") for seed in (0, 1)}
    for seed in (0, 1):
        mine, control = found["mean_teacher", seed], found["supervised", seed]
        assert len(mine.drawn) == 2 and mine.drawn == control.drawn and mine.labelled == 2
        assert mine.inputs["training data"] == control.inputs["training data"]
    assert found["supervised", 0].drawn != found["supervised", 1].drawn
    assert found["supervised", 0].cases.keys() == found["supervised", 1].cases.keys()
    assert found["supervised", 0].ground == found["mean_teacher", 1].ground


def test_a_stage_was_trained_on_the_draw_that_its_result_names(compared):
    """The key of the stage holds the hash of the training data, which is the one of the result."""
    out, _ = compared
    for (name, seed), result in stored(out).items():
        inputs = json.loads((out / f"{name}-{seed}" / "teacher" / ".inputs.json").read_text())["inputs"]
        assert inputs["training data"] == result.inputs["training data"] and inputs["seed"] == seed


def test_the_draw_is_printed_and_stands_in_the_table(compared):
    out, printed = compared
    for seed, names in record(out)["drawn"].items():
        assert f"seed {seed} learns from the labels of {', '.join(names)}" in printed
        assert f"seed {seed}: {', '.join(names)}" in (out / "table.md").read_text()
        assert ", ".join(names) in (out / "report.html").read_text()


def test_volumes_of_a_3d_teacher_are_drawn_alike(tmp_path):
    recipe = override(load("phantom_volumes"), ["--data.phantom", "3", "4", "2"], prog="x")
    wanted = RunInputs(recipe, tmp_path, 2)
    plan = runs.plan_runs(["cps"], seeds=[0, 1], out=tmp_path, draw=2)
    drawn = {one: wanted.drawn(one) for one in plan}
    for one, names in drawn.items():
        labelled = wanted.context_of(one).volumes.cohort.labelled
        assert tuple(sorted({case.patient for case in labelled})) == names and len(names) == 2
    assert {one.seed: names for one, names in drawn.items()} == draws_of(plan, wanted)
    assert len(set(drawn.values())) == 2
    assert len({json.dumps(wanted.ground(one)) for one in plan}) == 1
    assert len({json.dumps(wanted.inputs(one)) for one in plan}) == len(plan)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cps", "--draw-labelled", "-1"], "--draw-labelled -1"),
        (["cps", "--draw-labelled", "2", "--data.labelled", "3"], "leave out --data.labelled"),
        (["cps", "--draw-labelled", "50", *TINY], "needs 50 phantoms, 7 are there"),
        (["cps", "--settings", "other"], "other"),
        (["cps", "--table-only"], "leave out cps"),
        (["--table-only"], "holds no result"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["compare", *arguments, "--recipe", "phantom", "--out", str(tmp_path / "out")])
    assert left.value.code == 2 and message in capsys.readouterr().err


# --- differences, medians, tiers ---


def made(name: str, seed: int, gain: float, *, noise: float = 0.01, failed: str = "") -> Result:
    """A result whose Dice lies `gain` over that of supervised training, on twelve patients of two classes."""
    base = np.random.default_rng(seed).uniform(0.3, 0.7, (12, 2)) + 0.05 * seed
    extra = noise * np.random.default_rng([seed, *name.encode()]).normal(size=base.shape)
    scores = np.round(base + gain + (0 if name == "supervised" else extra), 5)
    cases = (
        {} if failed else {f"p{i:02d}_frame{j}": list(map(float, scores[2 * i + j])) for i in range(6) for j in (0, 1)}
    )
    return Result(
        method=name.partition(",")[0],
        settings=name.partition(", ")[2] or "common",
        seed=seed,
        delivers="average",
        control="supervised",
        recipe="acdc_methods",
        network="unet",
        steps=2000,
        batch=(4, 4),
        classes=("ventricle", "wall"),
        labelled=3,
        drawn=("p90", "p91", f"p{92 + seed}"),
        created=f"2026-11-2{seed + 1}",
        device="CPU",
        dims=2,
        ground={"steps": 2000},
        inputs={"seed": seed, "method": name},
        cases=cases,
        groups={case: case[:3] for case in cases},
        hd95=4.0,
        step_seconds=0.5,
        seconds=1000.0,
        failed=failed,
    )


GAINS = {"supervised": 0.0, "good": 0.20, "as_good": 0.198, "middle": 0.1, "worse": -0.1}


def many() -> list[Result]:
    return [made(name, seed, gain) for name, gain in GAINS.items() for seed in (0, 1, 2)]


def by_name(found: dict) -> dict[str, dict]:
    return {row["method"]: row for row in found["rows"]}


def test_methods_without_a_sure_difference_to_the_best_are_in_its_tier_and_rows_are_sorted_by_tier():
    found = record_of(many())
    assert [(row["method"], row["tier"]) for row in found["rows"]][2:] == [
        ("middle", 2),
        ("supervised", 3),
        ("worse", 4),
    ]
    first = {row["method"] for row in found["rows"][:2]}
    assert first == {"good", "as_good"} and all(row["tier"] == 1 for row in found["rows"][:2])
    second = found["rows"][1]
    assert second["best_of_tier"] == found["rows"][0]["method"] and second["to_best"]["high"] >= 0
    assert found["rows"][0]["to_best"] is None


def test_a_noisy_method_stays_in_the_first_tier_and_a_surely_worse_one_leaves_it():
    wide = [made("noisy", seed, 0.12, noise=0.4) for seed in (0, 1, 2)]
    rows = by_name(record_of([*many(), *wide]))
    assert rows["noisy"]["tier"] == 1 and rows["middle"]["tier"] == 2


def test_a_method_with_the_easy_seed_alone_is_not_better_for_it():
    """Seed 2 gives every method ten points: the order is that of differences to supervised training."""
    rows = by_name(record_of([*many(), made("lucky", 2, 0.15)]))
    assert rows["lucky"]["dice"] > rows["good"]["dice"] - 0.04
    assert rows["lucky"]["level"] < rows["as_good"]["level"] and rows["lucky"]["tier"] == 2


def test_a_method_without_a_seed_in_common_has_no_tier():
    found = record_of([*many(), made("other", 7, 0.3)])
    assert found["rows"][-1]["method"] == "other" and found["rows"][-1]["tier"] is None
    assert "| – | other |" in comparison_table(found)


def test_without_supervised_training_tiers_are_ordered_by_dice():
    scores = {n: {0: np.full((6, 1), v)} for n, v in {"a": 0.5, "b": 0.7}.items()}
    places = tiers(scores, groups=list("abcdef"), control="supervised")
    assert [(name, place.tier) for name, place in places.items()] == [("b", 1), ("a", 2)]


def test_a_row_has_median_and_difference_of_each_seed_with_its_interval():
    row = by_name(record_of(many()))["middle"]
    assert row["median"] == pytest.approx(sorted(row["each"].values())[1])
    assert set(row["differences"]) == {"0", "1", "2"}
    for gap in row["differences"].values():
        assert gap["low"] <= gap["mean"] <= gap["high"] and gap["mean"] == pytest.approx(0.1, abs=0.01)
    mean = np.mean([gap["mean"] for gap in row["differences"].values()])
    assert row["difference"]["mean"] == pytest.approx(mean)


def test_terminal_page_and_picture_show_tier_median_and_each_seed():
    found = record_of(many())
    text, page, picture = comparison_table(found), comparison_page(found), comparison_picture(found)
    row = by_name(found)["middle"]
    line = next(line for line in text.splitlines() if line.startswith("| 2 | middle |"))
    assert f"| {row['median']:.3f} |" in line
    gap = row["differences"]["1"]
    shown = f"+{gap['mean']:.3f} [+{gap['low']:.3f}, +{gap['high']:.3f}]"
    assert shown in text.split("Difference of each seed")[1] and shown in page
    assert "The first tier has 2 of 5 rows" in page
    for title in ("tier 1", "tier 2", "middle, seed 1:", f"middle over supervised, seed 1: {shown}"):
        assert title in picture
    assert "take an interval that barely leaves out zero as open" in text


def test_one_seed_has_no_table_of_seeds_and_states_what_its_interval_leaves_open():
    text = comparison_table(record_of([result for result in many() if result.seed == 0]))
    assert "Difference of each seed" not in text and "states nothing of other seeds" in text


# --- settings as published ---


def test_bcp_and_ssl4mis_have_the_settings_of_their_releases():
    recipe = load("acdc_methods")
    for name, power in (("bcp", 0.0), ("mc_net", 0.0), ("ua_mt", 0.9), ("cps", 0.9), ("unimatch", 0.9)):
        one = runs.TrainingRun(name, 0, Path("x"), "published")
        of = runs.recipe_of(one, recipe)
        schedule = of.teacher.schedule
        assert (schedule.optimiser, schedule.learning_rate, schedule.weight_decay) == ("sgd", 0.01, 1e-4)
        assert schedule.power == power and schedule.steps == recipe.teacher.schedule.steps
        assert schedule.lr_at(0) == 0.01 and schedule.clip == 0, "no warm-up, no clipping"
        assert of.augment == LIGHT and of.per_image == (name != "unimatch")
    common = runs.recipe_of(runs.TrainingRun("bcp", 0, Path("x")), recipe)
    assert common.teacher.schedule == recipe.teacher.schedule


def test_a_method_of_ours_has_no_published_settings_and_keeps_the_common_ones():
    for name in ("two_stream_mt", "cutmix_mt", "soft_cutmix_mt", "adaptive_threshold", "rdmt", "s_acmt"):
        assert METHODS[name].published() is None
    plan = runs.plan_runs(["two_stream_mt", "bcp"], seeds=[0], out=Path("x"), settings="published")
    assert [(one.method, one.settings) for one in plan] == [
        ("supervised", "common"),
        ("two_stream_mt", "common"),
        ("bcp", "published"),
    ]
    assert plan[2].folder.name == "bcp-published-0"


def test_explain_shows_the_published_settings():
    from edgemt.methods.catalogue import explain

    assert "sgd 0.01, constant, weight decay 0.0001" in explain("bcp")
    assert re.search(r"published settings[^\n]*\n  not known", explain("two_stream_mt"))


def test_published_and_common_settings_are_two_rows_of_one_table(compared, tmp_path):
    out = tmp_path / "all"
    shutil.copytree(compared[0], out)
    cli.main(["compare", "mean_teacher", *DRAW, "--seeds", "1", "--settings", "published", "--out", str(out)])
    rows = by_name(record(out))
    assert set(rows) == {"supervised", "mean_teacher", "mean_teacher, published"}
    inputs = stored(out)["mean_teacher, published", 0].inputs
    assert inputs["teacher"]["schedule"]["optimiser"] == "sgd" and inputs["augment"]["rotation"] == 20
    ran = json.loads((out / "mean_teacher-published-0" / "teacher" / ".inputs.json").read_text())["inputs"]
    assert ran["teacher"]["schedule"] == inputs["teacher"]["schedule"]
    assert rows["mean_teacher, published"]["control"] == "supervised"
    assert rows["mean_teacher, published"]["each"] != rows["mean_teacher"]["each"]
    assert "their control has the common settings" in (out / "table.md").read_text()


# --- interrupted, resumed, filled by several commands ---


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the run folders that were trained."""
    names: list[str] = []

    def train(one: runs.TrainingRun, recipe) -> str:
        names.append(one.folder.name)
        return runs.train(one, recipe)

    monkeypatch.setattr(one_run, "train", train)
    return names


def test_a_result_stands_without_its_run_folder_and_nothing_is_trained_again(compared, tmp_path, trained):
    shutil.copytree(compared[0] / "results", tmp_path / "committed")
    arguments = ["compare", "mean_teacher", *DRAW, "--out", str(tmp_path / "out")]
    cli.main([*arguments, "--results", str(tmp_path / "committed")])
    assert trained == []
    assert record(tmp_path / "out") == record(compared[0])


def test_an_interrupted_comparison_goes_on_with_the_run_that_was_interrupted(compared, tmp_path, monkeypatch, trained):
    out = tmp_path / "all"
    shutil.copytree(compared[0] / "results", out / "results")
    (out / "results" / "mean_teacher_1.json").unlink()
    (out / "results" / "mean_teacher_0.json").unlink()
    whole = runs.train

    def cut(one: runs.TrainingRun, recipe) -> str:
        if one.seed == 1:
            raise KeyboardInterrupt
        return whole(one, recipe)

    arguments = ["compare", "mean_teacher", *DRAW, "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(BaseException):  # noqa: B017, PT011
        patch.setattr(runs, "train", cut)
        cli.main(arguments)
    assert "Not finished: 1 of 4 runs are to come" in (out / "table.md").read_text()
    trained.clear()
    cli.main(arguments)
    assert trained == ["mean_teacher-1"]
    assert by_name(record(out))["mean_teacher"]["each"] == by_name(record(compared[0]))["mean_teacher"]["each"]


def test_a_further_command_fills_the_same_table(compared, tmp_path, trained):
    out = tmp_path / "all"
    shutil.copytree(compared[0] / "results", out / "results")
    cli.main(["compare", "pi_model", *DRAW, "--seeds", "1", "--out", str(out)])
    assert trained == ["supervised_student-0", "pi_model-0"]
    rows = by_name(record(out))
    assert set(rows) == {"supervised", "supervised_student", "mean_teacher", "pi_model"}
    assert set(rows["mean_teacher"]["each"]) == {"0", "1"} and set(rows["pi_model"]["each"]) == {"0"}


def test_a_table_is_made_from_the_results_alone(compared, tmp_path, capsys):
    cli.main(["compare", "--table-only", "--results", str(compared[0] / "results"), "--out", str(tmp_path)])
    assert (tmp_path / "table.md").read_text() == (compared[0] / "table.md").read_text()
    assert capsys.readouterr().out.startswith((tmp_path / "table.md").read_text())


def test_results_of_another_ground_are_refused_before_anything_is_trained(compared, tmp_path, trained, capsys):
    arguments = ["compare", "mean_teacher", *DRAW, "--out", str(tmp_path), "--results", str(compared[0] / "results")]
    with pytest.raises(SystemExit) as left:
        cli.main([*arguments, "--teacher.schedule.steps=5"])
    assert left.value.code == 2 and trained == []
    assert "teacher.schedule.steps 5 -> 4" in capsys.readouterr().err


def test_a_method_whose_fields_changed_is_trained_again_and_its_old_result_set_aside(
    compared, tmp_path, trained, monkeypatch
):
    out = tmp_path / "all"
    shutil.copytree(compared[0] / "results", out / "results")
    changed = dataclasses.replace(METHODS["mean_teacher"], distance="ce")
    monkeypatch.setitem(METHODS, "mean_teacher", changed)
    cli.main(["compare", "mean_teacher", *DRAW, "--seeds", "1", "--out", str(out)])
    assert trained == ["mean_teacher-0"]
    assert (out / "results" / "mean_teacher_0.json.previous-1").exists()


def test_a_result_is_a_file_that_can_be_committed_and_read_back(compared, tmp_path):
    for file in (compared[0] / "results").glob("*.json"):
        text = file.read_text()
        assert str(compared[0]) not in text and "/tmp" not in text and len(text) < 8000
        assert Result.read(file).to_text() == text
    broken = tmp_path / "bcp_0.json"
    broken.write_text(text.replace('"seed"', '"sead"'))
    with pytest.raises(ValueError, match=r"bcp_0.json: is no result"):
        Result.read(broken)


def test_a_method_that_failed_stands_in_the_table_and_is_tried_again(tmp_path):
    for result in [*many(), made("broken", 0, 0.0, failed="the loss is not finite")]:
        results.write(result, tmp_path / "results")
    found = table_only(tmp_path / "results", tmp_path)
    row = by_name(found)["broken"]
    assert row["dice"] is None and row["failed"] == {"0": "the loss is not finite"}
    assert found["rows"][-1]["method"] == "broken"


# --- what it costs ---


def test_the_cost_is_printed_before_it_is_spent_and_a_time_after_the_first_run(compared):
    lines = compared[1].splitlines()
    start = next(
        i for i, line in enumerate(lines) if line.startswith("compare: 4 trainings of 4 steps; 16 steps to come")
    )
    first = next(i for i, line in enumerate(lines) if line.startswith("supervised-0: done (1 of 4, about "))
    assert start < first and lines[first].endswith(" to come)")
    assert lines[-1] == "mean_teacher-1: done (4 of 4)"


def test_time_to_come_counts_what_a_step_of_each_method_costs():
    plan = runs.plan_runs(["mean_teacher"], seeds=[0, 1], out=Path("x"))
    done = [made("supervised", 0, 0.0)]  # 1,000 s
    work = 1000 * (2 * budget.relative("mean_teacher", 2) + 1)
    hours = f"about {work / 60:.0f} min to come"
    assert budget.relative("mean_teacher", 2) > 1.2
    assert budget.time_to_come(plan[1:], done, device="CPU", jobs=1) == hours
    assert budget.time_to_come(plan[1:], done, device="GPU", jobs=1) == "", "measured on another device"
    assert budget.time_to_come(plan[1:], [], device="CPU", jobs=1) == ""
    text = budget.before(plan, plan[1:], steps=2000, jobs=2)
    assert text == "compare: 4 trainings of 2,000 steps, 1 of them stand; 6,000 steps to come, 2 trainings at a time"


# --- the table of the documentation ---


def test_the_table_of_the_documentation_is_what_the_results_state():
    page, store = DOCS / "methods.md", DOCS / "results" / "compare"
    assert page.read_text(encoding="utf-8") == docs.written(page, store), "run python -m edgemt.comparison.docs"
    pictures = docs.pictures(store)
    assert "compare_acdc_methods.svg" in pictures
    for name, picture in pictures.items():
        assert (DOCS / name).read_text(encoding="utf-8") == picture


def test_the_page_has_a_place_for_the_table_of_the_methods_recipe():
    assert docs.BEGIN.format(name="acdc_methods") in (DOCS / "methods.md").read_text(encoding="utf-8")


def test_a_table_is_written_between_its_marks_and_follows_its_results(tmp_path):
    store, page = tmp_path / "docs" / "results" / "compare", tmp_path / "README.md"
    marks = [docs.BEGIN.format(name="heart"), docs.END.format(name="heart")]
    page.write_text(f"before\n{marks[0]}\n{marks[1]}\nafter\n")
    assert docs.written(page, store) == page.read_text(), "no results, no table"
    for result in many():
        results.write(result, store / "heart")
    docs.write(page, store)
    text = page.read_text()
    assert text.startswith(f"before\n{marks[0]}\n") and text.endswith(f"{marks[1]}\nafter\n")
    assert comparison_table(record_of(many())) in text and (tmp_path / "docs" / "compare_heart.svg").exists()
    assert docs.written(page, store) == text
    results.write(made("good", 2, 0.3), store / "heart")
    assert docs.written(page, store) != text, "a result that changed is seen"
    page.write_text("no place\n")
    with pytest.raises(ValueError, match="has no place for the table heart"):
        docs.written(page, store)
