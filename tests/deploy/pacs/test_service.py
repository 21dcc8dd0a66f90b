"""The service on loopback: a sender and a PACS of pynetdicom, the masks of the tiny ship by numpy."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("pynetdicom")
pytest.importorskip("highdicom")
pytest.importorskip("onnx")

from dicom_samples import dataset  # noqa: E402
from pacs_samples import (  # noqa: E402
    SECRETS,
    fake_pacs,
    mask_of,
    masks_in,
    sent,
    service,
    slices,
    tiny_model,
    until,
)
from pydicom import uid  # noqa: E402
from pynetdicom import AE  # noqa: E402
from tiny_package import make_ship  # noqa: E402

from deploy.event_log.log_file import EventLogFile  # noqa: E402
from deploy.event_log.verify import verify_log  # noqa: E402
from deploy.pacs.predictor import ServiceModel  # noqa: E402
from deploy.pacs.reports import silence_libraries  # noqa: E402
from deploy.pacs.spool import list_spool  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServiceModel:
    silence_libraries()
    return tiny_model(make_ship(tmp_path_factory.mktemp("pacs") / "ship"))


def test_a_series_in_pieces_gets_one_segmentation_and_another_one_when_more_comes(
    model: ServiceModel, tmp_path: Path
) -> None:
    """Duplicates in between change nothing; what the lines and the event log hold identifies no patient."""
    images, lines, log = slices(4), list[str](), EventLogFile(tmp_path / "device.log")
    with fake_pacs() as pacs, service(tmp_path / "spool", model, pacs.port, lines=lines, log=log) as running:
        port = running.receiver.port
        assert sent(port, images[2:3]) == [0] and sent(port, images[:2]) == [0, 0] and sent(port, images[:1]) == [0]
        until(lambda: pacs.received)
        assert sent(port, images[:3]) == [0, 0, 0]  # all of them again
        assert sent(port, images[3:]) == [0]
        until(lambda: len(pacs.received) == 2)
        assert running.answering(5.0)
    first, second = pacs.received
    for seg, there in ((first, images[:3]), (second, images)):
        assert (seg.PatientName, seg.PatientID, seg.AccessionNumber) == ("Secret^Name", "ID-4711", "ACC-9")
        assert seg.StudyInstanceUID == images[0].StudyInstanceUID
        assert all(map(np.array_equal, masks_in(seg, there), map(mask_of, there)))
    assert second.SeriesNumber > first.SeriesNumber and second.SOPInstanceUID != first.SOPInstanceUID
    log.close()
    text = "\n".join(lines) + (tmp_path / "device.log").read_text()
    assert "4 images, 1 segmentation" in text and "again as more came" in text and "already" in text
    assert not any(secret in text for secret in (*SECRETS, *(str(image.SOPInstanceUID) for image in images)))
    assert str(images[0].StudyInstanceUID) not in text and verify_log(tmp_path / "device.log").error == ""


def test_two_series_at_once_keep_their_patients_apart(model: ServiceModel, tmp_path: Path) -> None:
    first, second, lines = slices(3, patient="A"), slices(3, patient="B"), list[str]()
    with fake_pacs() as pacs, service(tmp_path / "spool", model, pacs.port, lines=lines) as running:
        mixed = [image for pair in zip(first, second, strict=True) for image in pair]
        threads = [threading.Thread(target=sent, args=(running.receiver.port, part)) for part in (mixed[:3], mixed[3:])]
        for thread in threads:
            thread.start()
        until(lambda: len(pacs.received) == 2)
    by_patient = {seg.PatientID: seg for seg in pacs.received}
    for patient, images in (("A", first), ("B", second)):
        assert all(map(np.array_equal, masks_in(by_patient[patient], images), map(mask_of, images)))


def test_single_pictures_get_one_each_and_are_not_sent_twice(model: ServiceModel, tmp_path: Path) -> None:
    images, lines = slices(3, located=False), list[str]()
    with fake_pacs() as pacs, service(tmp_path / "spool", model, pacs.port, lines=lines) as running:
        sent(running.receiver.port, images[:2])
        until(lambda: len(pacs.received) == 2)
        sent(running.receiver.port, images[2:])
        until(lambda: len(pacs.received) == 3)
        until(lambda: any("3 images, 1 segmentation in" in line for line in lines))
    assert len({seg.SOPInstanceUID for seg in pacs.received}) == 3


def test_segmentations_wait_for_a_pacs_that_is_away_also_over_a_restart(model: ServiceModel, tmp_path: Path) -> None:
    images, lines = slices(2), list[str]()
    with fake_pacs() as pacs:
        port = pacs.port
    with service(tmp_path / "spool", model, port, lines=lines) as running:
        assert sent(running.receiver.port, images) == [0, 0]
        until(lambda: sum("next attempt" in line for line in lines) > 1)
    state = json.loads(next((tmp_path / "spool").rglob("state.json")).read_text())
    assert "it cannot be reached; its segmentations stay in the spool" in " ".join(lines)
    lines.clear()
    with service(tmp_path / "spool", model, port, lines=lines):
        until(lambda: any("next attempt" in line for line in lines))
        with fake_pacs(port) as pacs:
            until(lambda: any("is there again" in line for line in lines))
            until(lambda: [row.phase for row in list_spool(tmp_path / "spool")] == ["sent"])
    assert [seg["sent"] for seg in state["segs"]] == [[]] and len(pacs.received) == 1


def test_a_segmentation_that_is_refused_delays_no_other(model: ServiceModel, tmp_path: Path) -> None:
    lines: list[str] = []
    with fake_pacs() as pacs, service(tmp_path / "spool", model, pacs.port, lines=lines) as running:
        pacs.answer = lambda seg: 0xC123 if seg.PatientID == "A" else 0
        sent(running.receiver.port, slices(1, patient="A") + slices(1, patient="B"))
        until(lambda: pacs.received and any("C123h" in line for line in lines))
        assert [seg.PatientID for seg in pacs.received] == ["B"]
        pacs.answer = lambda seg: 0
        until(lambda: len(pacs.received) == 2)


def test_what_is_no_image_for_this_service_is_refused_and_stays_with_its_sender(
    model: ServiceModel, tmp_path: Path
) -> None:
    lines: list[str] = []
    good, cut, ct, bare = slices(1)[0], slices(1)[0], slices(1, modality="CT")[0], slices(1)[0]
    cut.PixelData = cut.PixelData[:100]
    del bare.SeriesInstanceUID
    depth = slices(1)[0]
    depth.BitsAllocated = depth.BitsStored = 1
    report = dataset(sop=uid.BasicTextSRStorage)
    with fake_pacs() as pacs, service(
        tmp_path / "spool", model, pacs.port, lines=lines, modalities=("MR",), allowed=("SCANNER",)
    ) as running:  # fmt: skip
        port = running.receiver.port
        assert sent(port, [cut, ct, bare, depth, good]) == [0xC000, 0xA900, 0xA900, 0xA900, 0]
        assert sent(port, [report, good]) == [-1, 0]
        assert sent(port, [good], calling="OTHER") == [-1] and sent(port, [good], called="OTHER") == [-1]
        packed = slices(1)[0]
        packed.file_meta.TransferSyntaxUID = uid.JPEGLosslessSV1
        assert sent(port, [packed], syntax=uid.MPEG2MPML) == [-1]
        until(lambda: pacs.received)
    text = "\n".join(lines)
    for words in (
        "the pixels are cut short", "modality CT, taken: MR", "no series UID", "1 of 1 bits",
        "SCANNER: 1 kinds of objects that are no images", "the association of OTHER", "MR Image Storage in MPEG2",
    ):  # fmt: skip
        assert text.count(words) == 1, (words, text)
    assert not any(secret in text for secret in SECRETS)


def test_a_sender_that_breaks_off_loses_nothing_that_was_answered(model: ServiceModel, tmp_path: Path) -> None:
    images, lines = slices(3), list[str]()
    with fake_pacs() as pacs, service(tmp_path / "spool", model, pacs.port, lines=lines) as running:
        entity = AE(ae_title="SCANNER")
        entity.add_requested_context(uid.MRImageStorage, uid.ExplicitVRLittleEndian)
        association = entity.associate("127.0.0.1", running.receiver.port, ae_title="EDGEMT")
        assert [association.send_c_store(image).Status for image in images[:2]] == [0, 0]
        association.abort()
        until(lambda: "received 2 images from SCANNER; the connection ended early" in lines)
        until(lambda: pacs.received)
    assert all(map(np.array_equal, masks_in(pacs.received[0], images[:2]), map(mask_of, images)))


def test_an_image_that_would_fill_the_memory_ends_its_association(
    model: ServiceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, lines = slices(1)[0], list[str]()
    large.add_new(0x00091001, "OB", bytes(3 << 20))
    monkeypatch.setattr("deploy.pacs.receiver._STEP", 1 << 20)
    monkeypatch.setattr("edgemt.io.decode_limits.BYTES", 4 << 20)
    with fake_pacs() as pacs, service(tmp_path / "spool", model, pacs.port, lines=lines) as running:
        assert sent(running.receiver.port, [large]) == [-1]
        assert sent(running.receiver.port, slices(1)) == [0]
        until(lambda: pacs.received)
    assert "refused from SCANNER: an image that does not fit the memory" in lines


def test_a_full_disk_refuses_images_until_there_is_room(
    model: ServiceModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    with fake_pacs() as pacs, service(
        tmp_path / "spool", model, pacs.port, lines=lines, least_free_mib=1
    ) as running:  # fmt: skip
        images = slices(2)
        with monkeypatch.context() as full:
            full.setattr("deploy.pacs.spool.Spool.free_bytes", lambda spool: 1000)
            assert sent(running.receiver.port, images) == [0xA700, 0xA700]
        assert sent(running.receiver.port, images) == [0, 0]
        until(lambda: pacs.received)
    assert sum("the disk is full" in line for line in lines) == 1


def test_a_series_that_fails_is_tried_again_and_then_waits_for_another_image(
    model: ServiceModel, tmp_path: Path
) -> None:
    """The error of the runtime has a name of a patient in its text, which reaches no line."""
    calls: list[int] = []

    def broken(frames: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) <= 5:
            raise RuntimeError("out of luck with Secret^Name")
        return np.zeros(frames.shape[:3], np.uint8)

    images, lines = slices(2), list[str]()
    with fake_pacs() as pacs, service(
        tmp_path / "spool", tiny_model(model.package, broken), pacs.port, lines=lines
    ) as running:  # fmt: skip
        sent(running.receiver.port, images[:1])
        until(lambda: any("5 attempts failed (RuntimeError)" in line for line in lines))
        sent(running.receiver.port, images[1:])
        until(lambda: pacs.received)
    assert sum("next attempt in" in line for line in lines) == 4 and "Secret" not in "".join(lines)


def test_a_runner_that_hangs_is_noticed_and_the_receiver_goes_on(model: ServiceModel, tmp_path: Path) -> None:
    go = threading.Event()

    def hanging(frames: np.ndarray) -> np.ndarray:
        go.wait(20.0)
        return np.zeros(frames.shape[:3], np.uint8)

    lines: list[str] = []
    with fake_pacs() as pacs, service(
        tmp_path / "spool", tiny_model(model.package, hanging), pacs.port, lines=lines, quiet_s=0.1
    ) as running:  # fmt: skip
        sent(running.receiver.port, slices(1))
        until(lambda: not running.answering(0.5))
        assert sent(running.receiver.port, slices(1)) == [0]
        go.set()
        until(lambda: running.answering(0.5) and len(pacs.received) == 2)


def test_nothing_is_predicted_with_a_ship_that_changed(tmp_path: Path) -> None:
    package = make_ship(tmp_path / "ship")
    lines: list[str] = []
    card = package.folder / "card.json"
    with fake_pacs() as pacs, service(tmp_path / "spool", tiny_model(package), pacs.port, lines=lines) as running:
        before = card.read_bytes()
        card.write_bytes(before + b" ")
        sent(running.receiver.port, slices(1))
        until(lambda: any("card.json was changed" in line for line in lines))
        assert not pacs.received
        card.write_bytes(before)
        until(lambda: pacs.received)
