"""The import: one format read, every sample written, resumable, with a manifest of where each file came from."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import partial as bind
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgemt.convert.contract import MANIFEST, ImportOptions, Listing, Sample, Unit
from edgemt.convert.journal import JOURNAL, Journal
from edgemt.convert.parts import TEST
from edgemt.convert.registry import FORMATS, find_format
from edgemt.convert.writing import write_sample
from edgemt.io.atomic import NoSpaceError, fsync_folder, fsync_tree, make_folder, sha256, write_text

_WRITERS = 2  # threads
_MANY = 200
Progress = Callable[[int, int, str], None]  # units done, units in all, what is read now


def import_source(
    source: Path,
    out: Path,
    *,
    format: str = "auto",
    options: ImportOptions | None = None,
    tell: Callable[[str], None] = lambda text: None,
    progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Write the images and masks of `source` into the folder `out`; returns the manifest, which is out/manifest.json.

    The folder is made as `out.partial` and renamed when it is complete; the same call goes on where one was
    interrupted, and does nothing where `out` is complete. `tell` gets lines on what was assumed before the first
    file is written. Raises ValueError, in one line that names the file and the remedy, for whatever cannot be read.
    """
    options = options or ImportOptions()
    name = find_format(format, source)
    return write_listing(name, FORMATS[name].read(source, options), out, options, tell=tell, progress=progress)


def write_listing(
    name: str,
    listing: Listing,
    out: Path,
    options: ImportOptions,
    *,
    about: Mapping[str, str] = MappingProxyType({}),
    tell: Callable[[str], None] = lambda text: None,
    progress: Progress = lambda done, total, what: None,
) -> dict[str, Any]:
    """Write what a format or a data set of this name lists, as `import_source` does; `about` goes into the manifest."""
    key = _key(name, listing, options)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        return _complete(out, key, tell)
    for line in listing.notes:
        tell(line)
    partial = out.with_name(f"{out.name}.partial")
    make_folder(out.parent)
    journal = Journal(partial, key)
    if journal.resumed:
        tell(f"going on in {partial}")
    try:
        journal.drop_others({unit.name for unit in listing.units})
        with ThreadPoolExecutor(_WRITERS) as pool:  # an image is compressed while the next one is decoded
            for number, unit in enumerate(listing.units):
                progress(number, len(listing.units), unit.name)
                _write_unit(unit, listing, journal, partial, pool, bind(progress, number, len(listing.units)))
        progress(len(listing.units), len(listing.units), "")
    except NoSpaceError:
        raise
    except ValueError:
        if not any(map(journal.finished, journal.units)):  # nothing to go on with
            journal.close()
            shutil.rmtree(partial)
        raise
    finally:
        journal.close()
    manifest = {**_manifest(name, key, listing, journal, options), **({"dataset": dict(about)} if about else {})}
    write_text(partial / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    _write_lists(partial, manifest)
    _flush(partial, len(manifest["cases"]))
    if out.exists():
        out.rmdir()
    os.replace(partial, out)
    (out / JOURNAL).unlink()  # not before: without it OUT.partial could not be gone on with
    fsync_folder(out.parent)
    return manifest


def _flush(folder: Path, cases: int) -> None:
    """All files to the disk, so that a power cut after the renaming loses none: by one call where they are many."""
    if cases > _MANY and hasattr(os, "sync"):
        os.sync()
    else:
        fsync_tree(folder)


def _complete(out: Path, key: str, tell: Callable[[str], None]) -> dict[str, Any]:
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        manifest = {}
    if not isinstance(manifest, dict) or manifest.get("key") != key:
        raise ValueError(f"{out}: is not empty, and not this import; give another --out, or move the folder away")
    (out / JOURNAL).unlink(missing_ok=True)
    tell(f"{out} is complete; nothing to do")
    return manifest


def _key(name: str, listing: Listing, options: ImportOptions) -> str:
    """Equal for two calls that write the same, as long as no source file of a unit changes."""
    chosen = {field: str(value) for field, value in asdict(options).items() if field != "images"}
    labels = [[path.name, sha256(path)] for path in listing.labels]
    text = json.dumps([name, chosen, listing.layout, listing.classes, labels])
    return hashlib.sha256(text.encode()).hexdigest()


def _write_unit(
    unit: Unit, listing: Listing, journal: Journal, folder: Path, pool: Executor, progress: Callable[[str], None]
) -> None:
    identity = [[path.stat().st_size, path.stat().st_mtime_ns] for path in unit.sources]
    journal.begin(unit.name, identity)
    if journal.finished(unit.name):
        return
    done, pending = journal.done(unit.name), deque[tuple[Sample, np.ndarray | None, int, Future[list[Path]]]]()

    def settle() -> None:
        sample, mask, overlap, files = pending.popleft()
        row = _row(sample, unit, files.result(), folder, mask)
        journal.add(unit.name, sample.name, {**row, "overlap": overlap})

    try:
        for sample in unit.samples():
            if sample.name in done:
                continue
            progress(unit.name if sample.frame is None else f"{unit.name}, frame {sample.frame}")
            claimed = listing.overlap.pixels
            loaded = sample.load()
            where = folder / TEST if sample.part == TEST else folder
            files = pool.submit(write_sample, where, sample.name, loaded, source=unit.sources[-1])
            pending.append((sample, loaded.mask, listing.overlap.pixels - claimed, files))
            if len(pending) > _WRITERS:
                settle()
        while pending:
            settle()
    except BaseException:
        while pending:
            with suppress(Exception):
                settle()
        raise
    journal.finish(unit.name, [sha256(path) for path in unit.sources])


def _row(sample: Sample, unit: Unit, files: list[Path], folder: Path, mask: np.ndarray | None) -> dict[str, Any]:
    names = [file.relative_to(folder).as_posix() for file in files]
    values = [] if mask is None else np.unique(mask).tolist()
    images = len(files) - (mask is not None)
    return {
        "files": names,
        "bytes": [file.stat().st_size for file in files],
        "values": values,
        "frame": sample.frame,
        "part": sample.part,
        "patient": sample.patient or sample.name.rpartition("/")[0] or unit.patient,
        **({"images": images} if images > 1 else {}),
    }


def _manifest(name: str, key: str, listing: Listing, journal: Journal, options: ImportOptions) -> dict[str, Any]:
    """The content of manifest.json; docs/importing.md lists its keys."""
    cases: list[dict[str, Any]] = []
    sources: dict[str, list[dict[str, str]]] = {}
    per_class: Counter[int] = Counter()
    overlaps: list[int] = []
    for unit in listing.units:
        found = journal.units[unit.name]
        names = [_shown(path.name, unit, k) for k, path in enumerate(unit.sources, 1)]
        sources[unit.name] = [{"file": n, "sha256": h} for n, h in zip(names, found["finished"], strict=True)]
        for sample, row in sorted(found["samples"].items()):
            images = row.get("images", 1)
            mask = (*row["files"], None)[images]
            case = {"name": sample, "image": row["files"][0], "mask": mask, "source": unit.name}
            case |= {k: row[k] for k in ("frame", "part", "patient") if row[k] not in (None, "")}
            case |= {"channels": row["files"][:images]} if images > 1 else {}
            cases.append(case)
            if row["part"] != TEST:
                per_class.update(row["values"])
            overlaps.append(row["overlap"])
    training = [case for case in cases if case.get("part") != TEST]
    with_masks = [case for case in training if case["mask"] is not None]
    return {
        "format_version": 1,
        "made_by": "edgemt import",
        "format": name,
        "key": key,
        "layout": listing.layout,
        "classes": list(listing.classes),
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(options).items() if k != "images"},
        "labels": [{"file": path.name, "sha256": sha256(path)} for path in listing.labels],
        "notes": list(listing.notes),
        "counts": {
            "images": len(training),
            "labelled": len(with_masks),
            "patients": len({case.get("patient") or case["name"] for case in training}),
            "labelled_patients": len({case.get("patient") or case["name"] for case in with_masks}),
            "images_with_class": {c: per_class[k] for k, c in enumerate(listing.classes) if k},
            "overlapping_pixels": sum(overlaps),
            "overlapping_images": sum(map(bool, overlaps)),
            **({"test": len(cases) - len(training)} if len(cases) > len(training) else {}),
        },
        "sources": sources,
        "cases": cases,
    }


