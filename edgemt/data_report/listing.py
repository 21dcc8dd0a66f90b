"""The files of a data folder and the part that each plays, by the same layouts, lists and splits as training.

Training stops at the first mistake; this listing goes on, with the mistake as a finding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgemt.contract import Case
from edgemt.data.cohort import DatasetSplit, channels_of, split_dataset
from edgemt.data.layouts import nnunet
from edgemt.data.layouts.case_files import CaseFiles, read_list
from edgemt.data.layouts.detect import LABEL_FOLDERS, FolderListing, detect_layout, list_cases
from edgemt.data.options import DataOptions
from edgemt.data.splits import find_list, parse_count_or_fraction, patients_of, same_patient, select_listed
from edgemt.data_report.assumed import with_class_folders, with_dataset_labels
from edgemt.data_report.finding import Example, Finding, finding
from edgemt.io.file_types import is_h5, is_image, is_stray, is_volume
from edgemt.io.fourth_axis import STACKED, check_fourth_axis, is_stacked
from edgemt.io.geometry import common_order
from edgemt.io.images import Header, image_header
from edgemt.io.volumes import geometry_of, is_deep

Part = Literal["labelled", "unlabelled", "val", "calibration"]
PARTS: tuple[Part, ...] = ("labelled", "unlabelled", "val", "calibration")
DRAWN_VAL = "0.2"  # share of the patients that validates where the folder has no validation part
LABELLED_LIST = "labelled.txt"  # in the root: the list that `auto` takes


@dataclass(frozen=True)
class Item:
    """An image or a volume. `label` is None where training may not open the mask, or there is none."""

    name: str
    patient: str
    image: str
    label: str | None
    part: Part
    axes: str = ""
    labels: tuple[str, ...] = ()  # of overlapping classes: a mask for each, `label` the first
    channels: tuple[str, ...] = ()  # paths of several channels, "" for one that is missing; empty: `image` alone

    @property
    def label_files(self) -> tuple[str, ...]:
        """The mask files; none where training may not open them, or there is none."""
        return self.labels or (() if self.label is None else (self.label,))

    @property
    def is_frame(self) -> bool:
        """Whether the file is an image, not a volume."""
        return is_image(self.image)


@dataclass(frozen=True)
class Listing:
    """All files that can be read by their headers, with the options that a training would use."""

    options: DataOptions  # with the layout, and with `val` and `labelled` as they were completed
    items: tuple[Item, ...]
    headers: dict[str, Header]  # of images
    deep: dict[str, bool]  # more than eight bits
    findings: tuple[Finding, ...]
    closed_masks: int = 0  # masks of images that are on no list: never opened


def list_folder(options: DataOptions, *, classes_given: bool) -> Listing:
    """List a folder. Raises ValueError, naming it, where there is no folder or no layout that is read."""
    if options.root is None or not Path(options.root).is_dir():
        raise ValueError(f"data.root: no such folder {str(options.root)!r}")
    root = Path(options.root)
    channels = channels_of(options)
    layout: Any = detect_layout(root, channels=channels) if options.layout == "auto" else options.layout
    if layout.startswith("phantom"):
        raise ValueError(f"data.layout: {layout} draws its images; there is no folder to report on")
    options = dataclasses.replace(options, layout=layout)
    classes_given = classes_given or bool(options.label_map)
    stated: tuple[Finding, ...] = ()
    if layout == "decathlon" and not classes_given:
        options, stated = with_dataset_labels(options, nnunet.dataset_labels(root))
    if layout == "decathlon" and not options.channel_names:
        options = dataclasses.replace(options, channel_names=nnunet.channel_names(root))
        channels = channels_of(options)
    options, assumed = with_class_folders(options, layout=layout, classes_given=classes_given)
    given: Any = {"classes": options.classes, "channels": channels, "values": options.mask_values}
    pattern = options.patient_pattern
    found = list_cases(root, layout=layout, pattern=pattern, class_folders=options.class_folders, **given)
    findings = [*stated, *assumed]
    if options.channel_names:
        first, *others = options.channel_names
        text = f"only the first of {1 + len(others)} channels is looked at ({first}, not {', '.join(others)})"
        if any(is_stacked(case.channels) for case in (*found.cases, *found.val, *found.unlabelled)):
            text += f"; {STACKED}, in this order"
        findings.append(Finding("channels", "note", text, "training compares the grids of all of them"))
    if not options.val and not found.val and _default(root, "val") is None:
        options = dataclasses.replace(options, val=DRAWN_VAL)
        text = "there is no val folder, no val.txt and no --data.val"
        remedy = f"{DRAWN_VAL} of the patients are drawn here; write val.txt so that it stays the same list"
        findings.append(Finding("no_validation", "warning", text, remedy))
    if not options.labelled and (root / LABELLED_LIST).is_file():
        options = dataclasses.replace(options, labelled=LABELLED_LIST)
    found, headers, deep, broken = _readable(found)
    findings += finding(
        "unreadable", "error", broken, one="cannot be read:", several="{n} files cannot be read",
        remedy="replace or remove them",
    )  # fmt: skip
    items, more = _parts(options, root, found)
    findings += more + _masks_and_images(root, found)
    opened = {item.label for item in items}
    closed = sum(c.label is not None and str(c.label) not in opened for c in (*found.cases, *found.val))
    return Listing(options, items, headers, deep, tuple(findings), closed)


def _readable(found: FolderListing) -> tuple[FolderListing, dict[str, Header], dict[str, bool], list[Example]]:
    headers: dict[str, Header] = {}
    deep: dict[str, bool] = {}
    broken: list[Example] = []

    def good(item: CaseFiles) -> bool:
        first = path = str(item.image)
        try:
            if is_image(path):
                headers[path] = image_header(path)
                deep[path] = headers[path].deep
            else:
                geometry = geometry_of(path)
                if not item.channels:
                    check_fourth_axis(path, geometry, ())
                deep[path] = is_deep(path)
            for path in (str(other) for other in item.channels if other not in (None, item.image)):
                image_header(path) if is_image(path) else geometry_of(path)
        except ValueError as error:
            broken.append(Example(path, reason_of(error, path)))
            headers.pop(first, None)
            deep.pop(first, None)
            return False
        return True

    parts = {
        f.name: tuple(filter(good, getattr(found, f.name))) for f in dataclasses.fields(found) if f.name != "notes"
    }
    return dataclasses.replace(found, **parts), headers, deep, broken


def reason_of(error: Exception, path: str) -> str:
    """The text of an error in one line, without the path at its beginning and without its remedy."""
    text = " ".join(str(error).split()).removeprefix(f"{path}: ")
    return text.rpartition("; ")[0] or text


def _default(root: Path, name: str) -> Path | None:
    tried = [base / f"{name}{end}" for base in (root, root / "splits") for end in (".txt", ".list")]
    return next((path for path in tried if path.is_file()), None)


def _parts(options: DataOptions, root: Path, found: FolderListing) -> tuple[tuple[Item, ...], list[Finding]]:
    """The parts as training splits them; by hand where training would stop, which is then an error."""
    try:
        split = split_dataset(options)
    except ValueError as error:
        items, findings = _by_hand(options, root, found)
        text = " ".join(str(error).split())
        if not any(str(example.file) in text for f in findings for example in f.examples):
            where, _, remedy = text.rpartition("; ")
            findings.append(Finding("split", "error", f"training stops: {where or text}", remedy or "mend it"))
        return items, findings
    known = {str(c.image): c for c in (*found.cases, *found.val, *found.unlabelled)}
    items = tuple(_of_split(split))
    notes = [note for note in split.notes if "have no mask, first" not in note and "fit no image, first" not in note]
    findings = [_noted(note) for note in notes if "are copies of validation" not in note]
    return tuple(item for item in items if item.image in known or options.unlabelled), findings


def _noted(note: str) -> Finding:
    text, _, remedy = note.rpartition("; ")
    if "do not train" in note:
        return Finding("left_out", "note", note, "give --data.val-in-training to use them without their masks")
    if "begin as validation images do" in note:
        return Finding("similar_names", "warning", text, remedy)
    return Finding("unread_files", "warning", text or note, remedy or "convert them, or move them away")


def _of_split(split: DatasetSplit) -> Iterable[Item]:
    for part in PARTS:
        first: dict[str, Case] = {}
        for case in getattr(split, part):
            first.setdefault(case.image, case)
        for case in first.values():
            name = case.name if case.slice is None else case.name.rpartition("/")[0]
            yield Item(name, case.patient, case.image, case.label, part, case.axes, case.labels, case.channels)


def _by_hand(options: DataOptions, root: Path, found: FolderListing) -> tuple[tuple[Item, ...], list[Finding]]:
    pool = list(found.cases)
    train = _default(root, "train")
    if train is not None:
        pool = _listed(pool, str(train), root, "train") or pool
    val = list(found.val)
    listed = options.val or str(_default(root, "val") or "")
    if listed and parse_count_or_fraction(listed, field="val") is None:
        val = _listed(val or list(found.cases), str(Path(listed).resolve() if not options.val else listed), root, "val")
    val_files = {item.image for item in val}
    pool = [item for item in pool if item.image not in val_files or item in _on_list(options, root, pool)]
    chosen = _on_list(options, root, pool) or [item for item in pool if item.label is not None]
    axes = _axes([*pool, *val])
    items = [_item(item, "labelled", axes) for item in chosen]
    others = {item.image for item in chosen} | val_files
    items += [_item(item, "unlabelled", axes) for item in (*pool, *found.unlabelled) if item.image not in others]
    items += [_item(item, "val", axes) for item in val]
    one_folder = not found.val
    known = patients_of(val, always=one_folder)
    shared = [item for item in chosen if same_patient(item, known, always=one_folder)]
    findings = finding(
        "patient_in_two_parts", "error",
        [Example(str(item.image), f"patient {item.patient!r} validates, too") for item in shared],
        one="an image of the labelled part is of a validation patient:",
        several="{n} images of the labelled part are of validation patients",
        remedy="keep each patient in one part; training stops otherwise",
    )  # fmt: skip
    return tuple(items), findings


def _on_list(options: DataOptions, root: Path, pool: Sequence[CaseFiles]) -> list[CaseFiles]:
    text = options.labelled
    if not text or parse_count_or_fraction(text, field="labelled") is not None:
        return []
    return _listed(pool, text, root, "labelled")


def _listed(items: Sequence[CaseFiles], text: str, root: Path, field: str) -> list[CaseFiles]:
    """The listed items; unknown names of the list are skipped, as the error of the split names them."""
    try:
        path = find_list(text, root=root, field=field)
        names = read_list(path)
    except ValueError:
        return []
    chosen: dict[str, CaseFiles] = {}
    for name in names:
        try:
            chosen |= {item.name: item for item in select_listed(items, [name], source=path)}
        except ValueError:
            continue
    return list(chosen.values())


def _axes(items: Sequence[CaseFiles]) -> str:
    files = [(item.image, geometry_of(item.image)) for item in items if is_volume(item.image)]
    try:
        return common_order(files) if files else ""
    except ValueError:
        return ""


def _item(item: CaseFiles, part: Part, axes: str) -> Item:
    label = str(item.label) if item.label is not None and part != "unlabelled" else None
    labels = tuple(map(str, item.labels)) if label is not None else ()
    channels = tuple("" if path is None else str(path) for path in item.channels)
    axes = "" if is_image(item.image) else axes
    return Item(item.name, item.patient, str(item.image), label, part, axes, labels, channels)


def _masks_and_images(root: Path, found: FolderListing) -> list[Finding]:
    """Masks that belong to no image, and images without a mask beside images that have one."""
    used = {path for item in (*found.cases, *found.val) for path in (item.label, *item.labels)}
    spare = [Example(str(path)) for path in _mask_files(root) if path not in used and path.parent not in used]
    bare = [
        Example(str(item.image), image=str(item.image)) for item in (*found.cases, *found.val) if item.label is None
    ]
    with_mask = sum(item.label is not None for item in (*found.cases, *found.val))
    return [
        *finding(
            "masks_without_image", "warning", spare, one="a mask fits no image by its name:",
            several="{n} masks fit no image by their names",
            remedy="name masks as their images, or remove them; they are never read",
        ),
        *finding(
            "images_without_mask", "note", bare if with_mask else [], one="an image has no mask and is unlabelled:",
            several="{n} images have no mask and are unlabelled",
            remedy="nothing to do where that is intended; otherwise add the mask under the same name",
        ),
    ]  # fmt: skip


def _mask_files(root: Path) -> list[Path]:
    """Every image or volume in a folder of masks."""
    folders = [base / name for base in (root / "train", root / "val", root) for name in LABEL_FOLDERS]
    files = (path for folder in folders if folder.is_dir() for path in sorted(folder.rglob("*")))
    return [p for p in files if not is_stray(p) and (is_image(p) or is_volume(p) or is_h5(p)) and p.is_file()]
