"""The command line: what is wrong is said in one line, with the nearest right name, and exit status 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemt import cli


def said_by(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(args)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said and len(said.strip().splitlines()) == 1, said
    return said


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["rum", "phantom"], "unknown command 'rum'; nearest: run"),
        (["run", "phantm"], "unknown recipe 'phantm'; nearest: phantom"),
        (
            ["run", "phantom", "--student.schedul.steps", "3"],
            "unknown field 'student.schedul.steps'; nearest: student.schedule.steps",
        ),
        (
            ["run", "phantom", "--student.method", "mean_techer"],
            "unknown method 'mean_techer'; nearest: mean_teacher",
        ),
        (["run", "phantom", "--student.schedule.steps", "many"], "student.schedule.steps"),
        (["run", "phantom", "--slim.prune.share", "1.5"], "prune.share = 1.5"),
        (["run", "nowhere.py:make"], "nowhere.py: no such recipe file"),
        (["run", "kvasir_cpu", "--data.root", "no-such-folder"], "no such folder 'no-such-folder'"),
        (["bench", "no-such-ship"], "neither a ship folder nor a recipe"),
        (["eval", "no-such-ship"], "no-such-ship: no such ship folder"),
        (["explain", "mean_techer"], "mean_teacher"),
        (["eval", "ship", "--nonsense"], "unknown argument '--nonsense'"),
    ],
)
def test_what_is_wrong_is_one_line(args: list[str], expected: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in said_by(args, capsys)


@pytest.mark.parametrize("what", ["recipes", "methods", "teachers", "students", "runtimes", "datasets", "layouts"])
def test_list_shows_every_row_with_a_line_about_it(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["list", what])
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) >= 3 and all(len(row.split(maxsplit=1)) == 2 for row in rows)


def test_explain_shows_roles_target_fields_and_citation(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["explain", "ua_mt"])
    said = capsys.readouterr().out
    assert all(word in said for word in ("student", "teacher", "UncertaintyMasked", "target.passes", "MICCAI 2019"))


def test_help_of_a_recipe_shows_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["run", "phantom", "--help"])
    assert stopped.value.code == 0
    assert "--student.schedule.steps" in capsys.readouterr().out


def test_a_recipe_of_ones_own_is_a_function_in_a_file(tmp_path: Path) -> None:
    from edgemt import recipes
    from edgemt.pipeline.overrides import override

    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import replace\nfrom edgemt.recipes import load\n"
        "def small():\n    return replace(load('phantom'), name='small')\n"
    )
    recipe = override(recipes.load(f"{file}:small"), ["--student.method.temperature", "3"], prog="edgemt run")
    assert recipe.name == "small" and recipe.student.method.temperature == 3
    with pytest.raises(ValueError, match="nearest: small"):
        recipes.load(f"{file}:smal")


def test_a_recipe_file_with_a_mistake_is_named(tmp_path: Path) -> None:
    from edgemt import recipes

    file = tmp_path / "mine.py"
    file.write_text("def broken(:\n")
    with pytest.raises(ValueError, match=r"mine\.py: cannot be imported \(SyntaxError"):
        recipes.load(f"{file}:broken")


def test_every_recipe_survives_its_own_overrides() -> None:
    from edgemt import recipes
    from edgemt.pipeline.overrides import override

    for name in recipes.RECIPES:
        changed = override(recipes.RECIPES[name](), ["--seed", "7", "--teacher.method", "ua_mt"], prog="edgemt run")
        assert changed.seed == 7 and type(changed.teacher.method.target).__name__ == "UncertaintyMasked"
