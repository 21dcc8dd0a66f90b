"""What deploy/README.md tells a field engineer to type exists, and the trust and serving parts run as written."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import tyro
from checkout import ROOT

pytest.importorskip("onnx")

from tiny_package import make_ship  # noqa: E402

from edgemt import cli  # noqa: E402

TEXT = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
WITHOUT_FILES = "sudo", "tritonserver", "ovms", "openssl", "cat", "dpkg", "grep", "pip"


def commands(text: str) -> list[list[str]]:
    """Every `edgemt ...` in shell blocks and in backticks, as words; what stands before and after it is left out."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    quoted = re.findall(r"`([^`\n]*\bedgemt [^`\n]*)`", re.sub(r"```.*?```|^#.*$", "", text, flags=re.S | re.M))
    found = []
    for line in [line for block in blocks for line in block.splitlines()] + quoted:
        for part in re.split(r"&&|\|", line):
            words = shlex.split(part)
            if "edgemt" in words and words[0] not in WITHOUT_FILES:
                found.append(words[words.index("edgemt") + 1 :])
    return found


COMMANDS = commands(TEXT)


def section(title: str) -> str:
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.S | re.M).group(1)  # type: ignore[union-attr]


def test_the_sections_of_a_field_engineer_are_there() -> None:
    for title in ("Live masks", "Trust", "Serving", "Intel box", "Jetson Orin"):
        assert commands(section(title)), title


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_and_flag_exists(words: list[str]) -> None:
    if len(words) == 1:  # named alone, in a sentence
        assert words[0] in cli.NAMES
        return
    parsed, unknown = tyro.cli(cli.Command, args=words, return_unknown_args=True)  # type: ignore[call-overload]
    assert not unknown
    assert type(parsed).__name__.lower() == words[0]


@pytest.mark.parametrize("title", ["Trust", "Serving"])
def test_trust_and_serving_run_as_written(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cryptography")
    pytest.importorskip("openvino")
    make_ship(tmp_path / "ship", openvino=True)
    monkeypatch.chdir(tmp_path)
    for line in re.findall(r"```sh\n(.*?)```", section(title), re.S)[0].splitlines():
        words = shlex.split(line)
        with monkeypatch.context() as environment:
            for setting in words[: words.index("edgemt")]:
                environment.setenv(*setting.split("=", 1))
            cli.main(words[words.index("edgemt") + 1 :])
        assert capsys.readouterr().out.strip()
    checks = re.findall(r"`(openssl [^`]+)`", section(title))
    if checks and shutil.which("openssl"):
        assert "Verified Successfully" in subprocess.run(shlex.split(checks[0]), capture_output=True, text=True).stdout


def test_every_fault_in_the_table_has_a_test_that_plays_it() -> None:
    here = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py"))
    rows = re.findall(r"^\|.*\|$", section("Live masks").partition("### What can go wrong")[2], re.M)[2:]
    assert len(rows) > 20
    for row in rows:
        (name,) = re.findall(r"`(test_\w+)`", row)
        assert f"def {name}(" in here, row


def test_every_file_has_its_row() -> None:
    folder = ROOT / "deploy"
    table = TEXT.partition("| file |")[2].partition("\n\n")[0]
    named = re.findall(r"`([\w/]+(?:\.py)?/?)`", table)
    assert {path.name for path in folder.glob("*.py")} - {"__init__.py"} == {name for name in named if name[-1] != "/"}
    there = {f"{path.name}/" for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert there == {name for name in named if name[-1] == "/"}
    assert all((folder / name).exists() for name in named)


def test_sources_outputs_and_states_in_the_tables_are_those_there_are() -> None:
    from deploy.stream.outputs import OUTPUTS
    from deploy.stream.state.frames import STATES

    live = section("Live masks")
    for head, there in (("`--output`, one or several", OUTPUTS), ("state", STATES)):
        table = live.partition(f"| {head} |")[2].partition("\n\n")[0]
        assert set(re.findall(r"^\| `([\w-]+)", table, re.M)) == set(there)


def test_the_extras_named_there_exist() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in re.findall(r"edgemt\[(\w+)\]", TEXT):
        assert extra in project["optional-dependencies"]
