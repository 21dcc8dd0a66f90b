"""What a clinic has becomes a ship by two commands: the import, and the command that its last line prints."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import volume_samples
from label_samples import colonoscopy
from tiny_flags import TINY

from edgemt import cli
from edgemt.artefacts import stage_folder
from edgemt.convert.nrrd_file import write_nrrd
from edgemt.data import phantom2d

pytest.importorskip("av")
pytest.importorskip("pydicom")

pytestmark = pytest.mark.slow

SHORT = [
    *(flag for flag in TINY if not flag.startswith("--data.phantom") and flag not in ("6", "12", "4")),
    *("--student.pretrained=never", "--teacher.pretrained=never", "--teacher.members=1", "--slim.prune.target=macs"),
]


def cvat(folder: Path) -> list[str]:
    """A video with the annotations.xml of CVAT."""
    colonoscopy(folder)
    return ["--every", "3", "--clip-frames", "10"]


def slicer(folder: Path) -> list[str]:
    """The same video, every fifth frame labelled in 3D Slicer as a stack of frames."""
    colonoscopy(folder)
    (folder / "annotations.xml").unlink()
    labels = np.zeros((96, 64, 40), np.uint8)
    for number in range(0, 40, 5):
        labels[..., number] = (phantom2d.frame(number, size=(64, 96))[1] == 1).T
    write_nrrd(folder / "film.seg.nrrd", labels, np.eye(4), volume_samples.segments(["polyp"]))
    return ["--every", "3", "--clip-frames", "10"]


def dicom(folder: Path) -> list[str]:
    """CT series of three patients with RT-STRUCTs."""
    for seed in range(3):
        paths = volume_samples.dicom_series(folder / str(seed), seed, patient=f"Patient{seed}")
        ring = [(1.5, 1.5), (7.5, 1.5), (7.5, 6.5), (1.5, 6.5)]
        volume_samples.structures(paths, {"organ": [(k, ring) for k in range(1, 5)]}, folder / str(seed) / "rt.dcm")
    return []


@pytest.mark.parametrize(("make", "classes"), [(cvat, ("polyp",)), (slicer, ("polyp",)), (dicom, ("organ",))])
def test_two_commands_lead_from_a_source_to_a_ship_that_predicts(
    make: Callable[[Path], list[str]], classes: tuple[str, ...], tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = make(tmp_path / "source")
    cli.main(["import", "source", "--out", "data", *flags])
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("next: edgemt run ")
    cli.main([*shlex.split(last.removeprefix("next: edgemt ")), "--out", "run", *SHORT])
    assert stage_folder.read_card(tmp_path / "run" / "ship").classes == ("background", *classes)
    capsys.readouterr()
    images = tmp_path / "data" / "images"
    cli.main(["predict", "run/ship", str(images), "--no-overlay", "--out", "masks"])
    masks = [p for p in (tmp_path / "masks").rglob("*") if p.is_file() and p.suffix in (".png", ".gz")]
    assert len(masks) == sum(p.is_file() for p in images.rglob("*"))
