"""Where frames come from. A source is opened, read until it ends, and closed; each kind is a file of its own and
imports its library when it is opened.

A new kind is a class with these five names and a row in SOURCES.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from deploy.stream.sources.frame_checks import Corrupt
from edgemt.errors import unknown_name_message
from edgemt.io.bit_depth import Depth
from edgemt.io.file_types import is_image, is_stray

__all__ = ["SOURCES", "Corrupt", "Lost", "Picture", "Source", "library", "open_source"]

VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mov", ".mkv", ".m4v", ".webm", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".wmv", ".asf"),
    *(".mxf", ".vob", ".3gp", ".gif", ".h264", ".264", ".h265", ".hevc", ".flv", ".ogv", ".m2v", ".mjpeg", ".y4m"),
)
_DICOM = (".dcm", ".dicom", ".ima")


class Lost(Exception):
    """The source is gone for now; it is opened again after a pause."""


class Picture(NamedTuple):
    pixels: np.ndarray  # uint8 [H, W] or [H, W, 3] (RGB)
    source_ns: int | None = None  # the source's own time, on its own clock; it may repeat
    origin: Any = None  # what the source needs to place a mask of this very picture


class Source(Protocol):
    name: str
    live: bool  # has a clock of its own, belongs to one program, and may come back when it is lost
    hz: float | None  # frames a second to play at when it is not live; None: its own, 0: as they come

    def open(self) -> None:
        """Raises ValueError in one line when it is not there or cannot be read."""

    def read(self) -> Picture | None:
        """The next frame, waiting for it; None at the end. Raises Lost, or Corrupt for this one frame."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class SourceKind:
    made_by: str  # module:class, called with what the user wrote
    takes: Callable[[str], bool]
    about: str


def open_source(text: str, *, hz: float | None = None, depth: Depth | None = None) -> Source:
    """The source that `text` names, not opened yet. `hz` replaces the pace of one that is not live, 0 takes it away.
    `depth` is how a source of files becomes eight bits: that of the model's training (`edgemt.io.bit_depth.of_card`).

    Raises ValueError in one line for a name or a file that no source takes.
    """
    if hz is not None and not 0 <= hz < float("inf"):
        raise ValueError(f"hz: must be above 0, or 0 for as fast as it can be read, not {hz:g}")
    for kind in SOURCES.values():
        if kind.takes(text):
            module, _, name = kind.made_by.partition(":")
            source: Source = getattr(import_module(module), name)(text)
            if hz is not None and not source.live:
                source.hz = hz
            if depth is not None and hasattr(source, "depth"):
                source.depth = depth
            return source
    path = Path(text)
    if path.is_file() and (by_content := _by_content(text)) is not None:
        by_content.hz = hz if hz is not None else by_content.hz
        if depth is not None and hasattr(by_content, "depth"):
            by_content.depth = depth
        return by_content
    if path.is_dir():
        raise ValueError(f"source {text}: holds no images and no DICOM file; name a folder of frames")
    if path.exists():
        raise ValueError(f"source {text}: no kind of file that is played; videos, DICOM cine and folders of images are")
    if "/" in text or "." in text:
        raise ValueError(f"source {text}: no such file or folder")
    raise ValueError(unknown_name_message("source", text.partition(":")[0], SOURCES))


def _by_content(text: str) -> Source | None:
    """A file whose name tells nothing: a DICOM file of an archive, a video of a recorder."""
    from deploy.dicom.header import is_dicom

    if is_dicom(text):
        from deploy.stream.sources.dicom import DicomSource

        return DicomSource(text)
    from deploy.stream.sources.video import VideoSource, is_video

    return VideoSource(text) if not is_image(text) and is_video(text) else None


def library(name: str, *, pip: str, source: str) -> Any:
    """A source's library. Raises ValueError with what to install."""
    try:
        return import_module(name)
    except ImportError:
        raise ValueError(f"source {source}: needs {pip}; pip install {pip}") from None


def _folder_of(suited: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda text: Path(text).is_dir() and any(suited(p.name) and not is_stray(p) for p in Path(text).iterdir())


def _file_like(*suffixes: str) -> Callable[[str], bool]:
    return lambda text: "://" not in text and text.lower().endswith(suffixes)


SOURCES: dict[str, SourceKind] = {
    "synthetic": SourceKind(
        "deploy.stream.sources.synthetic:SyntheticSource",
        lambda text: text.partition(":")[0] == "synthetic",
        "a deterministic video with labels; synthetic:WIDTHxHEIGHT, 1920x1080 if not given",
    ),
    "camera": SourceKind(
        "deploy.stream.sources.camera:CameraSource",
        lambda text: text.partition(":")[0] == "camera" or text.startswith("/dev/video"),
        "a camera or grabber: camera:0, camera:0:1920x1080, /dev/video0 (opencv-python-headless)",
    ),
    "igtl": SourceKind(
        "deploy.stream.sources.igtl:IgtlSource",
        lambda text: text.startswith("igtl:"),
        "an OpenIGTLink server, PLUS or 3D Slicer: igtl://HOST:PORT/DEVICE",
    ),
    "rtsp": SourceKind(
        "deploy.stream.sources.video:VideoSource",
        lambda text: text.startswith(("rtsp://", "rtsps://")),
        "a network camera (av)",
    ),
    "video": SourceKind("deploy.stream.sources.video:VideoSource", _file_like(*VIDEO_SUFFIXES), "a video file (av)"),
    "dicom": SourceKind(
        "deploy.stream.sources.dicom:DicomSource", _file_like(*_DICOM), "a DICOM cine, one file (pydicom)"
    ),
    "images": SourceKind(
        "deploy.stream.sources.images:ImageSource", _folder_of(is_image), "a folder of images, in order of their names"
    ),
}  # fmt: skip
