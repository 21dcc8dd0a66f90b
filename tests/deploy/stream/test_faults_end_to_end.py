"""Faults end to end: through the command line, with real sockets, processes and files. What can be played with a source
that misbehaves alone is in test_stream_live.py."""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkout import ROOT

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from faulty_source import MODEL_SIZE, OPTIONS, FaultScenario, check_snapshot, model, picture, threshold  # noqa: E402
from tiny_package import expected, frame, make_ship  # noqa: E402

from deploy.package.watcher import PackageWatcher  # noqa: E402
from deploy.stream import session as sessions  # noqa: E402
from deploy.stream.inference import standby as standbys  # noqa: E402
from deploy.stream.inference.load_model import load_stream_model  # noqa: E402
from deploy.stream.inference.mask_checks import InvalidMaskError  # noqa: E402
from deploy.stream.inference.standby import StandbyWorker  # noqa: E402
from deploy.stream.inference.worker_process import WorkerLostError, WorkerProcess, workers_cpu_s  # noqa: E402
from deploy.stream.outputs.base import OutputContext, OutputThread  # noqa: E402
from deploy.stream.outputs.igtl_server import IgtlServer, open_igtl  # noqa: E402
from deploy.stream.outputs.json_lines import JsonLinesOutput  # noqa: E402
from deploy.stream.session import Session  # noqa: E402
from deploy.stream.sources.base import SourceFrame  # noqa: E402
from deploy.stream.sources.iterable import IterableSource  # noqa: E402
from deploy.stream.sources.lock import SourceLock  # noqa: E402
from deploy.stream.state.display_state import DisplayState, FreshnessLimits  # noqa: E402
from deploy.stream.state.frames import DisplaySnapshot, Frame, InferenceResult  # noqa: E402
from deploy.stream.state.overlay import empty_overlay  # noqa: E402
from deploy.stream.status_line import StatusLine  # noqa: E402
from deploy.stream.web.page import Page, open_page  # noqa: E402
from edgemt import cli  # noqa: E402
from edgemt.model_card import ModelCard  # noqa: E402

SYNTHETIC = ("--source", "synthetic:320x96", "--limits.budget-ms", "60000", "--limits.no-signal-ms", "60000")
posix = pytest.mark.skipif(os.name != "posix", reason="processes apart need Linux or macOS")
linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks processes up in /proc")


