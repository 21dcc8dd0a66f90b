"""One run in one folder, and a folder that cannot be written, in one line before anything is trained."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from tiny_flags import TINY

from edgemt import cli
from edgemt.artefacts import run_lock
from edgemt.artefacts.run_lock import LOCK, FolderInUseError, locked
from edgemt.io import atomic
from edgemt.pipeline import flow

HOLD = """
import sys, time
from edgemt.artefacts.run_lock import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path):
    """Another process that works in the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None and process.stdout.readline() == b"locked\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_run_names_the_first_and_stops(
    other: subprocess.Popen, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "phantom", "--out", str(tmp_path / "run"), *TINY])
    line = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and "\n" not in line
    assert f"in use by process {other.pid} on {socket.gethostname()} since 20" in line
    assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]


def test_the_lock_of_a_killed_process_is_taken_over(other: subprocess.Popen, tmp_path: Path) -> None:
    other.send_signal(signal.SIGKILL)
    other.wait()
    lock = tmp_path / "run" / LOCK
    assert json.loads(lock.read_text())["pid"] == other.pid
    with locked(tmp_path / "run"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert not lock.exists()


def test_it_ends_with_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path):
        raise RuntimeError
    with locked(tmp_path), pytest.raises(FolderInUseError), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def elsewhere(lock: Path, **changes: object) -> None:
    holder = {"pid": os.getpid(), "host": "elsewhere", "since": "2026-01-01T00:00:00+00:00", "boot": "another"}
    lock.write_text(json.dumps({**holder, **changes}))


def test_another_machine_is_believed_until_its_file_is_removed(tmp_path: Path) -> None:
    elsewhere(tmp_path / LOCK)
    with pytest.raises(FolderInUseError, match=r"on elsewhere since 2026.* remove .*\.lock"), locked(tmp_path):
        pass
    (tmp_path / LOCK).unlink()
    with locked(tmp_path):
        pass


def test_a_machine_that_was_started_anew_runs_nothing_any_more(tmp_path: Path) -> None:
    elsewhere(tmp_path / LOCK, host=socket.gethostname())
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("lives", [True, False])
def test_without_locks_of_the_file_system_the_process_is_looked_up(
    lives: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    pid = os.getpid() if lives else gone.pid
    elsewhere(tmp_path / LOCK, pid=pid, host=socket.gethostname(), boot=run_lock._boot())
    if lives:
        with pytest.raises(FolderInUseError), locked(tmp_path):
            pass
    else:
        with locked(tmp_path):
            pass


def test_a_lock_file_without_sense_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("{")
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("out", ["file", "file/run", "no-rights/run", "x" * 300])
def test_a_folder_that_cannot_be_made_is_one_line(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    if out.startswith("no-rights"):
        real = Path.mkdir

        def mkdir(path: Path, *args: object, **given: object) -> None:
            if path.name == "run":
                raise OSError(errno.EROFS, "Read-only file system", str(path))
            real(path, *args, **given)  # type: ignore[arg-type]

        monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "phantom", "--out", str(tmp_path / out), *TINY])
    line = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and "\n" not in line
    assert str(tmp_path / out) in line and "cannot be made" in line
    assert (tmp_path / "file").read_text() == "not a folder"


def test_a_full_disk_is_found_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "phantom", "--out", str(tmp_path / "run"), *TINY])
    line = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and "no space left on the disk" in line and "/40" not in line


def test_a_write_that_is_refused_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(atomic.os, "replace", refused)
    with pytest.raises(ValueError, match=r"record\.json: cannot be written \(a read-only file system\)"):
        atomic.write_text(tmp_path / "record.json", "{}")


def test_the_folder_is_free_again_after_a_run_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgemt import recipes

    def failing(*_: object) -> Path:
        assert (tmp_path / LOCK).exists()
        raise ValueError("refused")

    monkeypatch.setattr(flow, "teacher", failing)
    with pytest.raises(ValueError, match="refused"):
        flow.run(recipes.load("phantom"), tmp_path, until="teacher")
    assert not (tmp_path / LOCK).exists()
