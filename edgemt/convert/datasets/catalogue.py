"""The page of the data sets, written from their rows.

python -m edgemt.convert.datasets.catalogue      writes docs/datasets.md; runs in the root of a checkout
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgemt.convert.datasets.registry import DATASETS, NOT_INCLUDED
from edgemt.convert.datasets.row import DataSet

PAGE = Path("docs/datasets.md")
_INTRODUCTION = """\
# Public data sets

`edgemt import NAME --from FOLDER --out DIR` reads a public data set as it is distributed, with its classes, patients
and published split, and prints the command that trains on it:

```sh
edgemt import kvasir-seg --from Kvasir-SEG --out polyps
edgemt import acdc --from ACDC --out heart --classes myocardium left_ventricle
```

Nothing is downloaded: get the set at its home page, accept its terms there, unpack its archives into one folder, and
name that folder with `--from`. Folders around it do not matter. A folder that is not this set, a missing file and a
label value that the set does not define end the import with one line. After an interruption the same command goes on.
`manifest.json` has the SHA-256 of every source file, the terms and the home page.

- **Split.** Published validation images are on `DIR/val.txt`. Published test images go to `DIR/test`, which training
  does not read; with labels, `edgemt eval RUN/ship --data.root DIR/test` measures on them.
- **Patients.** Frames of a video or sequence lie in a folder `CLIP/`, so that a drawn split keeps them together. Where
  a set does not publish which images are of one patient, the import prints it.
- **Volumes.** The label of a voxel is the one with the same indices, as the loaders of these sets read them; its header
  is not compared. Image and label are written with the geometry of the image.
- **Several images of a case** (the four sequences of BraTS) are written as `images/NAME_0000.nii.gz`,
  `images/NAME_0001.nii.gz` and so on, with one label `labels/NAME.nii.gz`: the names of nnU-Net, which
  `--data.channel-names` reads. The 4-D files of the Medical Segmentation Decathlon are split so; training also reads
  them as they are, along their fourth axis.

Terms are those that were known when the row was written; those of the home page count. Every layout was learnt from
the public code or documentation that the section names, and is tested with a tiny folder of the same names, formats and
codes, not with the set itself.
"""


def page() -> str:
    """The text of docs/datasets.md."""
    return "\n".join([_INTRODUCTION, *_table(), "", *_sections(), *_left_out()]) + "\n"


def _table() -> Iterator[str]:
    yield "| name | what is segmented | images | terms |"
    yield "|---|---|---|---|"
    for row in DATASETS.values():
        yield f"| [`{row.name}`](#{row.name}) | {row.task}; {row.modality} | {row.content} | {row.terms} |"


def _sections() -> Iterator[str]:
    for row in DATASETS.values():
        yield f"## {row.name}\n"
        yield f"[{row.title}]({row.home}): {row.content}." + _also(row) + "\n"
        yield f"- expected: {_code(row.needs)}"
        yield "- classes: " + ", ".join(f"{value} {name}" for value, name in enumerate(row.classes, 1))
        if row.channels:
            numbered = ", ".join(f"`_{number:04d}` {name}" for number, name in enumerate(row.channels))
            yield f"- images of a case: {numbered}"
        yield f"- split: {row.split}"
        yield from (f"- {note}" for note in row.notes)
        yield f"- to train: `edgemt run {' '.join(row.recipe)} --data.root DIR`, with the flags that the import prints"
        yield "- layout learnt from: " + "; ".join(row.sources) + "\n"


def _also(row: DataSet) -> str:
    return f" Also: {', '.join(f'`{alias}`' for alias in row.aliases)}." if row.aliases else ""


def _code(text: str) -> str:
    return f"`{text}`" if "`" not in text else text


def _left_out() -> Iterator[str]:
    yield "## Not included and why\n"
    yield from (f"- **{name}**: {reason}." for name, reason in NOT_INCLUDED.items())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
