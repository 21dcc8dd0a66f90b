"""Series as DICOM data sets, a sender, a PACS that can be away or refuse, and the service of a tiny ship."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from dicom_samples import dataset, filled
from pydicom import Dataset, uid
from pynetdicom import AE, evt
from tiny_package import SIZE, expected, frame

from deploy.package.package import Package
from deploy.package.watcher import PackageWatcher
from deploy.pacs.backoff import RetryOptions
from deploy.pacs.destinations import DicomDestination
from deploy.pacs.predictor import ServiceModel
from deploy.pacs.receiver import ReceiverOptions
from deploy.pacs.reports import Reports
from deploy.pacs.service import PacsService, ServiceOptions
from deploy.pacs.spool import open_spool

SECRETS = ("Secret^Name", "ID-4711", "19700101", "ACC-9")
SEG = uid.UID("1.2.840.10008.5.1.4.1.1.66.4")
QUIET_S = 0.3


def slices(count: int = 3, *, patient: str = "ID-4711", modality: str = "MR", located: bool = True) -> list[Dataset]:
    """A series of MR slices of one patient, or of single pictures without patient coordinates."""
    series, study, reference = uid.generate_uid(), uid.generate_uid(), uid.generate_uid()
    made = []
    for k in range(count):
        grey = frame(k)[..., 0]
        kind = uid.MRImageStorage if located else uid.UltrasoundImageStorage
        image = filled(dataset(sop=kind), grey.tobytes(), (1, *SIZE), 8, 8, "MONOCHROME2")
        del image.NumberOfFrames, image.FrameTime, image.FrameIncrementPointer
        image.SeriesInstanceUID, image.StudyInstanceUID, image.InstanceNumber = series, study, k + 1
        image.PatientName, image.PatientID, image.PatientBirthDate, image.AccessionNumber = SECRETS
        image.PatientID, image.Modality = patient, modality
        if located:
            image.FrameOfReferenceUID, image.PositionReferenceIndicator = reference, ""
            image.ImageOrientationPatient, image.PixelSpacing = [1, 0, 0, 0, 1, 0], [1, 1]
            image.ImagePositionPatient, image.SliceThickness = [0, 0, 3.0 * k], 3
        made.append(image)
    return made


def mask_of(image: Dataset) -> np.ndarray:
    """What the tiny ship computes of a slice."""
    grey = np.frombuffer(image.PixelData, np.uint8).reshape(SIZE)
    return expected(np.repeat(grey[..., None], 3, axis=2))


def masks_in(seg: Dataset, images: list[Dataset]) -> list[np.ndarray]:
    """The masks [H, W] of the images in a BINARY segmentation, by their UIDs."""
    found = {str(image.SOPInstanceUID): np.zeros(SIZE, np.uint8) for image in images}
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    for k, group in enumerate(seg.PerFrameFunctionalGroupsSequence):
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        segment = group.get("SegmentIdentificationSequence") or seg.SharedFunctionalGroupsSequence[0].get(
            "SegmentIdentificationSequence"
        )
        plane = bits[k * SIZE[0] * SIZE[1] :][: SIZE[0] * SIZE[1]].reshape(SIZE)
        found[str(source)][plane > 0] = segment[0].ReferencedSegmentNumber
    return [found[str(image.SOPInstanceUID)] for image in images]


def sent(
    port: int, images: list[Dataset], *, calling: str = "SCANNER", called: str = "EDGEMT", syntax: str = ""
) -> list[int]:
    """The status of each image; -1 where the association, or the kind of object, was not accepted."""
    entity = AE(ae_title=calling)
    for kind in {str(image.SOPClassUID) for image in images}:
        entity.add_requested_context(kind, syntax or uid.ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return [-1] * len(images)
    statuses = []
    for image in images:
        try:
            statuses.append(int(association.send_c_store(image).get("Status", -1)))
        except ValueError:
            statuses.append(-1)
    association.release()
    return statuses


class FakePacs:
    """Takes DICOM segmentations; `answer` gives the status of each."""

    def __init__(self, port: int = 0, *, title: str = "PACS") -> None:
        self.received: list[Dataset] = []
        self.answer: Callable[[Dataset], int] = lambda seg: 0
        entity = AE(ae_title=title)
        entity.require_called_aet = True
        entity.add_supported_context(SEG)
        self._server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._on)])
        self.port = int(self._server.server_address[1])
        self._entity = entity

    def _on(self, event: Any) -> int:
        seg = event.dataset
        status = self.answer(seg)
        if status == 0:
            self.received.append(seg)
        return status

    def close(self) -> None:
        self._entity.shutdown()


@contextlib.contextmanager
def fake_pacs(port: int = 0) -> Iterator[FakePacs]:
    pacs = FakePacs(port)
    try:
        yield pacs
    finally:
        pacs.close()


def tiny_model(package: Package, call: Callable[[np.ndarray], np.ndarray] | None = None) -> ServiceModel:
    """The tiny ship without a runtime: its masks are computed by numpy."""
    runner: Any = SimpleNamespace(file="model.onnx", runtime="numpy", precision="f32")
    compute = call or (lambda frames: np.stack([expected(picture) for picture in frames]))

    class Runner(SimpleNamespace):
        def __call__(self, frames: np.ndarray) -> np.ndarray:
            return compute(frames)

    return ServiceModel(package, Runner(**vars(runner)), PackageWatcher(package))  # type: ignore[arg-type]


@contextlib.contextmanager
def service(
    spool: Path, model: ServiceModel, pacs_port: int, *, lines: list[str], log: Any = None, quiet_s: float = QUIET_S,
    destinations: list[Any] | None = None, **receiver: Any,
) -> Iterator[PacsService]:  # fmt: skip
    """A running service whose lines are appended to `lines`; another one may use the spool afterwards."""
    options = ServiceOptions(
        ReceiverOptions(port=0, **{"least_free_mib": 0, **receiver}), RetryOptions(0.1, 0.2), quiet_s=quiet_s
    )
    with open_spool(spool) as opened:
        to = destinations or [DicomDestination("PACS", "127.0.0.1", pacs_port, "EDGEMT")]
        running = PacsService(opened, model, to, options, reports=Reports(lines.append, log))
        try:
            yield running
        finally:
            running.close()


def until(condition: Callable[[], Any], *, seconds: float = 20.0) -> None:
    """Wait until `condition` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)
