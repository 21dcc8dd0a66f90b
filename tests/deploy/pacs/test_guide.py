"""The guide names options and tests that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import tyro
from checkout import ROOT

from edgemt import cli
from edgemt.commands.pacs import Pacs

TEXT = (ROOT / "docs" / "guides" / "pacs.md").read_text(encoding="utf-8")


def test_every_fault_has_a_test_that_plays_it() -> None:
    here = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    rows = re.findall(r"^\|.*\|$", TEXT.partition("## What can go wrong")[2], re.M)[2:]
    assert len(rows) > 10
    for row in rows:
        (name,) = re.findall(r"`(test_\w+)`", row)
        assert f"def {name}(" in here, row


def test_every_command_and_option_exists() -> None:
    commands = re.findall(r"^    edgemt (pacs .*)$", TEXT, re.M)
    assert len(commands) > 1
    for command in commands:
        parsed, unknown = tyro.cli(cli.Command, args=shlex.split(command), return_unknown_args=True)  # type: ignore[call-overload]
        assert isinstance(parsed, Pacs) and not unknown
    fields = {name.strip("_").replace("_", "-") for name in Pacs.__dataclass_fields__} | {
        "retry.first-s",
        "retry.most-s",
    }
    named = set(re.findall(r"`--([\w.-]+)", TEXT))
    assert named - fields <= {"format", "userns"}, named - fields