@pytest.fixture(scope="module")
def ship(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ship(tmp_path_factory.mktemp("faults") / "ship").folder


def until(true: Callable[[], Any], *, seconds: float = 60.0) -> Any:
    ends = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < ends, "never became true"
        time.sleep(0.01)
    return value


# --- the inference process ---


@posix
@pytest.mark.parametrize(
    ("by", "why"), [("SIGKILL", r"the inference process ended \(signal 9\)"), ("SIGSTOP", "did not answer|hangs since")]
)
def test_killed_worker_process_is_replaced_by_standby(by: str, why: str, ship: Path) -> None:
    opened = load_stream_model(ship, runtime="onnxruntime", file="fp32", isolation="process", hang_ms=2_000)
    first: Any = opened.runner
    waiting, killed, spawn_standby = [], [], first.spawn_standby
    first.spawn_standby = lambda: waiting.append(spawn_standby()) or waiting[-1]

    def kill(k: int) -> SourceFrame:
        if not killed and waiting and waiting[0].loaded:
            killed.append(k)
            os.kill(first.process.pid, getattr(signal, by))
        elif not killed:
            time.sleep(0.02)  # the number of reads is limited, and on a busy machine the standby takes long to load
        return SourceFrame(picture(k))

    def cold() -> Any:
        raise AssertionError("loaded anew, though one was waiting")

    scenario = FaultScenario(kill, expected="invalid")
    options = replace(OPTIONS, hang_ms=2_000)
    record = scenario.run(replace(opened.model, load=cold), runner=first, options=options)
    assert re.search(why, scenario.why)
    assert record["restarts"] == record["failures"] == 1
    first.close()
    assert not any(child.alive for child in waiting)


@posix
def test_stopped_worker_process_does_not_block_video(ship: Path) -> None:
    child = WorkerProcess(ship, hang_ms=100, runtime="onnxruntime", file="fp32", threads=1)
    child.process.send_signal(signal.SIGSTOP)
    with pytest.raises(WorkerLostError, match=r"did not answer within 0\.1 s"):
        child._write(bytes(1 << 22))  # more than a pipe holds
    child.close()
    assert not child.alive
    with pytest.raises(WorkerLostError, match="was closed"):
        child(frame(0)[None])


@posix
def test_standby_worker_with_different_model_is_rejected(ship: Path, tmp_path: Path) -> None:
    child = WorkerProcess(ship, hang_ms=10_000, runtime="onnxruntime", file="fp32", threads=1)
    used = workers_cpu_s()
    assert used > 0
    child._package = make_ship(tmp_path / "other", name="other").folder  # as if the folder had been replaced
    with pytest.raises(ValueError, match="another model than the one at work"):
        child.spawn_standby().ready()
    child._package = ship
    second = child.spawn_standby().ready()
    assert np.array_equal(second(frame(3)[None])[0], expected(frame(3)))
    child.close()
    second.close()
    assert workers_cpu_s() >= used


@posix
def test_worker_that_dies_while_loading_is_one_line_error(ship: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ValueError, match=r"^isolation process: the inference process ended \(status 1\)$"):
        WorkerProcess(ship, hang_ms=100)


class _Kept:
    """A runner of which another can be kept."""

    def __init__(self) -> None:
        self.alive, self.closed, self.others = True, False, []

    def spawn_standby(self) -> _Kept:
        self.others.append(_Kept())
        return self.others[-1]

    def ready(self) -> _Kept:
        return self

    def close(self) -> None:
        self.alive, self.closed = False, True


def test_single_standby_worker_is_replaced_after_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    first = _Kept()
    standby = StandbyWorker(first, load=_Kept, self_test=lambda infer: None)
    standby.check_health()
    standby.check_health()
    assert len(first.others) == 1
    first.others[0].alive = False
    standby.check_health()
    assert len(first.others) == 1  # too soon
    monkeypatch.setattr(standbys, "_MIN_INTERVAL_S", 0.0)
    standby.check_health()
    assert len(first.others) == 2 and standby.take() is first.others[1]
    assert standby.take() not in first.others  # none was waiting
    standby.check_health()
    standby.close()
    standby.check_health()
    assert len(first.others) == 3 and first.others[2].closed


def test_runner_that_fails_golden_self_test_is_never_used() -> None:
    golden, made = picture(1)[None, ::2, ::2], []

    def other(frames: np.ndarray) -> np.ndarray:
        return 1 - threshold(frames)

    def make() -> Any:
        made.append(other if scenario.act == 1 else threshold)
        return made[-1]

    def broken(frames: np.ndarray) -> np.ndarray:
        if scenario.act == 1:
            raise RuntimeError("device lost")
        return threshold(frames)

    scenario = FaultScenario(expected="invalid")
    scenario.run(model(make, golden=(golden, threshold(golden))), runner=broken)
    assert made[-1] is threshold
    with pytest.raises(InvalidMaskError, match="golden"):
        StandbyWorker(None, load=lambda: other, self_test=_refuse).take()


def _refuse(infer: Any) -> None:
    raise InvalidMaskError("not the golden mask")


def test_recovered_threads_do_not_count_as_hung() -> None:
    """Seven hangs one after the other, of which no more than one at a time."""
    hangs, release, states = [0], threading.Event(), []

    def sticky(frames: np.ndarray) -> np.ndarray:
        if hangs[0] < 7:
            hangs[0] += 1
            release.clear()
            release.wait(20)
        return threshold(frames)

    def make() -> Any:
        release.set()
        return sticky

    def frames() -> Iterator[np.ndarray]:
        for k in range(4000):
            if "fresh" in states:
                return
            yield picture(k)

    options = replace(OPTIONS, hang_ms=20)
    record = Session(
        IterableSource(frames(), hz=200), model(make), runner=sticky, options=options,
        display=lambda shown, drawn: (check_snapshot(shown, drawn), states.append(shown.status.state)),
    ).run()  # fmt: skip
    assert states[-1] == "fresh" and record["restarts"] == 7


def test_mask_that_expires_while_painted_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    now, seen = [0], []
    session = Session(
        IterableSource([]),
        model(),
        options=OPTIONS,
        clock=lambda: now[0],
        display=lambda shown, drawn: seen.append(shown),
    )
    one = Frame(0, picture(0), 0)
    session.display_state.put_frame(one)
    session.display_state.put_result(InferenceResult(one, np.zeros(MODEL_SIZE, np.uint8), empty_overlay(one.size), 0))
    draw, slow = DisplaySnapshot.picture, []

    def drawn(self: DisplaySnapshot) -> Any:
        if len(slow) < 2:  # and in the meantime there is a new mask, which grows old in the same way
            slow.append(1)
            now[0] += int(OPTIONS.budget_ms * 1e6) + 1
            new = Frame(len(slow), picture(1), now[0] - 1000)
            session.display_state.put_frame(new)
            session.display_state.put_result(
                InferenceResult(new, np.zeros(MODEL_SIZE, np.uint8), empty_overlay(new.size), now[0])
            )
        return draw(self)

    monkeypatch.setattr(DisplaySnapshot, "picture", drawn)
    session._present(session.display_state.snapshot())
    assert seen[0].status.state == "stale" and seen[0].status.mask is None and seen[0].result is None


# --- the end ---


@linux
@pytest.mark.parametrize("by", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_no_process_remains_after_signal(by: str, ship: Path) -> None:
    """The signal goes to the whole group, as from a terminal."""
    command = [sys.executable, "-m", "edgemt.cli", "stream", str(ship), *SYNTHETIC, "--isolation", "process"]
    outputs = ["--output", "page", "igtl:0", "lines"]
    running = subprocess.Popen(
        [*command, *outputs],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        for line in running.stdout:  # type: ignore[union-attr]
            if '"fresh"' in line:
                break
        children = until(lambda: _children(running.pid))
        os.killpg(running.pid, getattr(signal, by))
        said = running.communicate(timeout=60)[1]
    finally:
        running.kill()
    until(lambda: not any(_alive(child) for child in children))
    assert "Traceback" not in said
    if by == "SIGINT":
        assert running.returncode == 0 and " frames, " in said.splitlines()[-1]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_threads_and_sockets_close_with_the_stream(ship: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = signal.getsignal(signal.SIGTERM)
    _stream(ship, "--frames", 5, "--hz", 0, "--output", "page", "igtl:0")
    assert signal.getsignal(signal.SIGTERM) is told
    address = next(line for line in capsys.readouterr().err.splitlines() if "http://" in line)
    port = int(address.partition("127.0.0.1:")[2].partition("/")[0])
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("edgemt")])
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))


