"""Masks of classes that overlap, a file for each class, go to label tools: each class comes back bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from label_samples import SIZE, imported
from PIL import Image

from edgemt.convert.contract import ImportOptions
from edgemt.convert.exporting import export_labels
from edgemt.convert.registry import FORMATS

CLASSES = ("background", "whole tumour", "core")
TARGETS = {"coco": "labels.json", "cvat": "annotations.xml", "label-studio": "tasks.json"}
WRITTEN = [name for name, row in FORMATS.items() if row.write is not None]


def regions(number: int) -> dict[str, np.ndarray]:
    """The core lies in the whole, and in the second image there is none."""
    whole, core = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    whole[4:20, 5 : 15 + number] = True
    core[8:12, 7:11] = number == 0
    return {"whole tumour": whole, "core": core}


def written(root: Path, pattern: str) -> Path:
    for number in range(2):
        image = root / "images" / f"case.{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*SIZE, 3), 90 + number, np.uint8)).save(image)
        for name, region in regions(number).items():
            path = root / "masks" / pattern.format(image=f"case.{number}", name=name.replace(" ", "_"))
            path.parent.mkdir(parents=True, exist_ok=True)
            value = 1 if path.stem.endswith(".mask") else 255
            Image.fromarray(region.astype(np.uint8) * np.uint8(value)).save(path)
    return root


@pytest.mark.parametrize("pattern", ["{image}.{name}.mask.png", "{name}/{image}.png"])
@pytest.mark.parametrize("name", WRITTEN)
def test_each_class_comes_back_bit_for_bit(name: str, pattern: str, tmp_path: Path) -> None:
    root, lines = written(tmp_path / "data", pattern), list[str]()
    out = root / TARGETS.get(name, "made")
    given = {"format": name, "images": root / "images", "classes": CLASSES, "tell": lines.append}
    if name == "voc":
        with pytest.raises(ValueError, match=r"case\.0: has overlapping classes"):
            export_labels(root / "masks", out, **given)  # type: ignore[arg-type]
        assert not out.exists()
        return
    export_labels(root / "masks", out, **given)  # type: ignore[arg-type]
    assert lines == [f"2 masks, overlapping classes whole tumour, core: {out}"]
    if name == "label-studio":  # its files are addressed from the folder of the images
        out.write_text(out.read_text().replace("?d=", "?d=images/"))
    for title in CLASSES[1:]:
        options = ImportOptions(images=root / "images", classes=(title,), empty="background")
        found = imported(out, tmp_path / title, options=options)
        for number in range(2):
            assert np.array_equal(found[f"case.{number}"] == 1, regions(number)[title]), (title, number)


def test_a_class_without_its_mask_and_volumes_of_classes_are_refused(tmp_path: Path) -> None:
    root = written(tmp_path / "data", "{image}.{name}.mask.png")
    (root / "masks" / "case.1.core.mask.png").unlink()
    with pytest.raises(ValueError, match=r"case\.1\.whole_tumour\.mask\.png: .*add that of core"):
        export_labels(root / "masks", tmp_path / "l.json", format="coco", classes=CLASSES)
    nibabel = pytest.importorskip("nibabel")
    for title in ("whole_tumour", "core"):
        volume = nibabel.Nifti1Image(np.eye(4, dtype=np.uint8)[..., None], np.eye(4))
        nibabel.save(volume, tmp_path / f"a.{title}.mask.nii.gz")
    with pytest.raises(ValueError, match="one of several overlapping classes"):
        export_labels(tmp_path, tmp_path / "out", format="nrrd", classes=CLASSES)
    assert not (tmp_path / "out").exists() and not (tmp_path / "l.json").exists()
