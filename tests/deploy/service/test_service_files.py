"""The units and the container file, checked as far as this machine can: systemd-analyze, and the text."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import tyro
from checkout import ROOT

from edgemt import cli

HERE = ROOT / "deploy" / "service"
UNITS = sorted(HERE.glob("*.service"))
CONTAINER = (HERE / "Containerfile").read_text(encoding="utf-8")


def settings(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^([A-Za-z]+)=(.*)$", unit.read_text(encoding="utf-8"), re.M):
        found.setdefault(key, []).append(value)
    return found


def instructions() -> list[tuple[str, str]]:
    """(instruction, its words) of the container file, lines joined, comments left out."""
    text = re.sub(r"^#.*\n", "", CONTAINER, flags=re.M).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_has_a_watchdog_cores_of_its_own_and_no_rights(unit: Path) -> None:
    found = settings(unit)
    assert found["Type"] == ["notify"] and int(found["WatchdogSec"][0]) > 0 and found["Restart"] == ["always"]
    assert found["WatchdogSignal"] == ["SIGKILL"] and found["LimitCORE"] == ["0"]  # no picture in a core file
    assert re.fullmatch(r"\d+( \d+)*", found["CPUAffinity"][0])
    assert found["User"] == ["edgemt"] and found["CapabilityBoundingSet"] == [""]
    assert found["ProtectSystem"] == ["strict"] and found["NoNewPrivileges"] == ["yes"] and found["UMask"] == ["0077"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_command_of_a_unit_is_one_that_edgemt_has(unit: Path) -> None:
    (command,) = settings(unit)["ExecStart"]
    program, *words = shlex.split(command)
    parsed, unknown = tyro.cli(cli.Command, args=words, return_unknown_args=True)  # type: ignore[call-overload]
    assert program.endswith("/bin/edgemt") and not unknown and type(parsed).__name__.lower() == words[0]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed here")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_accepts_a_unit_and_finds_little_exposed(unit: Path, tmp_path: Path) -> None:
    """The program of the unit is not installed here, so another one stands for it."""
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/edgemt/bin/edgemt", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    wrong = tmp_path / "wrong.service"
    wrong.write_text(copy.read_text().replace("CPUAffinity=0 1", "CPUAffinity=first"))
    assert "CPU" in subprocess.run(["systemd-analyze", "verify", wrong], capture_output=True, text=True).stderr
    security = ["systemd-analyze", "security", "--offline=yes", "--no-pager", copy]
    done = subprocess.run(security, capture_output=True, text=True)
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    if exposure is None:
        pytest.skip(f"this systemd judges no file: {done.stderr[:80]}")
    assert float(exposure[1]) < 3.0, done.stdout


def test_the_container_ends_as_a_user_without_rights() -> None:
    found = instructions()
    last_stage = found[max(k for k, (name, _) in enumerate(found) if name == "FROM") :]
    users = [words for name, words in last_stage if name == "USER"]
    assert users and all(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) for user in users)  # numbers: checked without passwd
    after = last_stage[[name for name, _ in last_stage].index("USER") :]
    assert not [name for name, _ in after if name in ("RUN", "COPY", "ADD")]
    assert ("ENTRYPOINT", '["edgemt"]') in last_stage
    assert "--read-only" in CONTAINER and "--cap-drop=all" in CONTAINER and "no-new-privileges" in CONTAINER


def test_the_container_has_no_secret_and_names_no_registry() -> None:
    found = instructions()
    assert not re.search(
        r"password|token|secret|api_?key|--index-url|--extra-index|https?://", CONTAINER, re.IGNORECASE
    )
    for name, words in found:
        if name == "COPY" and not words.startswith("--from=build"):
            *sources, _ = words.split()
            assert all((ROOT / source).exists() and source not in (".", "./") for source in sources), words
        if name in ("FROM", "ARG"):
            assert "/" not in words  # an image by its short name: the machine that builds decides where it comes from
        assert name != "ADD"


def test_the_extras_of_the_container_exist() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (named,) = re.findall(r"/src\[([\w,]+)\]", CONTAINER)
    assert set(named.split(",")) <= set(extras) and "pacs" in named and "train" not in named


def test_the_commands_in_the_container_file_are_those_of_edgemt() -> None:
    text = re.sub(r"^# ?", "", CONTAINER, flags=re.M).replace("\\\n", " ")
    runs = [line for line in text.splitlines() if line.strip().startswith("podman run")]
    assert len(runs) == 2
    for line in runs:
        words = shlex.split(line)
        args = words[len(words) - words[::-1].index("edgemt") :]
        parsed, unknown = tyro.cli(cli.Command, args=args, return_unknown_args=True)  # type: ignore[call-overload]
        assert type(parsed).__name__.lower() == args[0] and not unknown
