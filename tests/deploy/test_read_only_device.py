"""A device without a writable place: a read-only root, no temporary folder, no home; and a CPU quota."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("onnx")

from tiny_package import frame, make_ship  # noqa: E402

from deploy.hardware import machine  # noqa: E402
from deploy.hardware.machine import cpu_quota  # noqa: E402
from deploy.stream.sources.lock import SourceLock  # noqa: E402
from edgemt import cli  # noqa: E402
from edgemt.io.child_process import environment  # noqa: E402

CLOSED = """
set -e
for place in $(awk '$2 != "/proc" && $2 !~ "^/proc/" {print $2}' /proc/self/mounts); do
  mount -o remount,bind,ro "$place" 2>/dev/null || true
done
exec "$@"
"""


def closed(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command where no place can be written, as in a container with a read-only root."""
    started = ["unshare", "-m", "sh", "-c", CLOSED, "sh"]
    probe = [*started, "sh", "-c", f"! touch {folder}/x && ! touch /tmp/x && ! touch /dev/shm/x"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    home = {name: value for name, value in environment().items() if name not in ("HOME", "EDGEMT_CACHE_KEY")}
    return subprocess.run(
        [*started, sys.executable, "-P", *words], env=home, cwd="/", capture_output=True, text=True, timeout=120
    )


@pytest.mark.skipif(sys.version_info < (3, 11), reason="-P")
def test_a_ship_runs_on_a_read_only_root(tmp_path: Path) -> None:
    """Quantized graphs too, whose layers ONNX Runtime reports in a file that it writes."""
    pytest.importorskip("onnxruntime")
    ship = make_ship(tmp_path / "ship").folder
    code = (
        "import sys; from deploy.runtimes.load import runner\n"
        "for file in ('model.onnx', 'model.int8.onnx'):\n"
        "    print(runner(sys.argv[1], runtime='onnxruntime', file=file).precision)"
    )
    done = closed("-c", code, str(ship), folder=tmp_path)
    assert (done.returncode, done.stdout.split()) == (0, ["f32", "int8"]), done.stderr
    assert "elemetry" not in done.stderr


@pytest.mark.skipif(sys.version_info < (3, 11), reason="-P")
def test_results_that_cannot_be_written_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # pytest --cov would fail to write its own file
    ship = make_ship(tmp_path / "ship").folder
    Image.fromarray(frame(0)).save(tmp_path / "a.png")
    words = ["predict", str(ship), str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--runtime", "onnxruntime"]
    done = closed("-m", "edgemt.cli", *words, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "read-only" in done.stderr and "Traceback" not in done.stderr
    assert str(tmp_path / "out") in done.stderr


@pytest.mark.parametrize(
    ("code", "reason"),
    [(errno.EROFS, "read-only"), (errno.ENOTDIR, "is a file"), (errno.EMFILE, "too many open files")],
)
def test_a_place_that_cannot_be_written_is_named(
    code: int, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(args: list[str]) -> None:
        raise OSError(code, os.strerror(code), "/ro/out")

    monkeypatch.setattr(cli, "_dispatch", fails)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["doctor"])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "/ro/out" in said and reason in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate\nx out of memory")]
)
def test_memory_that_is_not_there_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(args: list[str]) -> None:
        raise error

    monkeypatch.setattr(cli, "_dispatch", fails)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["doctor"])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "out of memory" in said and said.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="the abstract namespace is Linux's")
def test_a_camera_is_locked_where_there_is_no_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", none)
    source = f"camera:{os.getpid()}"
    first = SourceLock(source)
    with pytest.raises(ValueError, match="another process streams from it already"):
        SourceLock(source)
    first.release()
    SourceLock(source).release()


def groups(root: Path, lines: str, **files: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(lines)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name.replace("__", "/").replace("cpu_", "cpu.")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_the_quota_of_a_container_is_read(tmp_path: Path) -> None:
    two = groups(tmp_path / "v2", "0::/a/b\n", a__cpu_max="150000 100000\n", a__b__cpu_max="max 100000\n")
    assert cpu_quota(two) == 1.5
    namespace = groups(tmp_path / "ns", "0::/\n", cpu_max="400000 100000\n")
    assert cpu_quota(namespace) == 4
    one = groups(
        tmp_path / "v1",
        "4:cpu,cpuacct:/docker/x\n2:memory:/docker/x\n",
        cpu__cpu_cfs_quota_us="-1",
        cpu__cpu_cfs_period_us="100000",
        cpu__docker__x__cpu_cfs_quota_us="250000",
        cpu__docker__x__cpu_cfs_period_us="100000",
    )
    assert cpu_quota(one) == 2.5
    assert cpu_quota(groups(tmp_path / "none", "0::/\n", cpu_max="max 100000\n")) is None
    assert cpu_quota(tmp_path / "nothing") is None


def test_threads_follow_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "allowed_cpus", lambda: set(range(100_000, 100_008)))
    for quota, threads in ((None, 8), (0.5, 1), (3.7, 3), (64.0, 8)):
        monkeypatch.setattr(machine, "cpu_quota", lambda quota=quota: quota)
        assert machine.physical_cores() == threads
