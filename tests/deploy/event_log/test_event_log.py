"""The event log: its chain, what breaks it, and what a killed process or a full disk leaves."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from full_disk import full_disk

from deploy.event_log import log_file
from deploy.event_log.device import device_id
from deploy.event_log.log_file import EventLogFile
from deploy.event_log.verify import verify_log
from edgemt.cli import main


def write_session(path: Path, *events: str, device: str = "a1") -> EventLogFile:
    file = EventLogFile(path)
    file.append("start", {"device": device, "model": "polyp@1"})
    for event in events:
        file.append(event, {"count": 1})
    file.append("end")
    file.close()
    return file


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    path = tmp_path / "device.log"
    write_session(path, "state", "state")
    write_session(path, "summary")
    return path


def test_sessions_continue_one_chain(log_path: Path) -> None:
    check = verify_log(log_path)
    assert (check.error, check.warnings, check.events, check.sessions) == ("", [], 7, 2)
    assert check.counts == {"start": 2, "state": 2, "summary": 1, "end": 2}
    assert check.models == ["polyp@1"] and check.devices == ["a1"] and check.unfinished == 0
    rows = [json.loads(line) for line in log_path.read_bytes().splitlines()]
    assert [row["n"] for row in rows] == list(range(7))
    assert os.stat(log_path).st_mode & 0o777 == 0o600


def _changed(lines: list[bytes], kind: str) -> list[bytes]:
    if kind == "a value":
        return [lines[0], lines[1].replace(b'"count":1', b'"count":2'), *lines[2:]]
    if kind == "a removed line":
        return [*lines[:2], *lines[3:]]
    if kind == "the first line":
        return lines[1:]
    if kind == "two exchanged lines":
        return [lines[0], lines[2], lines[1], *lines[3:]]
    if kind == "a repeated line":
        return [*lines[:2], lines[1], *lines[2:]]
    if kind == "no JSON":
        return [*lines[:2], b"nothing\n", *lines[3:]]
    return [*lines[:3], b"\xff\x00 anything\n", *lines[3:]]  # an inserted line


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("a value", 3), ("a removed line", 3), ("the first line", 1), ("two exchanged lines", 2),
        ("a repeated line", 3), ("no JSON", 3), ("an inserted line", 4),
    ],
)  # fmt: skip
def test_every_change_is_found_with_its_line(log_path: Path, kind: str, line: int, capsys: Any) -> None:
    lines = log_path.read_bytes().splitlines(keepends=True)
    log_path.write_bytes(b"".join(_changed(lines, kind)))
    assert f"line {line}:" in verify_log(log_path).error
    with pytest.raises(SystemExit) as status:
        main(["log", "verify", str(log_path)])
    assert status.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


def test_a_log_that_was_written_anew_or_cut_is_found_by_a_head_noted_before(tmp_path: Path) -> None:
    path = tmp_path / "device.log"
    head = write_session(path, "state").head
    write_session(path)
    assert verify_log(path, head=head[:16]).error == ""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]))
    assert verify_log(path).error == "" and "hash" in verify_log(path, head=head).error
    path.unlink()
    write_session(path, "state")
    assert "hash" in verify_log(path, head=head).error
    with pytest.raises(ValueError, match="hexadecimal"):
        verify_log(path, head="no hash")


def test_a_process_killed_at_any_byte_leaves_a_log_that_goes_on(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.log", tmp_path / "cut.log"
    write_session(whole, "state")
    data = whole.read_bytes()
    ends = [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]
    for cut in range(0, len(data), 7):
        path.write_bytes(data[:cut])
        complete = sum(end <= cut for end in ends) + (cut + 1 in ends)  # an event may lack its line feed alone
        write_session(path)
        check = verify_log(path)
        torn = check.counts.get("recovered", 0)
        assert (check.error, check.events) == ("", complete + torn + 2), cut
        assert path.read_bytes().startswith(data[:cut])  # nothing that was in the file is lost
    path.write_bytes(data[:-10])
    assert "cut short" in " ".join(verify_log(path).warnings)
    assert "has no end" in " ".join(verify_log(path).warnings)


def test_an_installation_is_a_session_without_an_end(log_path: Path) -> None:
    for event in ("installed", "install-refused", "went-back"):
        file = EventLogFile(log_path)
        file.append(event, {"in_use": "polyp-v2"})
        file.close()
    check = verify_log(log_path)
    assert (check.warnings, check.unfinished, check.sessions) == ([], 0, 5)


@pytest.mark.parametrize("room", [0, 1, 40, 150])
def test_a_full_disk_tears_a_line_and_the_chain_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    path = tmp_path / "device.log"
    file = EventLogFile(path)
    file.append("start")
    disk = full_disk(monkeypatch, room=room)
    for _ in range(3):
        with pytest.raises(OSError):
            file.append("state", {"reason": "x" * 200})
        disk.room += 10  # not enough for a line: the rest of the disk is filled by torn pieces
    disk.room = 10**6
    file.append("end")
    file.close()
    check = verify_log(path)
    assert check.error == "" and check.counts["end"] == 1 and check.counts["recovered"] == 1


def test_a_log_belongs_to_one_process_and_is_a_log(tmp_path: Path) -> None:
    path = tmp_path / "device.log"
    first = EventLogFile(path)
    with pytest.raises(ValueError, match="another process writes to it"):
        EventLogFile(path)
    first.close()
    other = tmp_path / "notes.txt"
    other.write_text("two\nlines\n")
    with pytest.raises(ValueError, match="does not end with an event"):
        EventLogFile(other)
    assert other.read_text() == "two\nlines\n"
    os.mkfifo(tmp_path / "pipe")
    for wrong in (tmp_path, tmp_path / "missing" / "x.log", tmp_path / "pipe"):
        with pytest.raises(ValueError, match="name another"):
            EventLogFile(wrong)
    link = tmp_path / "link.log"
    link.symlink_to(path)
    with pytest.raises(ValueError, match="cannot be opened"):
        EventLogFile(link)
    assert "no event" in verify_log(path).error  # empty
    with pytest.raises(ValueError, match="field of every line"):
        EventLogFile(path).append("state", {"n": 1})


def test_a_clock_that_was_set_and_a_second_device_are_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "device.log"
    write_session(path)
    import datetime as module

    class Earlier(module.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return module.datetime.now(tz) - module.timedelta(hours=1)

    file = EventLogFile(path)
    file.append("start", {"device": "b2"})
    with monkeypatch.context() as patch:
        patch.setattr(log_file, "datetime", Earlier)
        file.append("state")
    file.append("end")
    file.close()
    with monkeypatch.context() as patch:
        patch.setattr(log_file, "datetime", Earlier)
        write_session(path)
    check = verify_log(path)
    text = "\n".join(check.warnings)
    assert check.error == "" and check.devices == ["a1", "b2"] and "second device" in text
    assert "set by -3600 s" in text and "set by +3600 s" in text and "begins 3600 s before" in text


def test_a_time_without_a_zone_is_no_event(log_path: Path) -> None:
    lines = log_path.read_bytes().splitlines(keepends=True)
    log_path.write_bytes(b"".join([*lines[:3], re.sub(rb'Z","at_s"', b'","at_s"', lines[3]), *lines[4:]]))
    assert "line 4: is no event" in verify_log(log_path).error


def test_the_device_id_is_stable_and_not_the_machine_id() -> None:
    assert device_id() == device_id()
    machine = Path("/etc/machine-id")
    if machine.exists() and machine.read_text().strip():
        assert len(device_id()) == 12 and device_id() not in machine.read_text()
