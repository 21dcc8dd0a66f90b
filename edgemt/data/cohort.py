"""From a folder to cases: the labelled, the unlabelled and the validation cases of a data set.

pairs            root/{train,val}/{images,masks}/*, or root/{images,masks}/* with `val` as a list or a share; of
                 overlapping classes root/{train,val}/masks/CLASS/*, as for volumes
clips            root/{train,val}/{images,masks}/CLIP/*, frames of videos, or root/{images,masks}/CLIP/*
volumes          root/{images,labels}/*.nii.gz, or a folder of slice images each, with train.txt and val.txt
decathlon        root/dataset.json with imagesTr and labelsTr: the decathlon's own, and both forms of nnU-Net
h5               root/*.h5 or root/NAME/*.h5, each with `image` and `label`, volumes or slices
phantom          no files: synthetic frames are drawn when they are read
phantom_volumes  the same in 3-D

Every slice of a volume is a case, or, with `whole_volumes`, every volume. Lists lie in root or in root/splits.
"""

from __future__ import annotations

import filecmp
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemt.contract import Case
from edgemt.data.calibration_split import check_apart, take_calibration, without_patients
from edgemt.data.layouts.case_files import CaseFiles, read_list
from edgemt.data.layouts.channel_files import Channels
from edgemt.data.layouts.detect import FolderListing, detect_layout, list_cases, list_images
from edgemt.data.options import DataOptions
from edgemt.data.phantom_cases import slices_of, synthetic_cases
from edgemt.data.splits import (
    check_no_patient_leakage,
    find_list,
    named_on,
    parse_count_or_fraction,
    patients_of,
    same_patient,
    sample_patients,
    select_listed,
    similar_names_note,
)
from edgemt.io.file_types import is_h5, is_image
from edgemt.io.fourth_axis import check_fourth_axis
from edgemt.io.geometry import check_slices, common_order
from edgemt.io.volumes import geometry_of, volume_shape


@dataclass(frozen=True)
class DatasetSplit:
    """The cases of a data set. Cases of `unlabelled` have no label, also where a mask is on disk."""

    labelled: tuple[Case, ...]
    unlabelled: tuple[Case, ...]
    val: tuple[Case, ...]
    calibration: tuple[Case, ...] = ()  # of patients that neither train nor validate, for margins of contours
    axes: str = ""  # the axis order that all volumes are brought to; also on each case
    notes: tuple[str, ...] = ()  # one line for each kind of file that was excluded


def split_dataset(options: DataOptions, *, whole_volumes: bool = False) -> DatasetSplit:
    """List and split the cases of a data set; no image is decoded. `whole_volumes`: one case per volume, not per slice.

    Raises ValueError in one line for options or files that do not fit.
    """
    if options.layout in ("phantom", "phantom_volumes"):
        return DatasetSplit(*synthetic_cases(options, whole_volumes=whole_volumes))
    if (
        options.labelled_seed is not None
        and options.labelled
        and parse_count_or_fraction(options.labelled, field="labelled") is None
    ):
        raise ValueError(
            f"data.labelled_seed: data.labelled is the list {options.labelled!r} and nothing is drawn; give a count"
        )
    root, listing = _list_root(options)
    pool, val_folder = list(listing.cases), list(listing.val)
    all_items = pool
    listed = _default_list(root, "train")
    if listed is not None:
        pool = select_listed(pool, read_list(listed), source=listed)
    val = _validation(options, root, pool, val_folder, all_items)
    calibration, val = take_calibration(options, root, val=val, listed_from=[*all_items, *val_folder])
    pool = _without_files_of(pool, val)
    drawn = parse_count_or_fraction(options.labelled, field="labelled") is not None or not options.labelled
    labelled = _labelled(options, root, without_patients(pool, calibration)[0] if drawn else pool, val)
    check_apart(calibration, labelled, "labelled")
    labelled_names = {item.name for item in labelled}
    other_images = _without_files_of(
        [*listing.unlabelled, *(_unlabelled_folder(options, root) if options.unlabelled else [])], val
    )
    unlabelled = [item for item in pool if item.name not in labelled_names]
    unlabelled, excluded_note = _without_validation_patients(
        unlabelled, other_images, val, one_folder=not val_folder, include_val=options.val_in_training
    )
    unlabelled, calibration_note = without_patients(unlabelled, calibration)
    unlabelled = _without_files_of(unlabelled, calibration)
    items = [*labelled, *unlabelled, *val, *calibration]
    axes = _axis_order(options, items)
    copies = "" if options.val_in_training else _copies_note([*labelled, *unlabelled], val)
    names = "" if options.val_in_training else similar_names_note([*labelled, *unlabelled], val)
    lists = _list_notes(options, root, [*labelled, *unlabelled], val_folder)
    notes = (*listing.notes, *(text for text in (excluded_note, calibration_note, copies, names, *lists) if text))
    return DatasetSplit(
        labelled=_cases(labelled, with_labels=True, whole_volumes=whole_volumes, axes=axes),
        unlabelled=_cases(unlabelled, with_labels=False, whole_volumes=whole_volumes, axes=axes),
        val=_cases(val, with_labels=True, whole_volumes=whole_volumes, axes=axes),
        axes=axes,
        notes=notes,
        calibration=_cases(calibration, with_labels=True, whole_volumes=whole_volumes, axes=axes),
    )


