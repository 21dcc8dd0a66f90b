"""The table of formats: a new one is a file with a `Format` and a line here."""

from __future__ import annotations

from pathlib import Path

from edgemt.convert import coco, cvat, dicom, label_studio, labelme, video, voc, volumes, yolo
from edgemt.convert.contract import Format
from edgemt.errors import unknown_name_message

FORMATS: dict[str, Format] = {
    "coco": coco.FORMAT,
    "cvat": cvat.FORMAT,
    "label-studio": label_studio.FORMAT,
    "labelme": labelme.FORMAT,
    "voc": voc.FORMAT,
    "yolo": yolo.FORMAT,
    "nrrd": volumes.FORMAT,
    "dicom": dicom.FORMAT,
    "video": video.FORMAT,
}
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")


def find_format(name: str, source: Path) -> str:
    """`name`, or for "auto" the one format that fits `source`.

    Raises ValueError for an unknown name, an archive, a source that is not there, and where none or several fit.
    """
    if name != "auto" and name not in FORMATS:
        raise ValueError(unknown_name_message("format", name, FORMATS))
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder")
    if source.is_file() and source.name.lower().endswith(_ARCHIVES):
        raise ValueError(f"{source}: archives are not opened; unpack it into a folder and name that")
    if name != "auto":
        return name
    found = [key for key, row in FORMATS.items() if row.detects(source)]
    found = [key for key in found if not FORMATS[key].fallback] or found
    if not found:
        raise ValueError(f"{source}: fits no format; give --format, one of {', '.join(FORMATS)}")
    if len(found) > 1:
        raise ValueError(f"{source}: fits {' and '.join(found)}; choose one with --format")
    return found[0]
