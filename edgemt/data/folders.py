"""What lies in a folder, in whatever form it was published. Lists files and pairs them; splits and decodes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgemt.data import decathlon
from edgemt.data.splits import Item, group_of
from edgemt.frames import H5_SUFFIXES, h5_datasets, is_h5, is_image, is_slice_folder, is_volume

FolderLayout = Literal["pairs", "volumes", "decathlon", "h5"]
IMAGE_FOLDERS = ("images", "imagesTr")
LABEL_FOLDERS = ("masks", "labels", "labelsTr")


@dataclass(frozen=True)
class Found:
    """Files that may teach, a validation folder apart from them, and images that come without a mask."""

    pool: tuple[Item, ...]
    held: tuple[Item, ...] = ()
    extra: tuple[Item, ...] = ()


def recognise(root: Path) -> FolderLayout:
    """The layout that a folder shows. Raises ValueError when it shows none."""
    if decathlon.is_decathlon(root):
        return "decathlon"
    base = root / "train" if (root / "train").is_dir() else root
    for name in IMAGE_FOLDERS:
        if (base / name).is_dir():
            return "volumes" if any(_is_any_volume(path) for path in (base / name).iterdir()) else "pairs"
    if _h5_files(root):
        return "h5"
    raise ValueError(f"data.root: {str(root)!r} holds neither train/images nor images; see data.layout for the forms")


def look(root: Path, *, layout: FolderLayout, pattern: str, classes: tuple[str, ...]) -> Found:
    """Every file of the layout, masks beside images. Raises ValueError for whatever does not fit together."""
    if layout == "decathlon":
        pool, extra = decathlon.items(root, pattern=pattern, classes=classes)
        return Found(tuple(pool), extra=tuple(extra))
    if layout == "h5":
        return Found(tuple(_h5_items(root, pattern)))
    wanted = _is_any_volume if layout == "volumes" else is_image
    if not (root / "train").is_dir():
        return Found(tuple(_pairs(root, wanted, pattern)))
    held = _pairs(root / "val", wanted, pattern) if (root / "val").is_dir() else []
    return Found(tuple(_pairs(root / "train", wanted, pattern)), held=tuple(held))


def unpaired(folder: Path, *, pattern: str) -> list[Item]:
    """Images or volumes of one folder, whatever masks lie elsewhere."""
    found = _by_stem(folder, lambda path: is_image(path) or _is_any_volume(path) or is_h5(path))
    return [Item(name, group_of(name, pattern=pattern), path, None) for name, path in found.items()]


def _is_any_volume(path: Path) -> bool:
    return is_volume(path) or is_slice_folder(path)


def _stem(path: Path) -> str:
    name = path.name
    return name[:-7] if name.lower().endswith(".nii.gz") else name if path.is_dir() else path.stem


def _by_stem(folder: Path, wanted: Callable[[Path], bool]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not wanted(path):
            continue
        if _stem(path) in found:
            raise ValueError(f"{path}: a second file named {_stem(path)!r}, beside {found[_stem(path)].name}")
        found[_stem(path)] = path
    return found


def _pairs(base: Path, wanted: Callable[[Path], bool], pattern: str) -> list[Item]:
    images = next((base / name for name in IMAGE_FOLDERS if (base / name).is_dir()), None)
    if images is None:
        raise ValueError(f"{base}: has no folder 'images'")
    found = _by_stem(images, wanted)
    if not found:
        raise ValueError(f"{images}: holds no image of a known kind; the folder is empty or data.layout is wrong")
    masks = next((base / name for name in LABEL_FOLDERS if (base / name).is_dir()), None)
    truths = _by_stem(masks, wanted) if masks is not None else {}
    items = []
    for stem, image in found.items():
        name = stem.removesuffix("_0000")  # nnU-Net numbers the channel of an image, not of a label
        label = truths.get(stem) or truths.get(name)
        name = name if label is not None and _stem(label) == name else stem
        items.append(Item(name, group_of(name, pattern=pattern), image, label))
    return items


def _h5_files(root: Path) -> list[Path]:
    """Of the first level that holds any: root, its folders, or theirs."""
    for level in ("", "*/", "*/*/"):
        files = sorted(path for suffix in H5_SUFFIXES for path in root.glob(f"{level}*{suffix}"))
        if files:
            return files
    return []


def _h5_items(root: Path, pattern: str) -> list[Item]:
    """One file a case, image and label inside; alone in its folder it is called after the folder."""
    files = _h5_files(root)
    if not files:
        raise ValueError(f"{root}: holds no .h5 file, nor do its folders; the folder is empty or data.layout is wrong")
    parents = [path.parent for path in files]
    items: dict[str, Item] = {}
    for path in files:
        alone = path.parent != root and parents.count(path.parent) == 1
        name = path.parent.name if alone else path.stem
        if name in items:
            raise ValueError(f"{path}: a second case named {name!r}, beside {items[name].image}; rename one")
        label = path if "label" in h5_datasets(path) else None
        items[name] = Item(name, group_of(name, pattern=pattern), path, label)
    return list(items.values())
