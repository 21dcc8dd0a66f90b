"""The table of frame sources, and how a name on the command line becomes a source.

Each source is a module of its own that imports its library when it is opened. To add a source, write a class with the
interface `Source` (base.py) and add a row to SOURCES.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from deploy.stream.sources.base import Source
from edgemt.errors import unknown_name_message
from edgemt.io.bit_depth import Depth
from edgemt.io.file_types import is_image, is_stray

VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mov", ".mkv", ".m4v", ".webm", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".wmv", ".asf"),
    *(".mxf", ".vob", ".3gp", ".gif", ".h264", ".264", ".h265", ".hevc", ".flv", ".ogv", ".m2v", ".mjpeg", ".y4m"),
)
_DICOM = (".dcm", ".dicom", ".ima")


@dataclass(frozen=True)
class SourceSpec:
    """A row of SOURCES."""

    factory: str  # module:class; the class is called with the text of --source
    matches: Callable[[str], bool]  # whether this source reads the text of --source
    description: str


def open_source(text: str, *, hz: float | None = None, depth: Depth | None = None) -> Source:
    """The source that `text` names, not opened yet.

    `hz` replaces the playback rate of a source that is not live; 0 means as fast as possible. `depth` is the conversion
    of files to 8 bits: the one of the model's training (`edgemt.io.bit_depth.of_card`).

    Raises ValueError in one line for a name or a file that no source matches.
    """
    if hz is not None and not 0 <= hz < float("inf"):
        raise ValueError(f"hz: must be above 0, or 0 for as fast as it can be read, not {hz:g}")
    for kind in SOURCES.values():
        if kind.matches(text):
            module, _, name = kind.factory.partition(":")
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
        raise ValueError(
            f"source {text}: this type of file cannot be played; videos, DICOM cine files and image folders can"
        )
    if "/" in text or "." in text:
        raise ValueError(f"source {text}: no such file or folder")
    raise ValueError(unknown_name_message("source", text.partition(":")[0], SOURCES))


def _by_content(text: str) -> Source | None:
    """The source of a file without a known suffix; None if it is neither DICOM nor a video.

    Archives write such DICOM files, recorders such videos.
    """
    from deploy.dicom.header import is_dicom

    if is_dicom(text):
        from deploy.stream.sources.dicom import DicomSource

        return DicomSource(text)
    from deploy.stream.sources.video import VideoSource, is_video

    return VideoSource(text) if not is_image(text) and is_video(text) else None


def _is_folder_with(is_wanted: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda text: Path(text).is_dir() and any(is_wanted(p.name) and not is_stray(p) for p in Path(text).iterdir())


def _has_suffix(*suffixes: str) -> Callable[[str], bool]:
    return lambda text: "://" not in text and text.lower().endswith(suffixes)


SOURCES: dict[str, SourceSpec] = {
    "synthetic": SourceSpec(
        "deploy.stream.sources.synthetic:SyntheticSource",
        lambda text: text.partition(":")[0] == "synthetic",
        "a deterministic video with labels; synthetic:WIDTHxHEIGHT, 1920x1080 by default",
    ),
    "camera": SourceSpec(
        "deploy.stream.sources.camera:CameraSource",
        lambda text: text.partition(":")[0] == "camera" or text.startswith("/dev/video"),
        "a camera or grabber: camera:0, camera:0:1920x1080, /dev/video0 (opencv-python-headless)",
    ),
    "igtl": SourceSpec(
        "deploy.stream.sources.igtl:IgtlSource",
        lambda text: text.startswith("igtl:"),
        "an OpenIGTLink server, PLUS or 3D Slicer: igtl://HOST:PORT/DEVICE",
    ),
    "rtsp": SourceSpec(
        "deploy.stream.sources.video:VideoSource",
        lambda text: text.startswith(("rtsp://", "rtsps://")),
        "a network camera (av)",
    ),
    "video": SourceSpec("deploy.stream.sources.video:VideoSource", _has_suffix(*VIDEO_SUFFIXES), "a video file (av)"),
    "dicom": SourceSpec(
        "deploy.stream.sources.dicom:DicomSource", _has_suffix(*_DICOM), "a DICOM cine, one file (pydicom)"
    ),
    "images": SourceSpec(
        "deploy.stream.sources.images:ImageSource",
        _is_folder_with(is_image),
        "a folder of images, in order of their names",
    ),
}  # fmt: skip