def _without_validation_patients(
    pool: list[CaseFiles], other_images: list[CaseFiles], val: list[CaseFiles], *, one_folder: bool, include_val: bool
) -> tuple[list[CaseFiles], str]:
    """(unlabelled images, a note on what was excluded).

    Images of validation patients are excluded, whichever folder they come from; with `include_val` nothing is excluded
    and the images of `val` are unlabelled images too.
    """
    if include_val:
        return [*pool, *val, *other_images], ""
    val_patients = patients_of(val, always=one_folder)
    training = [item for item in pool if not same_patient(item, val_patients, always=one_folder)]
    training += [item for item in other_images if not same_patient(item, val_patients, always=not is_image(item.image))]
    paths = {item.image for item in training}
    excluded = [item for item in (*pool, *other_images) if item.image not in paths]
    if not excluded:
        return training, ""
    groups = len({item.patient for item in excluded})
    return training, (
        f"{len(excluded)} unlabelled images of {groups} validating patients do not train, first "
        f"{excluded[0].image.name}"
    )


def _without_files_of(items: list[CaseFiles], val: list[CaseFiles]) -> list[CaseFiles]:
    """The items whose image file is not one of the validation images, also by another path or link."""
    val_files = {_file_identity(path) for item in val for path in _image_files(item)}
    return [item for item in items if not any(_file_identity(path) in val_files for path in _image_files(item))]


def _image_files(item: CaseFiles) -> tuple[Path, ...]:
    return tuple(path for path in item.channels if path is not None) or (item.image,)


def _file_identity(path: Path) -> Any:
    """(device, inode) of a file; the path itself where it cannot be read."""
    try:
        stat = path.stat()
    except OSError:  # the error is raised where the file is read
        return path
    return stat.st_dev, stat.st_ino


def _copies_note(items: list[CaseFiles], val: list[CaseFiles]) -> str:
    """A note on training images whose bytes equal those of a validation image; empty for none."""
    val_by_size: dict[int, list[Path]] = {}
    for item in val:
        if item.image.is_file():
            val_by_size.setdefault(item.image.stat().st_size, []).append(item.image)
    starts: dict[Path, bytes] = {}
    copies = []
    for item in items:
        same_size = val_by_size.get(item.image.stat().st_size, []) if item.image.is_file() else []
        if any(
            _first_bytes(item.image, starts) == _first_bytes(other, starts) and _same_content(other, item.image)
            for other in same_size
        ):
            copies.append(item.image)
    return f"{len(copies)} training images are copies of validation images, first {copies[0]}" if copies else ""


