"""The import of a data set by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgemt.convert.contract import ImportOptions, Listing, Loaded, Sample, Unit
from edgemt.convert.datasets.registry import find_dataset
from edgemt.convert.datasets.row import DataSet, Found, find_cases
from edgemt.convert.importing import Progress, summary, write_listing
from edgemt.convert.names import class_names
from edgemt.data.layouts.case_files import patient_of
from edgemt.data.options import DataOptions


def import_dataset(
    name: str,
    source: Path,
    out: Path,
    *,
    classes: Sequence[str] = (),
    tell: Callable[[str], None] = lambda text: None,
    progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Write the data set `name`, unpacked in the folder `source`, into the folder `out`; returns the manifest.

    `classes`: these only, numbered in this order. Published test images go to out/test, which training does not read.
    Resumes as `import_source` does. Raises ValueError, naming the home page, for a folder that is not this data set.
    """
    row = find_dataset(name)
    options = ImportOptions(classes=tuple(classes))
    listing = list_dataset(row, source, options)
    about = {"name": row.name, "title": row.title, "terms": row.terms, "home": row.home}
    return write_listing(f"dataset {row.name}", listing, out, options, about=about, tell=tell, progress=progress)


def list_dataset(row: DataSet, source: Path, options: ImportOptions) -> Listing:
    """All that the import will write; no image is decoded. Raises ValueError as `find_cases` does."""
    classes = class_names(row.classes, wanted=options.classes, source=source)
    chosen = np.array([0, *(classes.index(name) if name in classes else 0 for name in row.classes)], np.uint8)
    found = find_cases(row, source)
    units = [_unit(case, row, source, chosen) for case in found]
    split = f"published split: {row.split}"
    return Listing(row.layout, classes, units, notes=(f"{row.title}: {row.terms}; {row.home}", split, *row.notes))


def _unit(found: Found, row: DataSet, source: Path, chosen: np.ndarray) -> Unit:
    def load() -> Loaded:
        loaded = row.load(found, row)
        return loaded if loaded.mask is None else replace(loaded, mask=chosen[loaded.mask])

    def samples() -> Iterator[Sample]:
        yield Sample(found.name, bool(found.labels), load, part=found.part, patient=patient)

    patient = patient_of(found.name.partition("/")[0], pattern=DataOptions.patient_pattern)
    files = tuple(dict.fromkeys((*found.images, *found.labels)))
    return Unit(found.images[0].relative_to(source).as_posix(), files, samples)


def dataset_summary(manifest: dict[str, Any], out: Path) -> list[str]:
    """Lines for the user, with the recipe of the data set."""
    row = find_dataset(manifest["dataset"]["name"])
    if not row.channels:
        return summary(manifest, out, recipe=row.recipe)
    numbers = ", ".join(f"{k:04d} {name}" for k, name in enumerate(row.channels))
    lines = summary(manifest, out, recipe=(*row.recipe, "--data.channel-names", *row.channels))
    lines.insert(1, f"each case has {len(row.channels)} images, NAME_0000 and so on: {numbers}")
    return lines
