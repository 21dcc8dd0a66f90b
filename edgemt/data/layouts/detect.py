"""Detect the layout of a data folder, list its files and pair images with masks. No split, no decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from edgemt.data.layouts import clips, nnunet
from edgemt.data.layouts.case_files import CaseFiles, normalise_name, patient_of, read_list
from edgemt.data.layouts.channel_files import Channels, Files, channel_folders, first_of, list_channels
from edgemt.data.layouts.class_masks import list_class_masks
from edgemt.data.layouts.mask_names import match_masks, plain_name
from edgemt.io.file_types import (
    conversion_hint,
    is_h5,
    is_image,
    is_slice_folder,
    is_stray,
    is_unknown,
    is_volume,
    stem_of,
)
from edgemt.io.hdf5 import dataset_names
from edgemt.io.mask_rule import MaskValues

FolderLayout = Literal["pairs", "clips", "volumes", "decathlon", "h5"]
IMAGE_FOLDERS = ("images", "imagesTr")
LABEL_FOLDERS = ("masks", "labels", "labelsTr")
_FOLDERS = IMAGE_FOLDERS, LABEL_FOLDERS


@dataclass(frozen=True)
class FolderListing:
    """Files of a data folder: those outside a validation folder, those in it, and images without masks."""

    cases: tuple[CaseFiles, ...]
    val: tuple[CaseFiles, ...] = ()
    unlabelled: tuple[CaseFiles, ...] = ()
    notes: tuple[str, ...] = ()  # on masks that fit no image, and on files of other kinds


_ONE_FILE = Channels()


def detect_layout(root: Path, *, channels: Channels = _ONE_FILE) -> FolderLayout:
    """The layout of a folder. Raises ValueError where it has none."""
    if nnunet.has_dataset_json(root):
        return "decathlon"
    base = root / "train" if (root / "train").is_dir() else root
    for name in IMAGE_FOLDERS:
        if (base / name).is_dir():
            images = next((p for p in channel_folders(base / name, channels.names) if p is not None), base / name)
            inside = [path for path in images.iterdir() if not is_stray(path)]
            flat = any(is_image(path) for path in inside)
            if not flat and not any(path.is_dir() or is_volume(path) for path in inside):
                clips.refuse_videos(base / name)
            return "volumes" if any(is_volume(p) or (is_slice_folder(p) and not flat) for p in inside) else "pairs"
    if _h5_files(root):
        return "h5"
    raise ValueError(f"data.root: {str(root)!r} holds neither train/images nor images; see data.layout for the forms")


def list_cases(
    root: Path,
    *,
    layout: FolderLayout,
    pattern: str,
    classes: tuple[str, ...],
    channels: Channels = _ONE_FILE,
    values: MaskValues = MaskValues(),
    class_folders: bool = False,
) -> FolderListing:
    """List the files of a layout, images with their masks. Raises ValueError for files that do not fit together.

    `values`: what the user states of masks; `class_folders`: each overlapping class has a folder of masks.
    """
    if layout == "decathlon" and class_folders:
        nnunet.dataset_labels(root).check(classes, values, source=root / "dataset.json")  # regions have their flags
    if class_folders and layout not in ("pairs", "volumes"):
        raise ValueError(
            f"data.overlapping: the layout {layout} has one mask a case; state the values of each class: "
            f"--data.label-map {classes[-1]}=1,3 ..."
        )
    if layout == "decathlon":
        cases, unlabelled = nnunet.list_nnunet(root, pattern=pattern, classes=classes, channels=channels, values=values)
        return FolderListing(
            tuple(cases), unlabelled=tuple(unlabelled), notes=nnunet.left_out_note(root, [*cases, *unlabelled])
        )
    if channels.names and layout in ("h5", "clips"):
        raise ValueError(f"data.channel_names: the layout {layout} has one file a case; leave the names out")
    if layout == "h5":
        return FolderListing(tuple(_h5_items(root, pattern)))
    if layout == "clips":
        whole = not (root / "train").is_dir()
        val = clips.list_clips(root / "val", pattern=pattern) if not whole and (root / "val").is_dir() else []
        return FolderListing(
            tuple(clips.list_clips(root if whole else root / "train", pattern=pattern)), val=tuple(val)
        )
    wanted = _is_any_volume if layout == "volumes" else is_image
    listed = _listed(root) if layout == "volumes" else frozenset()
    pairs = partial(_image_mask_pairs, classes=classes[1:] if class_folders else ())
    if not (root / "train").is_dir():
        items, notes = pairs(root, wanted, pattern, listed, channels)
        return FolderListing(tuple(items), notes=notes)
    has_val = (root / "val").is_dir()
    val_pairs, val_notes = pairs(root / "val", wanted, pattern, listed, channels) if has_val else ([], ())
    items, notes = pairs(root / "train", wanted, pattern, listed, channels)
    return FolderListing(tuple(items), val=tuple(val_pairs), notes=(*notes, *val_notes))


def _listed(root: Path) -> frozenset[str]:
    """All names on the list files of `root` and `root/splits`."""
    lists = [path for folder in (root, root / "splits") for end in ("txt", "list") for path in folder.glob(f"*.{end}")]
    names: set[str] = set()
    for path in lists:
        with suppress(ValueError):  # another text file; a list that is used is read again, with its errors
            names.update(read_list(path))
    return frozenset(names)


def list_images(folder: Path, *, pattern: str, channels: Channels = _ONE_FILE) -> list[CaseFiles]:
    """Images or volumes of one folder, without masks."""
    if channels.names:
        several = list_channels(folder, lambda path: is_image(path) or _is_any_volume(path), channels)
        return [CaseFiles(n, patient_of(n, pattern=pattern), first_of(f), None, f) for n, f in several.items()]
    found = _by_stem(folder, lambda path: is_image(path) or _is_any_volume(path) or is_h5(path))
    return [CaseFiles(name, patient_of(name, pattern=pattern), path, None) for name, path in found.items()]


def _is_any_volume(path: Path) -> bool:
    return is_volume(path) or is_slice_folder(path)


def _stem(path: Path) -> str:
    return normalise_name(stem_of(path) if is_image(path) or is_volume(path) or not path.is_dir() else path.name)


def _by_stem(folder: Path, wanted: Callable[[Path], bool]) -> dict[str, Path]:
    """Stem (composed, without suffix) -> file of a folder. ValueError for two stems that differ in case alone."""
    found: dict[str, Path] = {}
    by_casefold: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if is_stray(path) or not wanted(path):
            continue
        stem = _stem(path)
        before = by_casefold.get(stem.casefold())
        if before is not None:
            difference = "" if stem == _stem(before) else " but for upper and lower case"
            raise ValueError(f"{path}: a second file named {stem!r}{difference}, beside {before.name}; rename one")
        found[stem] = by_casefold[stem.casefold()] = path
    return found


def _image_mask_pairs(
    base: Path,
    wanted: Callable[[Path], bool],
    pattern: str,
    listed: frozenset[str],
    channels: Channels,
    *,
    classes: tuple[str, ...] = (),
) -> tuple[list[CaseFiles], tuple[str, ...]]:
    """(images with their masks, notes on files that fit nothing). `classes`: each has a folder of masks."""
    images = next((base / name for name in IMAGE_FOLDERS if (base / name).is_dir()), None)
    if images is None:
        raise ValueError(f"{base}: has no folder 'images'")
    files: dict[str, Files] = list_channels(images, wanted, channels) if channels.names else {}
    found = {case: first_of(own) for case, own in files.items()} if channels.names else _by_stem(images, wanted)
    masks = next((base / name for name in LABEL_FOLDERS if (base / name).is_dir()), None)
    of_classes = list_class_masks(masks, classes, partial(_by_stem, wanted=wanted)) if masks and classes else {}
    truths = {stem: own[0] for stem, own in of_classes.items()}
    if masks is not None and not classes:
        truths = _by_stem(masks, wanted)
        if not truths and not listed:
            _refuse_class_folders(masks)
    found = found if channels.names else _without_stray_folders(found, truths, listed)
    foreign = _unread_files_note(images, wanted)
    if not found:
        raise ValueError(
            foreign or f"{images}: holds no image of a known kind; the folder is empty or data.layout is wrong"
        )
    unread = _unread_files_note(masks, wanted) if masks is not None else None
    if unread is not None and len(truths) < len(found):
        raise ValueError(unread)
    matched = match_masks(found, truths, folder=images)
    items = []
    for stem, image in found.items():
        name = matched[stem].name
        mask = matched[stem].mask or ""
        labels = of_classes.get(mask, ())
        patient = patient_of(name, pattern=pattern)
        items.append(CaseFiles(name, patient, image, truths.get(mask), files.get(stem, ()), labels))
    notes = [foreign] if foreign else []
    notes += _left_out_notes(base, images, wanted, () if channels.names else IMAGE_FOLDERS)
    if masks is not None and not classes:
        notes += _left_out_notes(base, masks, wanted, LABEL_FOLDERS)
    used = {one.mask for one in matched.values()}
    unmatched = [path for stem, path in truths.items() if stem not in used]
    if unmatched and len(unmatched) == len(truths):
        raise ValueError(
            f"{unmatched[0]}: fits no image of {images} by its name, nor does any other mask; name masks as their "
            "images"
        )
    without_mask = [image for stem, image in found.items() if matched[stem].mask is None]
    if truths and without_mask:
        notes.append(f"{len(without_mask)} of {len(found)} images have no mask, first {without_mask[0]}")
    if unmatched:
        notes.append(f"{len(unmatched)} of {len(truths)} masks fit no image, first {unmatched[0]}")
    return items, tuple(notes)


def _refuse_class_folders(masks: Path) -> None:
    """Raises ValueError for a folder of masks that holds nothing but folders of images."""
    inside = [path for path in masks.iterdir() if not is_stray(path)]
    if inside and all(path.is_dir() and any(map(is_image, path.iterdir())) for path in inside):
        raise ValueError(
            f"{masks}: holds folders ({inside[0].name}) and no mask; a folder for each class needs --data.overlapping "
            "in training (edgemt data and run auto find it by themselves), one for each clip --data.layout clips"
        )


def find_class_folders(
    root: Path, *, layout: str, channels: Channels = _ONE_FILE
) -> tuple[dict[str, Path], tuple[Path, ...]]:
    """(Class -> its folder masks/CLASS, sorted; folders beside them); empty unless such folders alone hold the masks.

    A folder is one of a class where a mask in it fits an image by its name, and `background` is none. Folders that are
    called as images are volumes of slices, or clips.
    """
    base = root / "train" if (root / "train").is_dir() else root
    images, masks = (next((base / n for n in names if (base / n).is_dir()), None) for names in _FOLDERS)
    if images is None or masks is None:
        return {}, ()
    wanted = _is_any_volume if layout == "volumes" else is_image
    folders = [path for path in sorted(masks.iterdir()) if path.is_dir() and not is_stray(path)]
    if not folders or any(wanted(path) for path in masks.iterdir() if not path.is_dir() and not is_stray(path)):
        return {}, ()
    found: dict[str, Path] = (
        {case: first_of(own) for case, own in list_channels(images, wanted, channels).items()}
        if channels.names
        else _by_stem(images, wanted)
    )
    stems = {plain_name(stem) for stem in found}
    if any(plain_name(path.name) in stems for path in folders):
        return {}, ()
    matching = [
        path
        for path in folders
        if path.name.casefold() != "background"
        and any(one.mask is not None for one in match_masks(found, _by_stem(path, wanted), folder=images).values())
    ]
    others = tuple(path for path in folders if path not in matching) if matching else ()
    return {path.name: path for path in matching}, others


def _without_stray_folders(found: dict[str, Path], truths: dict[str, Path], listed: frozenset[str]) -> dict[str, Path]:
    """Where volumes are files, a folder of pictures counts as a volume only with a mask or on a list."""
    if not any(is_volume(path) for path in found.values()):
        return found
    return {stem: p for stem, p in found.items() if is_volume(p) or stem in truths or stem in listed}


def _unread_files_note(folder: Path, wanted: Callable[[Path], bool]) -> str | None:
    """A note on files of kinds that are not read, such as .nrrd; None where there are none."""
    lines = [conversion_hint(p) for p in sorted(folder.iterdir()) if p.is_file() and not is_stray(p) and not wanted(p)]
    others = [line for line in lines if line is not None]
    return None if not others else others[0] + (f" ({len(others)} such files)" if len(others) > 1 else "")


def _left_out_notes(base: Path, folder: Path, wanted: Callable[[Path], bool], names: Sequence[str]) -> list[str]:
    """Lines on what lies in or beside the `folder` of images or masks and is not read: one of `names`, below `base`."""
    inside = [path for path in sorted(folder.iterdir()) if not is_stray(path) and not wanted(path)]
    unknown = [path for path in inside if path.is_file() and conversion_hint(path) is None and is_unknown(path)]
    folders = [path for path in inside if path.is_dir() and is_slice_folder(path)]
    notes = (
        [f"{len(unknown)} files in {folder} are of no kind that is read, first {unknown[0].name}"] if unknown else []
    )
    if folders:
        notes.append(f"{len(folders)} folders with images in {folder} are not read, first {folders[0].name}")
    beside = [path for name in names if (path := base / name) != folder and path.is_dir()]
    notes += [f"{path} is not read, since {folder} is there" for path in beside if any(map(wanted, path.iterdir()))]
    return notes


def _h5_files(root: Path) -> list[Path]:
    """The .h5 files of the first level that has any: root, its folders, or their folders."""
    for level in ("", "*/", "*/*/"):
        files = sorted(p for p in root.glob(f"{level}*") if is_h5(p) and p.is_file() and not _is_hidden(p, root))
        if files:
            return files
    return []


def _is_hidden(path: Path, root: Path) -> bool:
    return any(is_stray(part) for part in path.relative_to(root).parts)


def _h5_items(root: Path, pattern: str) -> list[CaseFiles]:
    """One case per file, with image and label in it. A single file of a folder has the name of the folder."""
    files = _h5_files(root)
    if not files:
        raise ValueError(f"{root}: holds no .h5 file, nor do its folders; the folder is empty or data.layout is wrong")
    parents = [path.parent for path in files]
    items: dict[str, CaseFiles] = {}
    for path in files:
        alone = path.parent != root and parents.count(path.parent) == 1
        name = normalise_name(path.parent.name if alone else path.stem)
        if name in items:
            raise ValueError(f"{path}: a second case named {name!r}, beside {items[name].image}; rename one")
        label = path if "label" in dataset_names(path) else None
        items[name] = CaseFiles(name, patient_of(name, pattern=pattern), path, label)
    return list(items.values())
