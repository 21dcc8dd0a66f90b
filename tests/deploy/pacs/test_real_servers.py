"""Against the programs that hospitals use: Orthanc and dcmtk, started here on loopback, and kill -9."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("pynetdicom")
pytest.importorskip("highdicom")
pytest.importorskip("onnxruntime")

from checkout import ROOT  # noqa: E402
from dicom_samples import save  # noqa: E402
from pacs_samples import SECRETS, fake_pacs, mask_of, masks_in, sent, slices, until  # noqa: E402
from real_pacs import Orthanc, PacsProcess, closing, dcmtk, free_port, store  # noqa: E402
from tiny_package import make_ship  # noqa: E402

from deploy.dicom.segmentation import predict_dicom_seg  # noqa: E402
from deploy.event_log.verify import verify_log  # noqa: E402
from deploy.pacs.spool import list_spool  # noqa: E402
from edgemt.io.child_process import environment  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def ship(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ship(tmp_path_factory.mktemp("ship") / "ship").folder


def files(folder: Path, count: int = 4, **options: object) -> list[Path]:
    folder.mkdir()
    return [save(image, folder / f"{k}.dcm") for k, image in enumerate(slices(count, **options))]  # type: ignore[arg-type]


def bits(ship: Path, inputs: list[Path], out: Path) -> bytes:
    """The pixels of the segmentation that `edgemt predict` writes of these files."""
    (path,) = predict_dicom_seg(ship, inputs, out=out)
    return bytes(pydicom.dcmread(path).PixelData)


def test_a_study_in_pieces_survives_kill_9_and_orthanc_gets_the_bits_of_predict(ship: Path, tmp_path: Path) -> None:
    images, log = files(tmp_path / "images"), tmp_path / "device.log"
    pacs = Orthanc(tmp_path / "orthanc")
    words = ("--to", f"ORTHANC@127.0.0.1:{pacs.port}", "--log", str(log))
    with closing(pacs):
        first = PacsProcess(ship, tmp_path / "spool", *words)
        assert store(first.port, *images[:2]).returncode == 0
        first.kill()  # what was answered with success is on the disk
        assert [(row.phase, row.images) for row in list_spool(tmp_path / "spool")] == [("received", 2)]
        with closing(PacsProcess(ship, tmp_path / "spool", *words)) as second:
            until(lambda: len(pacs.segs()) == 1)
            assert store(second.port, images[0]).returncode == 0  # a duplicate
            assert store(second.port, *images[2:]).returncode == 0
            until(lambda: len(pacs.segs()) == 2)
            assert second.end() == 0
            text = second.text
        small, whole = pacs.segs()
    assert bytes(small.PixelData) == bits(ship, images[:2], tmp_path / "small")
    assert bytes(whole.PixelData) == bits(ship, images, tmp_path / "whole")
    assert whole.PatientID == SECRETS[1] and verify_log(log).error == ""
    assert not any(secret in text + log.read_text() for secret in SECRETS)


def test_kills_at_any_moment_lose_no_image_that_was_answered(ship: Path, tmp_path: Path) -> None:
    """kill -9 at eight random moments while six series come in, image after image, each sent until it is answered."""
    series, port, draw = [slices(3, patient=f"P{k}") for k in range(6)], free_port(), random.Random(0)
    with fake_pacs() as pacs:
        words = ("--to", f"PACS@127.0.0.1:{pacs.port}")
        process = PacsProcess(ship, tmp_path / "spool", *words, port=port)

        def send_all() -> None:
            for k in range(3):
                for images in series:
                    while sent(port, [images[k]]) != [0]:
                        time.sleep(0.05)
                    time.sleep(0.4)

        sender = threading.Thread(target=send_all)
        sender.start()
        for _ in range(8):
            time.sleep(draw.uniform(0.2, 2.5))
            process.kill()
            process = PacsProcess(ship, tmp_path / "spool", *words, port=port)
        with closing(process):
            sender.join()
            until(
                lambda: [(row.phase, row.images) for row in list_spool(tmp_path / "spool")] == [("sent", 3)] * 6,
                seconds=60.0,
            )
        newest = {seg.PatientID: seg for seg in sorted(pacs.received, key=lambda seg: int(seg.SeriesNumber))}
    for images in series:
        seg = newest[images[0].PatientID]
        assert all(map(np.array_equal, masks_in(seg, images), map(mask_of, images)))


def test_orthanc_away_then_back_gets_each_segmentation_once(ship: Path, tmp_path: Path) -> None:
    pacs = Orthanc(tmp_path / "orthanc")
    to = ("--to", f"ORTHANC@127.0.0.1:{pacs.port}")
    with closing(pacs):
        pacs.stop()
        one = PacsProcess(ship, tmp_path / "spool", *to)
        assert store(one.port, *files(tmp_path / "a"), *files(tmp_path / "b", patient="B")).returncode == 0
        until(lambda: one.text.count("cannot be reached") > 1)
        one.kill()
        assert {row.phase for row in list_spool(tmp_path / "spool")} == {"predicted"}
        with closing(PacsProcess(ship, tmp_path / "spool", *to)) as other:
            until(lambda: "cannot be reached" in other.text)
            pacs.start()
            until(lambda: {row.phase for row in list_spool(tmp_path / "spool")} == {"sent"})
        assert sorted(seg.PatientID for seg in pacs.segs()) == ["B", SECRETS[1]]


def test_orthanc_sends_its_study_and_gets_the_segmentation_back(ship: Path, tmp_path: Path) -> None:
    port = free_port()
    images = files(tmp_path / "images")
    with closing(
        pacs := Orthanc(tmp_path / "orthanc", modality_port=port),
        PacsProcess(ship, tmp_path / "spool", "--to", f"ORTHANC@127.0.0.1:{pacs.port}", port=port),
    ):  # fmt: skip
        command = [dcmtk("storescu"), "-aec", "ORTHANC", "127.0.0.1", str(pacs.port), *map(str, images)]
        subprocess.run(command, check=True, timeout=60)
        (study,) = pacs.get("/studies")
        pacs.post("/modalities/edgemt/store", study)
        until(lambda: len(pacs.segs()) == 1)
        assert pacs.get("/studies") == [study]  # in the study of its images
        assert bytes(pacs.segs()[0].PixelData) == bits(ship, images, tmp_path / "out")


def test_a_dicomweb_server_gets_it_by_stow_rs(ship: Path, tmp_path: Path) -> None:
    images = files(tmp_path / "images")
    with closing(pacs := Orthanc(tmp_path / "orthanc", web=True)):
        url = f"http://127.0.0.1:{pacs.http}/dicom-web"
        with closing(PacsProcess(ship, tmp_path / "spool", "--to-web", url)) as process:
            assert store(process.port, *images).returncode == 0
            until(lambda: len(pacs.segs()) == 1)
            assert bytes(pacs.segs()[0].PixelData) == bits(ship, images, tmp_path / "out")


def test_dcmtk_echoes_and_its_receiver_that_aborts_gets_it_later(ship: Path, tmp_path: Path) -> None:
    images, port, out = files(tmp_path / "images"), free_port(), tmp_path / "received"
    out.mkdir()
    command = [dcmtk("storescp"), "-aet", "STORESCP", "-od", str(out), str(port)]
    with closing(PacsProcess(ship, tmp_path / "spool", "--to", f"STORESCP@127.0.0.1:{port}")) as process:
        echo = [dcmtk("echoscu"), "-aec", "EDGEMT", "127.0.0.1", str(process.port)]
        assert subprocess.run(echo, timeout=30).returncode == 0
        bad = subprocess.Popen([*command[:1], "--abort-during", *command[1:]], stderr=subprocess.DEVNULL)
        try:
            assert store(process.port, *images).returncode == 0
            until(lambda: "the connection was lost" in process.text)
        finally:
            bad.kill()
            bad.wait()
        good = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            until(lambda: [row.phase for row in list_spool(tmp_path / "spool")] == ["sent"])
        finally:
            good.kill()
            good.wait()
    newest = max(out.iterdir(), key=lambda path: path.stat().st_mtime)
    assert bytes(pydicom.dcmread(newest).PixelData) == bits(ship, images, tmp_path / "out")


def test_compressed_images_are_decoded_or_refused_and_cut_files_harm_nothing(ship: Path, tmp_path: Path) -> None:
    images = files(tmp_path / "images")
    packed = tmp_path / "packed"
    packed.mkdir()
    for image in images:
        subprocess.run([dcmtk("dcmcrle"), str(image), str(packed / image.name)], check=True)
    lossless = tmp_path / "lossless.dcm"
    subprocess.run([dcmtk("dcmcjpeg"), "+e1", str(images[0]), str(lossless)], check=True)
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(images[0].read_bytes()[:-400])
    with closing(pacs := Orthanc(tmp_path / "orthanc")), closing(
        PacsProcess(ship, tmp_path / "spool", "--to", f"ORTHANC@127.0.0.1:{pacs.port}")
    ) as process:  # fmt: skip
        assert "Success" not in store(process.port, lossless, options=("-xs",)).stderr
        until(lambda: "JPEG Lossless" in process.text and "no decoder is installed" in process.text)
        assert "Success" not in store(process.port, cut).stderr
        assert store(process.port, *sorted(packed.iterdir()), options=("-xr",)).returncode == 0
        until(lambda: len(pacs.segs()) == 1)
        assert bytes(pacs.segs()[0].PixelData) == bits(ship, images, tmp_path / "out")


def test_a_disk_that_fills_up_refuses_images_and_the_service_goes_on(ship: Path, tmp_path: Path) -> None:
    """The spool on a file system of 96 KiB, in a mount namespace of its own."""
    spool = tmp_path / "small"
    spool.mkdir()
    enter = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size=96k tmpfs {spool} && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*enter, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    images, port = files(tmp_path / "images", 24), free_port()
    words = ["-m", "edgemt.cli", "pacs", str(ship), "--spool", str(spool), "--port", str(port), "--to", "A@127.0.0.1:9"]
    output = tmp_path / "small.out"
    with output.open("wb") as out:
        process = subprocess.Popen(
            [*enter, sys.executable, *words, "--quiet-s", "1", "--min-free-mib", "0"], stdout=out, stderr=out
        )
    try:
        until(lambda: "Ctrl-C ends it" in output.read_text(), seconds=60.0)
        sent = store(port, *images)
        assert 0 < sent.stderr.count("OutOfResources") < 24 and "(Success)" in sent.stderr
        until(lambda: "the disk is full" in output.read_text())
        echo = [dcmtk("echoscu"), "-aec", "EDGEMT", "127.0.0.1", str(port)]
        assert subprocess.run(echo, timeout=30).returncode == 0 and process.poll() is None
    finally:
        process.kill()
        process.wait(10)
    assert "Traceback" not in output.read_text()


def test_garbage_on_the_port_is_no_end(ship: Path, tmp_path: Path) -> None:
    """A port scanner, a web browser, an association that claims four gigabytes, and connections that are left open."""
    images, open_ones = files(tmp_path / "images"), []
    with fake_pacs() as pacs, closing(
        PacsProcess(ship, tmp_path / "spool", "--to", f"PACS@127.0.0.1:{pacs.port}")
    ) as process:  # fmt: skip
        huge, early = b"\x01\x00\xff\xff\xff\xff" + b"a" * 99, b"\x04\x00\x00\x00\x00\x10" + bytes(16)
        for data in (b"", b"GET / HTTP/1.1\r\n\r\n", random.Random(0).randbytes(5000), huge, early):
            connection = socket.create_connection(("127.0.0.1", process.port))
            connection.sendall(data)
            open_ones.append(connection)
        time.sleep(1.0)
        assert store(process.port, *images).returncode == 0
        until(lambda: pacs.received)
        for connection in open_ones:
            connection.close()
        assert "Traceback" not in process.text and process.end() == 0


def test_the_watchdog_of_systemd_is_told_that_the_service_answers(ship: Path, tmp_path: Path) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(60.0)
    with closing(
        PacsProcess(
            ship, tmp_path / "spool", "--to", "A@127.0.0.1:9", NOTIFY_SOCKET=str(tmp_path / "notify"),
            WATCHDOG_USEC="1000000",
        )
    ) as process:  # fmt: skip
        assert [manager.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
        assert process.end() == 0
        while (message := manager.recv(100)) == b"WATCHDOG=1":
            pass
        assert message == b"STOPPING=1"
    manager.close()


CONTAINED = """
set -e
mount -t tmpfs -o mode=1777,size=64m tmpfs /srv
for place in $(awk '$2 != "/proc" && $2 !~ "^/proc/" && $2 != "/srv" {print $2}' /proc/self/mounts); do
  mount -o remount,bind,ro "$place" 2>/dev/null || true