def _first_bytes(path: Path, cache: dict[Path, bytes]) -> bytes:
    """The first 16 KiB of a file, cached in `cache`."""
    if path not in cache:
        with path.open("rb") as file:
            cache[path] = file.read(1 << 14)
    return cache[path]


def _same_content(one: Path, other: Path) -> bool:
    return filecmp.cmp(one, other, shallow=False)


def _axis_order(options: DataOptions, items: list[CaseFiles]) -> str:
    """The common axis order of all volumes. Raises ValueError, naming files, where there is none."""
    volumes = {item.image: item for item in items if not is_image(item.image)}
    if not volumes:
        return options.axes
    files = [(path, geometry_of(path)) for path in volumes]
    for path, geometry in files:
        if not volumes[path].channels:  # those of several channels are checked with their grids
            check_fourth_axis(path, geometry, ())
    oriented = [(path, geometry) for path, geometry in files if not is_h5(path) and not path.is_dir()]
    files = oriented or [(path, geometry) for path, geometry in files if len(geometry.shape) == 3]
    compare = options.affines == "compare"
    order = common_order(files, axes=options.axes, slice_axis=options.slice_axis, compare=compare)
    if not options.axes and options.slice_axis is None:
        for path, geometry in files:
            if not path.is_dir():
                check_slices(path, geometry, order, compare=compare)
    return order


def all_cases(options: DataOptions, *, whole_volumes: bool = False) -> tuple[Case, ...]:
    """All cases of a test set, without a split. Raises ValueError for an image without a mask."""
    _, found = _list_root(options)
    items = _need_masks(list(found.cases), source="data.root")
    return _cases(items, with_labels=True, whole_volumes=whole_volumes, axes=_axis_order(options, items))


def _list_root(options: DataOptions) -> tuple[Path, FolderListing]:
    if options.root is None:
        raise ValueError("data.root: not set; give the folder that holds the images, or use data.layout=phantom")
    root = Path(options.root)
    if not root.is_dir():
        raise ValueError(f"data.root: no such folder {str(root)!r}")
    channels = channels_of(options)
    layout: Any = detect_layout(root, channels=channels) if options.layout == "auto" else options.layout
    pattern, classes = options.patient_pattern, options.classes
    given: Any = {"classes": classes, "channels": channels, "values": options.mask_values}
    return root, list_cases(root, layout=layout, pattern=pattern, class_folders=options.class_folders, **given)


def channels_of(options: DataOptions) -> Channels:
    """The channels of a case by the options; none for a case of one file."""
    return Channels(options.channel_names, options.missing_channels == "mean")


def _default_list(root: Path, name: str) -> Path | None:
    """The list `train` or `val` in `root` or `root/splits`; None where there is none."""
    tried = [base / f"{name}{suffix}" for base in (root, root / "splits") for suffix in (".txt", ".list")]
    return next((path for path in tried if path.is_file()), None)


def _list_notes(options: DataOptions, root: Path, training: list[CaseFiles], val_folder: list[CaseFiles]) -> list[str]:
    """Lines on lists in the folder that are not followed: test.txt, and val.txt beside a folder val."""
    notes = []
    unused = _default_list(root, "val") if val_folder and not options.val else None
    if unused is not None:
        notes.append(f"{unused} is not read, since the folder val is there; --data.val {unused.name} takes the list")
    test = _default_list(root, "test")
    if test is not None:
        with suppress(ValueError):  # no list of names
            if named := named_on(training, read_list(test)):
                notes.append(
                    f"{len(named)} images that {test.name} names are among those of training, first "
                    f"{named[0].image.name}; name the others in train.txt to leave them out"
                )
    return notes


def _need_masks(items: list[CaseFiles], *, source: str) -> list[CaseFiles]:
    for item in items:
        if item.label is None:
            raise ValueError(f"{source}: {item.image} has no mask of that name; add the mask or take it off the list")
    return items


