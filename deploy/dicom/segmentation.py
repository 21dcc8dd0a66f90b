"""DICOM segmentations (SEG) of DICOM images: coded segments with references to the source images.

Patient and study are copied into the SEG, as the standard requires, and nowhere else: a SEG is named after its source
file, and messages contain only file paths. A SEG of other images is never replaced.

Shapes: F frames, H W size in pixels.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np

from deploy.dicom.header import first_line, read_dataset
from deploy.dicom.images import SEG_SUFFIX, Series, library, series_of
from deploy.dicom.pixels import DicomFile
from deploy.package.input_drift import InputDriftMonitor, read_inputs
from deploy.package.package import Package, card_hash, open_package
from deploy.runtimes.load import runner
from edgemt.io.atomic import Failures, write_bytes
from edgemt.io.bit_depth import of_card
from edgemt.io.channels import no_channels
from edgemt.io.images import fit_frame, fit_label
from edgemt.model_card import ModelCard

Kind = Literal["BINARY", "LABELMAP"]
Predict = Callable[[np.ndarray], np.ndarray]  # uint8 [1, H, W, K] -> uint8 [1, H, W]
_STAND_IN = "1.2.840.10008.5.1.4.1.1.6.1"  # ultrasound image storage, single frame
_FRAME_LABEL, _FRAME_CONTENT = 0x00209453, 0x00209111


def predict_dicom_seg(
    folder: Path,
    inputs: Sequence[Path],
    *,
    out: Path,
    runtime: str = "auto",
    file: str | None = None,
    threads: int | None = None,
    kind: Kind = "BINARY",
    cpu_fallback: bool = True,
) -> Iterator[Path]:
    """`write_dicom_seg` with a package; warns once where frames do not look like the training frames."""
    package = open_package(folder)
    made, watch = (
        runner(package, runtime=runtime, file=file, threads=threads, cpu_fallback=cpu_fallback),
        InputDriftMonitor(read_inputs(package), what="input"),
    )

    def predict(frames: np.ndarray) -> np.ndarray:
        if (warning := watch.update(frames[0])) is not None:
            print(f"edgemt: warning: {warning}", file=sys.stderr, flush=True)
        return made(frames)

    return write_dicom_seg(package, predict, inputs, out=out, kind=kind)


def write_dicom_seg(
    package: Package, predict: Predict, inputs: Sequence[Path], *, out: Path, kind: Kind = "BINARY"
) -> Iterator[Path]:
    """Write a SEG for each series among `inputs` (files, or folders of them); yields the path of each.

    The name is `NAME.seg.dcm` after the first source file, with a part of the hash of its UID where another SEG has
    that name. Every viewer reads BINARY; LABELMAP loads faster. A cine, and an image without patient coordinates, gets
    its own SEG. Files that cannot be decoded are skipped and named in a ValueError at the end. Raises ValueError, in
    one line that names the file, for a file that is no image, a model of neighbouring slices, and missing libraries.
    """
    check_segments(package)
    failures, written = Failures(total=2 if any(path.is_dir() for path in inputs) else len(inputs)), set[Path]()
    depth = of_card(package.card.data, source=package.folder / "card.json")
    for number, series in enumerate(series_of(inputs, depth=depth, failures=failures, tell=_tell), 1):
        if (about := series.about()) is not None:
            _tell(about)
        made = segment_series(package.card, predict, series, failures, kind=kind, number=number)
        if made is None:
            continue
        first, data = made
        path = _target(out, first, written)
        write_bytes(path, data)
        written.add(path)
        yield path
    failures.raise_if_any()


def check_segments(package: Package) -> None:
    """Raises ValueError for a model whose masks are not written as DICOM SEG, and for missing libraries."""
    library("highdicom")
    if package.card.channel_order == "slices":
        raise ValueError(f"{package.folder}: reads slices of a volume; DICOM SEG is written by models of single frames")
    no_channels(package.card, where=package.folder, what="DICOM SEG is written of one image at a time; give NIfTI")


def segment_series(
    card: ModelCard, predict: Predict, series: Series, failures: Failures, *, kind: Kind = "BINARY", number: int = 1
) -> tuple[DicomFile, bytes] | None:
    """(first file that could be read, the bytes of the SEG) of a series; None where there is none.

    Files that cannot be decoded, and a series of which no SEG can be made, are added to `failures`. `number`: the
    series number is 1000 + `number`.
    """
    readable, masks = _predicted(card, predict, series, failures)
    if not readable:
        return None
    try:
        images = [file.header for file in readable]
        return readable[0], _bytes(_segmentation(card, images, masks, kind=kind, number=number))
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a required element is missing
        failures.add(readable[0].path, ValueError(f"no SEG can be made of it ({first_line(error)}); export it again"))
        return None


def _tell(text: str) -> None:
    print(f"edgemt: {text}", file=sys.stderr, flush=True)


def _predicted(
    card: ModelCard, predict: Predict, series: Series, failures: Failures
) -> tuple[list[DicomFile], np.ndarray]:
    """(readable files, masks uint8 [F, H, W] of all their frames)."""
    readable, masks = [], []
    for file in series.files:
        try:
            masks.append(_masks(card, predict, series.frames(file)))
        except ValueError as error:
            failures.add(file.path, error)
            continue
        readable.append(file)
    return readable, np.concatenate(masks) if masks else np.zeros((0, 0, 0), np.uint8)


def _target(out: Path, file: DicomFile, written: set[Path]) -> Path:
    """Path of the SEG: an existing SEG of the same images is replaced, one of other images is not."""
    name = file.path.name
    for suffix in (".dcm", ".dicom", ".ima"):
        name = name[: -len(suffix)] if name.lower().endswith(suffix) else name
    uid = str(file.header.SOPInstanceUID)
    plain = out / f"{name}{SEG_SUFFIX}"
    if plain not in written and (not plain.exists() or uid in _sources_of(plain)):
        return plain
    return out / f"{name}.{hashlib.sha256(uid.encode()).hexdigest()[:12]}{SEG_SUFFIX}"


def _sources_of(path: Path) -> set[str]:
    """UIDs of the SOP instances that a SEG refers to; empty for a file that is no SEG."""
    try:
        header = read_dataset(path, pixels=False)
    except Exception:  # not a SEG of ours, so it is not replaced
        return set()
    return {
        str(item.ReferencedSOPInstanceUID)
        for series in header.get("ReferencedSeriesSequence") or []
        for item in series.get("ReferencedInstanceSequence") or []
    }


def _segmentation(card: ModelCard, images: list[Any], masks: np.ndarray, *, kind: Kind, number: int) -> Any:
    from pydicom import Dataset

    if "NumberOfFrames" not in images[0] or "SharedFunctionalGroupsSequence" in images[0]:
        return _made(card, images, masks, kind=kind, number=number)
    # highdicom supports no multi-frame source and no frame of reference without positions: `_with_frames` adds them
    one = Dataset(dict(images[0].items()))
    one.file_meta = images[0].file_meta
    one.add_new("SOPClassUID", "UI", _STAND_IN)
    for name in ("NumberOfFrames", "FrameOfReferenceUID"):
        if name in one:
            delattr(one, name)
    return _with_frames(_made(card, [one], masks[:1], kind=kind, number=number), masks, images[0])


def _with_frames(made: Any, masks: np.ndarray, image: Any) -> Any:
    """The SEG of the first frame of a cine, extended to all its frames, each with a reference to its source frame."""
    from pydicom.pixels import pack_bits
    from pydicom.sequence import Sequence as Items

    for element in made.iterall():
        if element.keyword == "ReferencedSOPClassUID" and element.value == _STAND_IN:
            element.value = image.SOPClassUID
    axes = made.DimensionIndexSequence
    if axes[0].DimensionIndexPointer != _FRAME_LABEL:  # the segment's number: the frame is another axis
        axes.append(deepcopy(axes[0]))
        axes[1].DimensionIndexPointer, axes[1].FunctionalGroupPointer = _FRAME_LABEL, _FRAME_CONTENT
        axes[1].DimensionDescriptionLabel = "Frame Label"
    items, planes = [], []
    for first in made.PerFrameFunctionalGroupsSequence:
        named = first.get("SegmentIdentificationSequence")
        for k, mask in enumerate(masks, 1):
            item = deepcopy(first)
            content = item.FrameContentSequence[0]
            content.DimensionIndexValues = [content.DimensionIndexValues, k] if named else k
            content.FrameLabel = f"Frame {k}"
            for source in item.DerivationImageSequence[0].SourceImageSequence:
                source.ReferencedFrameNumber = k
            items.append(item)
            planes.append(mask == named[0].ReferencedSegmentNumber if named else mask)
    made.PerFrameFunctionalGroupsSequence = Items(items)
    made.NumberOfFrames = len(items)
    pixels = np.stack(planes).astype(np.uint8)
    data = pack_bits(pixels) if made.BitsAllocated == 1 else pixels.tobytes()
    made.PixelData = data + b"\0" * (len(data) % 2)
    return made


def _made(card: ModelCard, images: list[Any], masks: np.ndarray, *, kind: Kind, number: int) -> Any:
    hd = library("highdicom")
    return hd.seg.Segmentation(
        source_images=images,
        pixel_array=masks,
        segmentation_type=kind,
        segment_descriptions=[_described(hd, card, k) for k in range(1, len(card.classes))],
        series_instance_uid=hd.UID(),
        series_number=1000 + number,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="EdgeMT",
        manufacturer_model_name=card.name or "EdgeMT",
        software_versions=card_hash(card)[:16],
        device_serial_number=card_hash(card)[:16],
        series_description=f"EdgeMT {card.name}".strip()[:64],
        content_label="SEGMENTATION",
        omit_empty_frames=False,
    )


def _described(hd: Any, card: ModelCard, value: int) -> Any:
    """Description of a segment: the card has class names only, so the code is general and the name is the label."""
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence(
        name=card.name or "EdgeMT", version=card_hash(card)[:16], family=codes.DCM.ArtificialIntelligence
    )
    return hd.seg.SegmentDescription(
        segment_number=value,
        segment_label=card.classes[value][:64],
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.AnatomicalStructure,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
    )


def _masks(card: ModelCard, predict: Predict, frames: np.ndarray) -> np.ndarray:
    """Masks uint8 [F, H, W] of frames, at the size of the frames."""
    out = np.zeros(frames.shape[:3], np.uint8)
    for k, frame in enumerate(frames):
        fitted = fit_frame(np.ascontiguousarray(frame), size=card.size, channels=card.channels)
        out[k] = fit_label(predict(fitted[None])[0], size=frame.shape[:2])
    return out


def _bytes(dataset: Any) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