done
exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


def test_it_serves_as_in_the_container(tmp_path: Path) -> None:
    """User 10001 without any right, a read-only root, one volume: what deploy/service/Containerfile runs."""
    enter = ["unshare", "-m", "sh", "-c", CONTAINED, "sh"]
    probe = [*enter, sys.executable, "-c", f"open('/srv/x', 'w'); open({str(ROOT / 'pyproject.toml')!r})"]
    closed = [*enter, "sh", "-c", "! touch /tmp/x && ! touch /dev/shm/x && test $(id -u) = 10001"]
    if not shutil.which("unshare") or any(
        subprocess.run(one, capture_output=True).returncode for one in (probe, closed)
    ):
        pytest.skip("no such place can be made here, or this Python is not for other users")
    port, images, output = free_port(), files(tmp_path / "images"), tmp_path / "contained.out"
    with fake_pacs() as pacs, output.open("wb") as out:
        words = ["pacs", "zoo/heart", "--host", "127.0.0.1", "--port", str(port), "--to", f"PACS@127.0.0.1:{pacs.port}"]
        command = [*enter, sys.executable, "-m", "edgemt.cli", *words, "--quiet-s", "1", "--min-free-mib", "1"]
        env = {**environment(), "PYTHONPATH": str(ROOT), "HOME": "/srv", "PYTHONDONTWRITEBYTECODE": "1"}
        process = subprocess.Popen(
            [*command, "--spool", "/srv/spool", "--log", "/srv/device.log"], stdout=out, stderr=out, env=env, cwd="/"
        )
        try:
            until(lambda: "Ctrl-C ends it" in output.read_text() or process.poll() is not None, seconds=90.0)
            assert process.poll() is None, output.read_text()
            assert store(port, *images).returncode == 0
            until(lambda: pacs.received)
            process.terminate()
            assert process.wait(30) == 0, output.read_text()
        finally:
            process.kill()
    assert "warning: the event log" not in output.read_text()