# --- two at once ---


def _stream(ship: Path, *arguments: Any) -> None:
    cli.main(["stream", str(ship), *SYNTHETIC, *map(str, arguments)])


@posix
def test_second_process_on_live_source_is_rejected(ship: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = f"igtl://127.0.0.1:1/{os.getpid()}"
    imported = "from deploy.stream.sources.lock import SourceLock"
    hold = f"{imported}; held = SourceLock({source!r}); print(1, flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", hold], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None and other.stdout.readline()
        with pytest.raises(SystemExit) as left:
            cli.main(["stream", str(ship), "--source", source])
        assert left.value.code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert f"process {other.pid} streams from it already; stop that one first" in line
    finally:
        other.kill()
        other.wait()
    SourceLock(source).release()


def test_camera_names_share_one_lock(tmp_path: Path) -> None:
    held = SourceLock("camera:0", folder=tmp_path)
    for name in ("camera", "camera:0:1920x1080", "/dev/video0", "/dev/video0:640x480"):
        with pytest.raises(ValueError, match=f"source {name}: process {os.getpid()} streams"):
            SourceLock(name, folder=tmp_path)
    SourceLock("camera:1", folder=tmp_path).release()
    held.release()


@posix
def test_source_lock_ignores_symlinks_and_foreign_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SourceLock("camera:0", folder=tmp_path).release()
    (lock,) = tmp_path.iterdir()
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, flags, *mode: real(path, flags, *mode) if not flags & os.O_CREAT else _no()
    )
    first = SourceLock("camera:0", folder=tmp_path)  # left over, and not ours to write
    with pytest.raises(ValueError, match="streams from it already"):
        SourceLock("camera:0", folder=tmp_path)
    first.release()
    monkeypatch.undo()
    lock.unlink()
    (tmp_path / "precious").write_text("keep me")
    lock.symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match="cannot be locked"):
        SourceLock("camera:0", folder=tmp_path)
    assert (tmp_path / "precious").read_text() == "keep me"


