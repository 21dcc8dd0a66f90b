"""The table of methods says of each row what it is, and the page of the teachers shows the table that there is."""

from __future__ import annotations

import ast
import inspect
import json
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from checkout import ROOT

from edgemt.learning.method import Method
from edgemt.learning.targets import AffineConsistent
from edgemt.methods import METHODS, catalogue
from edgemt.methods.catalogue import explain
from edgemt.methods.supervised import Supervised

PAGE = ROOT / "docs" / "methods.md"
CLASSES = {kind for method in METHODS.values() for kind in type(method).__mro__ if issubclass(kind, Method)} - {Method}
every = pytest.mark.parametrize("name", METHODS)


@every
def test_a_row_tells_idea_target_players_citation_and_what_differs(name: str) -> None:
    row = catalogue.row(name, METHODS[name])
    assert row.idea and row.target and row.citation and row.differs, row
    assert len(row.idea) <= 100 and "\n" not in row.idea
    assert all(who in row.players for who in METHODS[name].roles())
    assert row.players.count("delivered)") == 1


@every
def test_a_method_that_could_not_be_read_is_named_inspired_by(name: str) -> None:
    row = catalogue.row(name, METHODS[name])
    assert row.inspired == row.idea.startswith("Inspired by ")


@every
def test_explain_tells_what_the_table_tells(name: str) -> None:
    row, text_of_explain = catalogue.row(name, METHODS[name]), " ".join(explain(name).split())
    for text in (row.idea, row.target, row.differs, row.citation, row.times or "not measured", *row.heads):
        assert " ".join(text.split()) in text_of_explain


def test_no_two_rows_tell_the_same() -> None:
    ideas = [row.idea for row in catalogue.rows()]
    assert len(set(ideas)) == len(ideas) == len(METHODS)


def test_a_target_rule_that_is_not_the_methods_own_speaks_for_the_row() -> None:
    moved = catalogue.row("moved", replace(METHODS["mean_teacher"], target=AffineConsistent()))
    assert moved.inspired and "affine" in moved.idea and "affine" in moved.citation
    assert not catalogue.row("plain", METHODS["mean_teacher"]).inspired


def test_a_method_of_someone_else_has_a_row_without_a_cost() -> None:
    @dataclass(frozen=True)
    class Theirs(Supervised):
        """Labels, twice.

        Target: none.
        """

    row = catalogue.row("theirs", Theirs())
    assert (row.idea, row.target, row.differs, row.times) == ("Labels, twice.", "none.", "", "")
    assert catalogue.about("theirs", Theirs()) == "Labels, twice."
    assert "| `theirs` | Labels, twice. |" in catalogue.markdown([row])


def test_families_are_kept_together() -> None:
    families = [row.family for row in catalogue.rows()]
    assert sum(a != b for a, b in zip(families, families[1:], strict=False)) == len(set(families)) - 1


def test_the_page_shows_the_table_that_there_is() -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = text.partition(catalogue.BEGIN + "\n")[2].partition(catalogue.END)[0]
    assert shown == catalogue.markdown(catalogue.rows()), "out of date: run python -m edgemt.methods.catalogue"


def test_writing_changes_what_is_between_the_marks_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"above\n{catalogue.BEGIN}\nold\n{catalogue.END}\nbelow\n")
    catalogue.write(page)
    assert (
        page.read_text() == f"above\n{catalogue.BEGIN}\n{catalogue.markdown(catalogue.rows())}{catalogue.END}\nbelow\n"
    )
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no place for the table"):
        catalogue.write(page)


def test_costs_are_of_methods_that_there_are_and_say_where_they_come_from() -> None:
    record = json.loads(catalogue.COSTS.read_text())
    assert set(record["relative"]) <= set(METHODS)
    assert all(record[key] for key in ("date", "device", "torch", "command"))
    assert set(record["settings"]) == {"2d", "3d"}
    assert all(value > 0 for cost in record["relative"].values() for value in cost.values())
    assert 0.7 < record["relative"]["supervised"]["2d"] < 1.4, "a supervised step costs what a supervised step costs"


def test_where_nothing_was_measured_the_table_stands_without_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(catalogue, "COSTS", tmp_path / "none.json")
    catalogue.costs.cache_clear()
    try:
        assert catalogue.row("ua_mt", METHODS["ua_mt"]).times == ""
        assert "not measured" in explain("ua_mt")
        assert catalogue.markdown(catalogue.rows()).startswith("| family |")
    finally:
        catalogue.costs.cache_clear()


def code_lines(kind: type) -> int:
    """Lines of a class without docstrings, comments and empty lines."""
    source = inspect.getsource(kind)
    docstring_lines = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            docstring_lines |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = [line.strip() for number, line in enumerate(source.splitlines(), 1) if number not in docstring_lines]
    return sum(bool(line) and not line.startswith("#") for line in lines)


def test_methods_are_short() -> None:
    lengths = {kind.__name__: code_lines(kind) for kind in CLASSES}
    assert statistics.median(lengths.values()) <= 25
    assert max(lengths.values()) <= 80, max(lengths, key=lengths.__getitem__)


@pytest.mark.parametrize("kind", sorted(CLASSES, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_no_method_holds_a_training_loop(kind: type) -> None:
    """Steps backward, optimisers and devices are the engine's."""
    called = {node.func.attr for node in ast.walk(parsed(kind)) if isinstance(node, ast.Call) and attributed(node)}
    assert not called & {"backward", "zero_grad", "state_dict", "load_state_dict", "cuda", "train", "eval"}
    assert "optim" not in {node.attr for node in ast.walk(parsed(kind)) if isinstance(node, ast.Attribute)}


def parsed(kind: type) -> ast.Module:
    return ast.parse(inspect.getsource(kind))


def attributed(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Attribute)