def _validation(
    options: DataOptions, root: Path, pool: list[CaseFiles], val_folder: list[CaseFiles], all_items: list[CaseFiles]
) -> list[CaseFiles]:
    listed = _default_list(root, "val")
    text = options.val or (str(listed.resolve()) if not val_folder and listed is not None else "")
    if not text:
        if not val_folder:
            raise ValueError("data.val: no val folder and no val.txt; give a list file or a share such as 0.2")
        return _need_masks(val_folder, source="val folder")
    amount = parse_count_or_fraction(text, field="val")
    if amount is None:
        path = find_list(text, root=root, field="val")
        return _need_masks(select_listed(val_folder or all_items, read_list(path), source=path), source=str(path))
    free = [item for item in val_folder or pool if item.label is not None]
    if not val_folder and options.labelled and parse_count_or_fraction(options.labelled, field="labelled") is None:
        path = find_list(options.labelled, root=root, field="labelled")
        labelled_patients = {item.patient.casefold() for item in select_listed(pool, read_list(path), source=path)}
        free = [item for item in free if item.patient.casefold() not in labelled_patients]
    return sample_patients(free, amount=amount, seed=options.seed, field="val")


def _labelled(options: DataOptions, root: Path, pool: list[CaseFiles], val: list[CaseFiles]) -> list[CaseFiles]:
    val_patients = {item.patient.casefold() for item in val}
    one_folder = not val or not pool or val[0].image.parent == pool[0].image.parent
    free = [i for i in pool if i.label is not None and not (one_folder and i.patient.casefold() in val_patients)]
    amount = parse_count_or_fraction(options.labelled, field="labelled")
    if not options.labelled:
        labelled = free
    elif amount is not None:
        known = {} if one_folder else patients_of(val, always=False)
        free = [item for item in free if not same_patient(item, known, always=False)]
        seed = options.seed if options.labelled_seed is None else options.labelled_seed
        labelled = sample_patients(free, amount=amount, seed=seed, field="labelled")
    else:
        path = find_list(options.labelled, root=root, field="labelled")
        within = pool + (val if one_folder else [])
        labelled = _need_masks(select_listed(within, read_list(path), source=path), source=str(path))
    if not labelled:
        raise ValueError(f"data.labelled: no image under {root} has a mask to learn from")
    if one_folder:
        check_no_patient_leakage(labelled, val)
    else:  # equal file names in two folders may be different patients
        check_no_patient_leakage(labelled, val, always=False)
    return labelled


def _unlabelled_folder(options: DataOptions, root: Path) -> list[CaseFiles]:
    folder = Path(options.unlabelled) if Path(options.unlabelled).is_absolute() else root / options.unlabelled
    if not folder.is_dir():
        raise ValueError(f"data.unlabelled: no such folder {str(folder)!r}")
    found = list_images(folder, pattern=options.patient_pattern, channels=channels_of(options))
    if not found:
        raise ValueError(f"data.unlabelled: {folder} holds no image")
    return found


def _cases(items: list[CaseFiles], *, with_labels: bool, whole_volumes: bool, axes: str = "") -> tuple[Case, ...]:
    """`with_labels=False` removes the label path here, so that no later code can read the mask."""
    cases = []
    for item in items:
        label = str(item.label) if with_labels and item.label is not None else None
        order = "" if is_image(item.image) else axes
        channels = tuple("" if path is None else str(path) for path in item.channels)
        labels = tuple(str(path) for path in item.labels) if label is not None else ()
        case = Case(item.name, item.patient, str(item.image), label, axes=order, channels=channels, labels=labels)
        shape = (0, 0) if is_image(item.image) else volume_shape(item.image, axes=order)
        if whole_volumes and (len(shape) == 2 or shape[2] < 2):
            raise ValueError(f"{item.image}: is one 2-D image; a 3-D network needs volumes, choose a 2-D teacher")
        cases += [case] if whole_volumes or len(shape) == 2 else slices_of(case, shape[2])
    return tuple(cases)
