"""Against the programs that hospitals use: Orthanc and dcmtk, started here on loopback, and kill -9."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("pynetdicom")
pytest.importorskip("highdicom")
pytest.importorskip("onnxruntime")

from dicom_samples import save  # noqa: E402
from pacs_samples import SECRETS, slices, until  # noqa: E402
from real_pacs import Orthanc, PacsProcess, closing, dcmtk, free_port, store  # noqa: E402
from tiny_package import make_ship  # noqa: E402

from deploy.dicom.segmentation import predict_dicom_seg  # noqa: E402
from deploy.event_log.verify import verify_log  # noqa: E402
from deploy.pacs.spool import list_spool  # noqa: E402

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
