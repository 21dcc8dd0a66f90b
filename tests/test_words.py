"""The word list of `.ci/words`: names and phrases that a new reader cannot guess do not come back."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
from checkout import ROOT

LOADER = SourceFileLoader("ci_words", str(ROOT / ".ci" / "words"))
SPEC = importlib.util.spec_from_loader("ci_words", LOADER)
assert SPEC is not None
words = importlib.util.module_from_spec(SPEC)
LOADER.exec_module(words)


def found(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str = "file.py") -> list[str]:
    monkeypatch.setattr(words, "ROOT", tmp_path)
    (tmp_path / name).write_text(text, encoding="utf-8")
    return [str(hit) for hit in words.find([tmp_path / name])]


def test_product_and_documentation_are_clean() -> None:
    later = words.allowed()
    hits = [hit for hit in words.find([ROOT / name for name in words.CHECKED]) if words.relative(hit.path) not in later]
    assert not hits, "\n".join(map(str, hits))


@pytest.mark.parametrize(
    "code",
    ["said = 1", "def f(told): ...", "def _held(): ...", "class Word: ...", "self.bar = 1", "import x as looks",
     "for kept in (): ...", "with open(p) as doubt: ...", "x: int\napart: int = 2"],
)  # fmt: skip
def test_bound_name_is_found(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(found(code, tmp_path, monkeypatch)) == 1


@pytest.mark.parametrize("code", ["x = said", "f(told=1)", "threshold = 1", "barrier = 1", "bar = 1  # words: ok"])
def test_used_name_and_marked_line_are_not_found(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not found(code, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "code",
    ['"""What the card says of it."""', "x = 1  # nobody reads it", 'raise ValueError(f"{x}: is told twice")',
     'def f():\n    """One line.\n\n    Whoever calls it.\n    """'],
)  # fmt: skip
def test_phrase_is_found_in_prose(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(found(code, tmp_path, monkeypatch)) == 1


def test_phrase_is_not_found_in_keys_and_marked_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not found('x = {"says": 1}', tmp_path, monkeypatch)
    assert not found('"""The user\n\nknows."""  # words: ok', tmp_path, monkeypatch)
    assert not found("The user knows. <!-- words: ok -->", tmp_path, monkeypatch, "page.md")
    assert len(found("The card knows.", tmp_path, monkeypatch, "page.md")) == 1


def test_files_that_are_allowed_exist() -> None:
    assert all((ROOT / name).is_file() for name in words.allowed())