def _no() -> int:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("output", ["page", "igtl"])
def test_port_in_use_is_one_line_and_exit_status_2(output: str, ship: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as left:
        _stream(ship, "--output", "lines", f"{output}:{taken.getsockname()[1]}")
    assert left.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "cannot listen" in line and "name another port" in line


# --- who listens ---


def context(session: Session) -> OutputContext:
    return OutputContext(
        session.display_state, ModelCard(name="tiny", classes=("background", "organ", "tool")), ((0, 0, 0),) * 3
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disk_stops_recording_but_not_stream(
    ship: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("av")
    (tmp_path / ".case.mp4.part").symlink_to("/dev/full")
    _stream(
        ship, "--frames", 400, "--hz", 200, "--output", f"video:{tmp_path / 'case.mp4'}", "--json", tmp_path / "said"
    )
    assert "stopped: " in (said := capsys.readouterr().err) and "no space left on the disk" in said
    record = json.loads((tmp_path / "said").read_text())
    assert record["frames"] == 400 and record["states"]["fresh"] > 0


class _Bad:
    """An output that goes wrong."""

    def __init__(self, *, hangs: bool) -> None:
        self.hangs, self.release, self.closed = hangs, threading.Event(), 0

    def show(self, shown: Any) -> None:
        if self.hangs:
            self.release.wait(20)

    def close(self) -> None:
        self.closed += 1
        raise OSError(28, "No space left on device")


def test_blocked_output_does_not_prevent_closing_others(capsys: pytest.CaptureFixture[str]) -> None:
    session = Session(IterableSource([picture(0)]), model(), options=OPTIONS)
    output_threads = [
        OutputThread(_Bad(hangs=hangs), session.display_state, name=f"bad {hangs}") for hangs in (True, False)
    ]
    session.run()
    for output_thread in output_threads:
        output_thread.close(0.05)
    said = capsys.readouterr().err
    assert "bad True stopped: does not come to an end" in said and "bad False stopped: " in said
    assert output_threads[0]._output.closed == 0  # closing what another thread writes to could crash
    output_threads[0]._output.release.set()


@pytest.fixture
def watched() -> Iterator[tuple[Session, Page, IgtlServer, list[str]]]:
    """A stream at 100 Hz with both servers, until the test ends."""
    stop, states = threading.Event(), []

    def frames() -> Iterator[np.ndarray]:
        k = 0
        while not stop.is_set():
            yield picture(k)
            k += 1

    def display(shown: DisplaySnapshot, drawn: Any) -> None:
        check_snapshot(shown, drawn)
        states.append(shown.status.state)

    session = Session(
        IterableSource(frames(), hz=100),
        model(),
        options=replace(OPTIONS, no_signal_ms=60_000, hang_ms=30_000),
        display=display,
    )
    page, igtl = open_page("", context(session)), open_igtl("0", context(session))
    thread = threading.Thread(target=session.run)
    thread.start()
    yield session, page, igtl, states
    stop.set()
    thread.join(20)
    assert session.capture.error is None and not thread.is_alive()
    page.close()
    igtl.close()


def _look(page: Page) -> dict[str, Any]:
    link = http.client.HTTPConnection("127.0.0.1", page.port, timeout=20)
    link.request("GET", f"/{page.token}/look")
    body = link.getresponse().read()
    link.close()
    return json.loads(body[4 : 4 + int.from_bytes(body[:4], "big")])


def test_stream_survives_invalid_and_disconnecting_clients(watched: Any) -> None:
    session, page, igtl, states = watched
    until(lambda: "fresh" in states)
    draw = np.random.default_rng(0)
    for k in range(30):
        for port in (page.port, igtl.port):
            with socket.create_connection(("127.0.0.1", port)) as bad:
                if k % 3 == 0:
                    bad.sendall(draw.integers(0, 256, 2000, dtype=np.uint8).tobytes())
                elif k % 3 == 1:
                    bad.sendall(
                        f"GET /{page.token}/look?seen=-1 HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n\r\n".encode()
                    )
    before = len(states)
    until(lambda: len(states) > before + 20 and "fresh" in states[before:])
    assert until(lambda: (said := _look(page))["record"]["state"] == "fresh" and said)["picture"]["id"] > 0
    assert session.inference is not None and session.inference.counters.failures == 0


def test_stream_continues_after_page_is_closed(watched: Any) -> None:
    _, page, _, states = watched
    until(lambda: "fresh" in states)
    page.close()
    before = len(states)
    until(lambda: len(states) > before + 20 and states[-1] == "fresh")
    with pytest.raises(OSError):
        _look(page)


def test_closed_pipe_stops_json_lines_only(capsys: pytest.CaptureFixture[str]) -> None:
    reads, writes = os.pipe()
    session = Session(IterableSource((picture(k) for k in range(40)), hz=200), model(), options=OPTIONS)
    output_thread = OutputThread(
        JsonLinesOutput("", context(session), to=os.fdopen(writes, "w")), session.display_state, name="lines"
    )
    os.close(reads)
    assert session.run()["frames"] == 40
    until(lambda: output_thread.failed)
    output_thread.close()
    assert "lines stopped" in capsys.readouterr().err


# --- the machine ---


def test_wall_clock_change_has_no_effect(watched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, page, igtl, states = watched
    until(lambda: "fresh" in states)
    real, ns = time.time, time.time_ns
    for hours in (-1, 1, -24):
        monkeypatch.setattr(time, "time", lambda h=hours: real() + 3600 * h)
        monkeypatch.setattr(time, "time_ns", lambda h=hours: ns() + 3600 * h * 10**9)
        before = len(states)
        until(lambda before=before: len(states) > before + 10 and states[-1] == "fresh")
        said = until(lambda: (said := _look(page))["record"]["state"] == "fresh" and said)
        assert 0 <= said["record"]["age_ms"] <= OPTIONS.budget_ms and said["picture"]["age_ms"] >= 0
        with socket.create_connection(("127.0.0.1", igtl.port)) as client:
            assert select.select([client], [], [], 20)[0] and client.recv(2)
    assert "no-signal" not in states[states.index("fresh") :]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot hold a process to one core here")
def test_no_mask_over_budget_is_fresh_under_cpu_load() -> None:
    """One core for the stream and three that want it all."""
    cores = os.sched_getaffinity(0)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        for pid in (0, *(process.pid for process in busy)):
            os.sched_setaffinity(pid, {min(cores)})
        seen: list[str] = []
        record = Session(
            IterableSource((picture(k) for k in range(120)), hz=100), model(), options=replace(OPTIONS, budget_ms=30),
            display=lambda shown, drawn: (_in_time(shown, 30), seen.append(shown.status.state)),
        ).run()  # fmt: skip
    finally:
        os.sched_setaffinity(0, cores)
        for process in busy:
            process.kill()
            process.wait()
    assert record["frames"] == 120 and record["pixels_outside_marker"] == 0 and seen


def _in_time(shown: DisplaySnapshot, budget_ms: float) -> None:
    record = shown.status
    assert (record.mask is not None) == (record.state == "fresh")
    assert record.age_ms is None or record.age_ms <= budget_ms


# --- the picture ---


@pytest.mark.parametrize(
    "strange",
    [
        lambda k: picture(k).astype(np.uint16) * 256,
        lambda k: np.concatenate([picture(k), picture(k)], axis=2),
        lambda k: picture(k).tobytes(),
    ],
    ids=["sixteen bits", "six planes", "no array"],
)
def test_unknown_pixel_format_is_no_signal_until_valid_again(
    strange: Callable[[int], Any],
) -> None:
    scenario = FaultScenario(lambda k: SourceFrame(strange(k)), expected="no-signal")
    record = scenario.run()
    assert scenario.why == "no new frame" and record["corrupt"] > 0 and record["failures"] == 0
    assert record["refused"][0]["count"] == record["corrupt"] and "a frame of" in record["refused"][0]["why"]


def test_rejection_reasons_are_reported_once_per_kind() -> None:
    from deploy.stream.outputs.igtl_messages import MessageBuilder

    display_state = DisplayState(FreshnessLimits(budget_ms=100, no_signal_ms=300), model="m")
    display_state.frame_rejected("IMAGE: damaged on the way (its CRC differs)")
    record = display_state.snapshot().status
    assert (record.state, record.refused) == ("no-signal", "IMAGE: damaged on the way (its CRC differs)")
    assert record.to_json()["refused"] == record.refused
    assert b"no frame yet: IMAGE: damaged" in MessageBuilder(version=1).status_message(record)
    frame = Frame(0, picture(0), display_state.clock())
    display_state.put_frame(frame)
    assert display_state.snapshot().status.refused == ""
    frames = [np.zeros((60, 80), np.uint16)] * 3 + [np.zeros((5, 5), np.uint8)] * 2 + [picture(k) for k in range(3)]
    session = Session(IterableSource(frames, hz=50), model(), options=OPTIONS)
    said: list[str] = []
    status_line = StatusLine(session, log=said.append)
    record_of_it = session.run()
    status_line.close()
    assert [kind["count"] for kind in record_of_it["refused"]] == [3, 2]
    assert len([line for line in said if "was refused" in line]) == 2


def test_change_to_grey_or_rgba_continues_masks() -> None:
    kinds = (lambda k: picture(k)[..., 0], lambda k: np.dstack([picture(k), np.full((60, 80), 255, np.uint8)]))
    for kind in kinds:
        frames = [picture(k) if k < 20 else kind(k) for k in range(60)]
        seen: list[DisplaySnapshot] = []
        Session(
            IterableSource(frames, hz=100), model(), options=OPTIONS,
            display=lambda shown, drawn, seen=seen: (check_snapshot(shown, drawn), seen.append(shown)),
        ).run()  # fmt: skip
        last = seen[-1].status
        assert last.frame_id == 59 and np.array_equal(last.mask, threshold(_fitted(frames[59])[None])[0])


def _fitted(pixels: np.ndarray) -> np.ndarray:
    from edgemt.io.images import fit_frame

    return fit_frame(pixels if pixels.ndim == 2 else pixels[..., :3], size=MODEL_SIZE, channels=3)


# --- the model's folder ---


def test_package_watcher_detects_edit_with_restored_date(tmp_path: Path) -> None:
    opened = make_ship(tmp_path / "ship")
    weights = tmp_path / "ship" / "model.onnx"
    before, stat = weights.read_bytes(), weights.stat()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    watch = PackageWatcher(opened)
    assert watch.check() == "model folder: model.onnx was changed"
    weights.write_bytes(before)
    assert watch.check() is None
    with open(weights, "r+b") as file:  # in place, same size, and its date put back
        file.write(bytes([before[0] ^ 1]))
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert watch.check() == "model folder: model.onnx was changed"


def test_session_closes_runner_that_it_loaded() -> None:
    class Made:
        closed = 0

        def __call__(self, frames: np.ndarray) -> np.ndarray:
            return threshold(frames)

        def close(self) -> None:
            self.closed += 1

    made = Made()
    Session(IterableSource([picture(0)]), model(lambda: made), options=OPTIONS).run()
    assert made.closed == 1 and sessions.Session is Session