def _shown(name: str, unit: Unit, number: int) -> str:
    """A file name; a number in its place where the name contains a part of the patient's name or id."""
    return f"file {number}" if any(part.casefold() in name.casefold() for part in unit.hidden) else name


def _write_lists(folder: Path, manifest: dict[str, Any]) -> None:
    """val.txt, where the source has a validation part."""
    names = [case["name"] for case in manifest["cases"] if case.get("part") == "val" and case["mask"] is not None]
    if names:
        write_text(folder / "val.txt", "".join(f"{name}\n" for name in names))


def summary(manifest: dict[str, Any], out: Path, *, recipe: Sequence[str] = ()) -> list[str]:
    """Lines for the user: what is in the folder, what was assumed, the command that trains on it.

    `recipe`: a name and flags for it, in place of the recipe of the layout.
    """
    counts, classes = manifest["counts"], manifest["classes"]
    kind = "volumes" if manifest["layout"] == "volumes" else "images"
    lines = [
        f"{out}: {counts['images']} {kind}, {counts['labelled']} labelled, {counts['patients']} patients; from "
        f"{manifest['format']}, layout {manifest['layout']}",
    ]
    if len(classes) > 1:
        found = counts["images_with_class"]
        lines.append("classes: " + ", ".join(f"{k} {c} (in {found.get(c, 0)})" for k, c in enumerate(classes) if k))
    if counts["overlapping_pixels"]:
        lines.append(
            f"{counts['overlapping_pixels']} pixels in {counts['overlapping_images']} {kind} belong to shapes of two "
            "classes; the later shape is on top"
        )
    if counts.get("test"):
        lines.append(f"{counts['test']} {kind} of the test part are in {out / TEST}, which training does not read")
    if 0 < counts["labelled_patients"] < 2:
        cut = "; --clip-frames N cuts a video into several" if manifest["layout"] == "clips" else ""
        lines.append(f"next: import a second labelled patient, one is to be measured on{cut}")
    elif counts["labelled"]:
        name, *more = recipe or ["acdc_cpu" if manifest["layout"] == "volumes" else "kvasir_cpu"]
        flags = " --data.layout clips" if manifest["layout"] == "clips" else ""
        flags += " --data.labelled 1.0" + ("" if (out / "val.txt").exists() else " --data.val 0.2")
        flags += " --data.mask-threshold None" if name == "kvasir_cpu" and len(classes) > 2 else ""
        flags += f" {shlex.join(more)}" if more else ""
        names = shlex.join(classes)
        lines.append(f"next: edgemt run {name} --data.root {shlex.quote(str(out))}{flags} --data.classes {names}")
    else:
        lines.append("next: label some of them in a label tool, and import its file together with these sources")
    return lines
