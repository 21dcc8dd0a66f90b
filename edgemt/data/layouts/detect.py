"""What lies in a folder, in whatever form it was published. Lists files and pairs them; splits and decodes nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgemt.data.layouts import nnunet
from edgemt.data.layouts.case_files import Item, composed, group_of, read_list
from edgemt.data.layouts.mask_names import match
from edgemt.io.file_types import conversion_hint, is_h5, is_image, is_slice_folder, is_stray, is_volume, stem_of
from edgemt.io.hdf5 import dataset_names

FolderLayout = Literal["pairs", "volumes", "decathlon", "h5"]
IMAGE_FOLDERS = ("images", "imagesTr")
LABEL_FOLDERS = ("masks", "labels", "labelsTr")


@dataclass(frozen=True)
class Found:
    """Files that may teach, a validation folder apart from them, and images that come without a mask."""

    pool: tuple[Item, ...]
    held: tuple[Item, ...] = ()
    extra: tuple[Item, ...] = ()
    notes: tuple[str, ...] = ()  # masks that fit no image, and files of other kinds


def recognise(root: Path) -> FolderLayout:
    """The layout that a folder shows. Raises ValueError when it shows none."""
    if nnunet.is_decathlon(root):
        return "decathlon"
    base = root / "train" if (root / "train").is_dir() else root
    for name in IMAGE_FOLDERS:
        if (base / name).is_dir():
            inside = [path for path in (base / name).iterdir() if not is_stray(path)]
            flat = any(is_image(path) for path in inside)
            return "volumes" if any(is_volume(p) or (is_slice_folder(p) and not flat) for p in inside) else "pairs"
    if _h5_files(root):
        return "h5"
    raise ValueError(f"data.root: {str(root)!r} holds neither train/images nor images; see data.layout for the forms")


def look(root: Path, *, layout: FolderLayout, pattern: str, classes: tuple[str, ...]) -> Found:
    """Every file of the layout, masks beside images. Raises ValueError for whatever does not fit together."""
    if layout == "decathlon":
        pool, extra = nnunet.items(root, pattern=pattern, classes=classes)
        return Found(tuple(pool), extra=tuple(extra))
    if layout == "h5":
        return Found(tuple(_h5_items(root, pattern)))
    wanted = _is_any_volume if layout == "volumes" else is_image
    listed = _listed(root) if layout == "volumes" else frozenset()
    if not (root / "train").is_dir():
        items, notes = _pairs(root, wanted, pattern, listed)
        return Found(tuple(items), notes=notes)
    held, more = _pairs(root / "val", wanted, pattern, listed) if (root / "val").is_dir() else ([], ())
    items, notes = _pairs(root / "train", wanted, pattern, listed)
    return Found(tuple(items), held=tuple(held), notes=(*notes, *more))


def _listed(root: Path) -> frozenset[str]:
    """Names on the lists that lie beside the data."""
    lists = [path for folder in (root, root / "splits") for end in ("txt", "list") for path in folder.glob(f"*.{end}")]
    names: set[str] = set()
    for path in lists:
        with suppress(ValueError):  # a text of another kind; one that is used is read again, and named
            names.update(read_list(path))
    return frozenset(names)


def unpaired(folder: Path, *, pattern: str) -> list[Item]:
    """Images or volumes of one folder, whatever masks lie elsewhere."""
    found = _by_stem(folder, lambda path: is_image(path) or _is_any_volume(path) or is_h5(path))
    return [Item(name, group_of(name, pattern=pattern), path, None) for name, path in found.items()]


def _is_any_volume(path: Path) -> bool:
    return is_volume(path) or is_slice_folder(path)


def _stem(path: Path) -> str:
    return composed(stem_of(path) if is_image(path) or is_volume(path) or not path.is_dir() else path.name)


def _by_stem(folder: Path, wanted: Callable[[Path], bool]) -> dict[str, Path]:
    """Files of a folder by their names, composed, without suffix. ValueError for two that differ in case alone."""
    found: dict[str, Path] = {}
    seen: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if is_stray(path) or not wanted(path):
            continue
        stem = _stem(path)
        before = seen.get(stem.casefold())
        if before is not None:
            alike = "" if stem == _stem(before) else " but for upper and lower case"
            raise ValueError(f"{path}: a second file named {stem!r}{alike}, beside {before.name}; rename one")
        found[stem] = seen[stem.casefold()] = path
    return found


def _pairs(
    base: Path, wanted: Callable[[Path], bool], pattern: str, listed: frozenset[str]
) -> tuple[list[Item], tuple[str, ...]]:
    """Images with their masks, and what was left over, in words."""
    images = next((base / name for name in IMAGE_FOLDERS if (base / name).is_dir()), None)
    if images is None:
        raise ValueError(f"{base}: has no folder 'images'")
    found = _by_stem(images, wanted)
    masks = next((base / name for name in LABEL_FOLDERS if (base / name).is_dir()), None)
    truths = _by_stem(masks, wanted) if masks is not None else {}
    found = _without_stray_folders(found, truths, listed)
    foreign = _foreign(images, wanted)
    if not found:
        raise ValueError(
            foreign or f"{images}: holds no image of a known kind; the folder is empty or data.layout is wrong"
        )
    unread = _foreign(masks, wanted) if masks is not None else None
    if unread is not None and len(truths) < len(found):
        raise ValueError(unread)
    matched = match(found, truths, folder=images)
    items = []
    for stem, image in found.items():
        name = matched[stem].name
        label = truths.get(matched[stem].mask or "")
        items.append(Item(name, group_of(name, pattern=pattern), image, label))
    notes = [foreign] if foreign else []
    taken = {one.mask for one in matched.values()}
    left = [path for stem, path in truths.items() if stem not in taken]
    if left and len(left) == len(truths):
        raise ValueError(
            f"{left[0]}: fits no image of {images} by its name, nor does any other mask; name masks as their images"
        )
    bare = [image for stem, image in found.items() if matched[stem].mask is None]
    if truths and bare:
        notes.append(f"{len(bare)} of {len(found)} images have no mask, first {bare[0]}")
    if left:
        notes.append(f"{len(left)} of {len(truths)} masks fit no image, first {left[0]}")
    return items, tuple(notes)


def _without_stray_folders(found: dict[str, Path], truths: dict[str, Path], listed: frozenset[str]) -> dict[str, Path]:
    """Where volumes are files, a folder of pictures is one of them only with a mask, or when a list names it."""
    if not any(is_volume(path) for path in found.values()):
        return found
    return {stem: p for stem, p in found.items() if is_volume(p) or stem in truths or stem in listed}


def _foreign(folder: Path, wanted: Callable[[Path], bool]) -> str | None:
    """What to say of files of kinds that are not read, such as .nrrd; None where there are none."""
    lines = [conversion_hint(p) for p in sorted(folder.iterdir()) if p.is_file() and not is_stray(p) and not wanted(p)]
    others = [line for line in lines if line is not None]
    return None if not others else others[0] + (f" ({len(others)} such files)" if len(others) > 1 else "")


def _h5_files(root: Path) -> list[Path]:
    """Of the first level that holds any: root, its folders, or theirs."""
    for level in ("", "*/", "*/*/"):
        files = sorted(p for p in root.glob(f"{level}*") if is_h5(p) and p.is_file() and not _is_hidden(p, root))
        if files:
            return files
    return []


def _is_hidden(path: Path, root: Path) -> bool:
    return any(is_stray(part) for part in path.relative_to(root).parts)


def _h5_items(root: Path, pattern: str) -> list[Item]:
    """One file a case, image and label inside; alone in its folder it is called after the folder."""
    files = _h5_files(root)
    if not files:
        raise ValueError(f"{root}: holds no .h5 file, nor do its folders; the folder is empty or data.layout is wrong")
    parents = [path.parent for path in files]
    items: dict[str, Item] = {}
    for path in files:
        alone = path.parent != root and parents.count(path.parent) == 1
        name = composed(path.parent.name if alone else path.stem)
        if name in items:
            raise ValueError(f"{path}: a second case named {name!r}, beside {items[name].image}; rename one")
        label = path if "label" in dataset_names(path) else None
        items[name] = Item(name, group_of(name, pattern=pattern), path, label)
    return list(items.values())
