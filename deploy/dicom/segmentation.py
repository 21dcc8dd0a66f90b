"""DICOM in, DICOM segmentation out: a SEG object of coded segments that refers to the very images it was made from.

Off the hot path. Patient and study are copied into the SEG because the standard demands it, and go nowhere else: a SEG
is named by the file it was made from, and no message holds more than a file's path. A SEG of other images is never
replaced.

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

from deploy.dicom.images import SEG_SUFFIX, Series, library, said, series_of
from deploy.dicom.pixels import DicomFile
from deploy.package.input_drift import Watch, read_inputs
from deploy.package.package import Ship, card_hash, open_ship
from deploy.runtimes.load import runner
from edgemt.io.atomic import Failures, write_bytes
from edgemt.io.bit_depth import of_card
from edgemt.io.images import fit_frame, fit_label
from edgemt.model_card import ModelCard

Kind = Literal["BINARY", "LABELMAP"]
Predict = Callable[[np.ndarray], np.ndarray]  # uint8 [1, H, W, K] -> uint8 [1, H, W]
_STAND_IN = "1.2.840.10008.5.1.4.1.1.6.1"  # a single ultrasound picture
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
) -> Iterator[Path]:
    """`write_dicom_seg` with the model of a ship folder, which says once when frames do not look like its training."""
    ship = open_ship(folder)
    made, watch = runner(ship, runtime=runtime, file=file, threads=threads), Watch(read_inputs(ship), what="input")

    def watched(frames: np.ndarray) -> np.ndarray:
        if (said := watch.see(frames[0])) is not None:
            print(f"edgemt: warning: {said}", file=sys.stderr, flush=True)
        return made(frames)

    return write_dicom_seg(ship, watched, inputs, out=out, kind=kind)


def write_dicom_seg(
    ship: Ship, predict: Predict, inputs: Sequence[Path], *, out: Path, kind: Kind = "BINARY"
) -> Iterator[Path]:
    """A SEG for each series among `inputs`: files, or folders of them. Yields each file when it is written:
    `NAME.seg.dcm` by the (first) file it was made from, with a part of its UID's hash where another SEG has the name.

    BINARY is what every viewer reads, LABELMAP is quicker to load. A cine, and an image that lies in no patient
    coordinates, gets a SEG of its own. Files that cannot be decoded are left out and named at the end, in a ValueError.
    Raises ValueError, in one line that names the file, for what cannot be read as an image, a model of neighbouring
    slices, and missing libraries.
    """
    library("highdicom")
    if ship.card.channel_order == "slices":
        raise ValueError(f"{ship.folder}: reads slices of a volume; DICOM SEG is written by models of single frames")
    failures, written = Failures(total=2 if any(path.is_dir() for path in inputs) else len(inputs)), set[Path]()
    depth = of_card(ship.card.data, source=ship.folder / "card.json")
    for number, series in enumerate(series_of(inputs, depth=depth, failures=failures, tell=_tell), 1):
        if (about := series.about()) is not None:
            _tell(about)
        kept, masks = _predicted(ship.card, predict, series, failures)
        if not kept:
            continue
        try:
            data = _bytes(_segmentation(ship.card, [file.header for file in kept], masks, kind=kind, number=number))
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # what the standard demands is missing
            failures.add(kept[0].path, ValueError(f"no SEG can be made of it ({said(error)}); export it again"))
            continue
        path = _target(out, kept[0], written)
        write_bytes(path, data)
        written.add(path)
        yield path
    failures.raise_if_any()


def _tell(text: str) -> None:
    print(f"edgemt: {text}", file=sys.stderr, flush=True)


def _predicted(
    card: ModelCard, predict: Predict, series: Series, failures: Failures
) -> tuple[list[DicomFile], np.ndarray]:
    """The files that could be read, and uint8 [F, H, W] of all their frames."""
    kept, masks = [], []
    for file in series.files:
        try:
            masks.append(_masks(card, predict, series.frames(file)))
        except ValueError as error:
            failures.add(file.path, error)
            continue
        kept.append(file)
    return kept, np.concatenate(masks) if masks else np.zeros((0, 0, 0), np.uint8)


def _target(out: Path, file: DicomFile, written: set[Path]) -> Path:
    """The same images replace their SEG of before; those of others stay."""
    name = file.path.name
    for suffix in (".dcm", ".dicom", ".ima"):
        name = name[: -len(suffix)] if name.lower().endswith(suffix) else name
    uid = str(file.header.SOPInstanceUID)
    plain = out / f"{name}{SEG_SUFFIX}"
    if plain not in written and (not plain.exists() or uid in _sources_of(plain)):
        return plain
    return out / f"{name}.{hashlib.sha256(uid.encode()).hexdigest()[:12]}{SEG_SUFFIX}"


def _sources_of(path: Path) -> set[str]:
    """SOP instances that a SEG refers to; none for a file that is no SEG."""
    try:
        header = library("pydicom").dcmread(path, stop_before_pixels=True)
    except Exception:  # whatever it is, it is not ours to replace
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
    # highdicom takes the frames of a cine one by one, and a frame of reference only with positions: the rest follows
    one = Dataset(dict(images[0].items()))
    one.file_meta = images[0].file_meta
    one.add_new("SOPClassUID", "UI", _STAND_IN)
    for name in ("NumberOfFrames", "FrameOfReferenceUID"):
        if name in one:
            delattr(one, name)
    return _with_frames(_made(card, [one], masks[:1], kind=kind, number=number), masks, images[0])


def _with_frames(made: Any, masks: np.ndarray, image: Any) -> Any:
    """The SEG of a cine's first frame -> that of all its frames, each referring to its own by number."""
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
    """The ship knows classes by name only, so the code is the general one and the name stands as the label."""
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
    """uint8 [F, H, W] of frames at their own size."""
    out = np.zeros(frames.shape[:3], np.uint8)
    for k, frame in enumerate(frames):
        fitted = fit_frame(np.ascontiguousarray(frame), size=card.size, channels=card.channels)
        out[k] = fit_label(predict(fitted[None])[0], size=frame.shape[:2])
    return out


def _bytes(dataset: Any) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
