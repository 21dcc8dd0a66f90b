"""What every command uses: a log line on stderr, a JSON file, its help, an error for further arguments."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import tyro

from edgemt.io import process_rank


def log(text: str) -> None:
    """Print a line on stderr, from the first process only."""
    if process_rank.is_main_before_init():
        print(f"edgemt: {text}", file=sys.stderr, flush=True)


def write_json(file: Path | None, record: dict[str, Any]) -> None:
    """Write `record` as JSON to `file`, unless that is None."""
    if file is not None:
        import json

        from edgemt.io.atomic import write_text

        write_text(file, json.dumps(record, indent=1) + "\n")


def pass_progress(what: str) -> Callable[..., None]:
    """A callback (done, total, item="") for long work: a counter with the time left and the name of the item.

    It is redrawn on a terminal at most five times a second; elsewhere there is a line every 15 s.
    """
    import time

    began = last = time.monotonic()

    def show(done: int, total: int, item: str = "") -> None:
        nonlocal last
        now, terminal = time.monotonic(), sys.stderr.isatty()
        if now - last <= (0.2 if terminal else 15) and not (terminal and done == total):
            return
        last = now
        left_s = (now - began) / max(done, 1) * (total - done)
        text = f"{what}: {done}/{total}, {left_s:.0f} s left {item[-60:]}".rstrip()
        if terminal:
            print(f"\r{text:100}", end="\n" if done == total else "", file=sys.stderr, flush=True)
        else:
            log(text)

    return show


def command_name(kind: type) -> str:
    """The name of a command on the command line: ExportLabels is export-labels."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", kind.__name__).lower()


def show_help(kind: type) -> None:
    """Prints the help of a command and leaves with status 0."""
    tyro.cli(kind, args=["--help"], prog=f"edgemt {command_name(kind)}")


_SPELLED = {"root": "--data.root", "val": "--data.val", "by": "--data.by", "target": "TARGET"}


def refuse_flags(command: Any, *names: str, why: str) -> None:
    """Raises ValueError for the first of the fields `names` that has another value than its default.

    `why` states what makes the flag change nothing.
    """
    for of in fields(command):
        if of.name in names and getattr(command, of.name) != of.default:
            flag = f"--{'no-' if of.default is True else ''}{of.name.replace('_', '-')}"
            raise ValueError(f"{_SPELLED.get(of.name, flag)}: has no effect, {why}; leave it out")


def without_extra_args(carry_out: Callable[[Any], None]) -> Callable[[Any, list[str]], None]:
    """A command without a recipe's fields: an argument that is left over is a mistake."""

    def strict(command: Any, rest: list[str]) -> None:
        if rest:
            raise ValueError(f"unknown argument {rest[0]!r}; see edgemt {command_name(type(command))} --help")
        carry_out(command)

    return strict
