"""Every command that a page of the documentation shows is taken by the parser of its program; none is run."""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tyro
from checkout import ROOT
from pages import PAGES, command_lines

from edgemt import cli, recipes
from edgemt.pipeline.overrides import override

PARSED = [
    pytest.param(words, id=f"{page.relative_to(ROOT).as_posix()}: {' '.join(words)}")
    for page in PAGES
    for words in dict.fromkeys(map(tuple, command_lines(page.read_text(encoding="utf-8"))))
]
ANY = ("RECIPE", "zoo/", "auto")  # any recipe has their fields; `auto` reads a folder
_checked: set[tuple[str, ...]] = set()


class _Parsed(Exception):
    """Raised in place of the work of a program, with the arguments that its parser did not take."""

    def __init__(self, options: Any, rest: Sequence[str]) -> None:
        super().__init__()
        self.options, self.rest = options, list(rest)


@pytest.mark.parametrize("words", PARSED)
def test_every_command_of_a_page_is_taken_by_its_parser(words: tuple[str, ...], monkeypatch) -> None:
    program, *args = words
    if program == "edgemt":
        _parse_edgemt(args)
    else:
        script = "benchmarks/gpu/__main__.py" if program.endswith("gpu/run.sh") else args.pop(0)
        _parse_program(ROOT / script, args, monkeypatch)


def _parse_edgemt(args: list[str]) -> None:
    if not args[1:] and args[0] in cli.NAMES:  # named alone
        return
    command, rest = tyro.cli(cli.Command, args=args, return_unknown_args=True)  # type: ignore[call-overload]
    assert type(command) is cli.NAMES[args[0]]
    if rest:
        assert isinstance(command, cli.TAKES_FIELDS) or args[0] == "export", f"unknown argument {rest[0]}"
        name = str(getattr(command, "recipe", None) or getattr(command, "target", ""))
        _parse_fields("kvasir_cpu" if name.startswith(ANY) else name, rest)


def _parse_fields(recipe: str, rest: list[str]) -> None:
    if (recipe, *rest) not in _checked:
        override(recipes.load(recipe), rest, prog="edgemt")  # a ValueError names the field that does not exist
        _checked.add((recipe, *rest))


def _parse_program(script: Path, args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a program of benchmarks/ up to the end of its parser."""
    assert script.is_file()
    real = argparse.ArgumentParser.parse_known_args

    def parse_known_args(parser: argparse.ArgumentParser, given: Any = None, namespace: Any = None) -> Any:
        raise _Parsed(*real(parser, given, namespace))

    def parse_args(parser: argparse.ArgumentParser, given: Any = None, namespace: Any = None) -> Any:
        options, rest = real(parser, given, namespace)
        assert not rest, f"unknown argument {rest[0]}"
        raise _Parsed(options, rest)

    def typed(kind: type, **options: Any) -> Any:
        raise _Parsed(parse_typed(kind, **options), ())

    parse_typed = tyro.cli
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(tyro, "cli", typed)
    monkeypatch.setattr(sys, "argv", [str(script), *args])
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    with pytest.raises(_Parsed) as parsed:
        runpy.run_path(str(script), run_name="__main__")
    monkeypatch.undo()
    if parsed.value.rest:  # what such a program does not take are fields of its recipe
        _parse_fields(parsed.value.options.recipe, [word for word in parsed.value.rest if word != "--"])


def test_commands_were_found() -> None:
    assert len(PARSED) > 150
    assert len([p for p in PARSED if p.values[0][0] == "python"]) > 20  # type: ignore[index]


@pytest.mark.parametrize("line", ["edgemt run kvasir_cpu --data.rot DIR", "edgemt eval SHIP --corupt", "edgemt trian"])
def test_a_command_or_flag_that_does_not_exist_is_found(line: str) -> None:
    (words,) = command_lines(f"    {line}")
    with pytest.raises((ValueError, AssertionError, SystemExit)):
        _parse_edgemt(words[1:])


def test_an_option_that_a_program_does_not_have_is_found(monkeypatch) -> None:
    with pytest.raises(AssertionError, match="--models-of"):
        given = ["--models", "a", "--controls", "b", "--models-of"]
        _parse_program(ROOT / "benchmarks" / "paired_dice.py", given, monkeypatch)
