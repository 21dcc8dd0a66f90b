"""From a folder to cases: image pairs, NIfTI volumes, or the built-in phantom.

pairs    root/{train,val}/{images,masks}/*, or root/{images,masks}/* with `val` as a list or a share
volumes  root/{images,labels}/*.nii.gz with train.txt and val.txt, or imagesTr/labelsTr; every slice is a case
phantom  no files: frames are drawn when they are read
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgemt.contract import Case
from edgemt.data.splits import Item, amount, draw, find_list, group_of, pick, read_list, refuse_shared
from edgemt.frames import is_image, is_volume, volume_shape

IMAGE_FOLDERS = ("images", "imagesTr")
LABEL_FOLDERS = ("masks", "labels", "labelsTr")


@dataclass(frozen=True)
class DataOptions:
    """Where the images are and which of them may show their mask."""

    root: Path | None = None
    layout: Literal["auto", "pairs", "volumes", "phantom"] = "auto"
    labelled: str = ""
    """A list file, a count ("80") or a share ("0.1") of the patients; empty takes every image with a mask."""
    unlabelled: str = ""
    """A further folder of images without masks."""
    val: str = ""
    """A list file, a count or a share; empty takes the val folder or val.txt."""
    classes: tuple[str, ...] = ("background", "polyp")
    channels: Literal[1, 3] = 3
    size: tuple[int, int] = (256, 256)
    """Height and width of a frame, pixels."""
    slices: Literal[1, 3, 5] = 1
    """Neighbouring slices of a volume that a 2-D network sees as channels, its own in the middle."""
    seed: int = 0
    mask_threshold: int | None = None
    """Binary masks stored as grey images: this value and above is class 1."""
    patient_pattern: str = r"^(.*?)(?:[_-](?:frame|phase|t)\d+)?$"
    """What the first bracket catches in a file name is the patient; a patient is never torn apart."""
    phantom: tuple[int, int, int] = (12, 160, 40)
    """Frames that are labelled, unlabelled and held out for validation, for the phantom layout."""

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"data.classes: need background and at least one other name, each once: {self.classes}")
        if self.channels not in (1, 3):
            raise ValueError(f"data.channels: must be 1 or 3, not {self.channels}")
        if self.slices not in (1, 3, 5):
            raise ValueError(f"data.slices: must be 1, 3 or 5, not {self.slices}")
        if self.slices > 1 and self.channels != 1:
            raise ValueError(f"data.slices: {self.slices} neighbouring slices need data.channels 1, not {self.channels}")
        if len(self.size) != 2 or min(self.size) < 8:
            raise ValueError(f"data.size: must be (height, width), each at least 8, not {self.size}")
        if self.mask_threshold is not None and len(self.classes) != 2:
            raise ValueError(f"data.mask_threshold: only for 2 classes, data.classes has {len(self.classes)}")
        if len(self.phantom) != 3 or min(self.phantom) < 0 or min(self.phantom[0], self.phantom[2]) < 1:
            raise ValueError(f"data.phantom: needs labelled >= 1, unlabelled >= 0, val >= 1, not {self.phantom}")

    @property
    def frame_channels(self) -> int:
        """K of the frames that a 2-D network gets."""
        return self.channels * self.slices

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        return {key: str(v) if isinstance(v, Path) else v for key, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, raw: dict[str, Any], **changes: Any) -> DataOptions:
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = (set(raw) | set(changes)) - known
        if unknown:
            raise ValueError(f"data: unknown field {sorted(unknown)[0]!r}; known are {', '.join(sorted(known))}")
        values = {**raw, **changes}
        for key in ("classes", "size", "phantom"):
            if key in values:
                values[key] = tuple(values[key])
        if values.get("root") is not None:
            values["root"] = Path(values["root"])
        return cls(**values)


@dataclass(frozen=True)
class Cohort:
    """What `find` found. Cases of `unlabelled` have no label, whatever lies on disk."""

    labelled: tuple[Case, ...]
    unlabelled: tuple[Case, ...]
    val: tuple[Case, ...]


def find(options: DataOptions) -> Cohort:
    """Lists and splits the cases; decodes no image. Raises ValueError for whatever a user can mend."""
    if options.layout == "phantom":
        return _phantom(options)
    root, wanted = _located(options)
    pattern = options.patient_pattern
    held: list[Item] = []
    if (root / "train").is_dir():
        pool = _items(root / "train", wanted, pattern)
        held = _items(root / "val", wanted, pattern) if (root / "val").is_dir() else []
    else:
        pool = _items(root, wanted, pattern)
    everyone = pool
    if (root / "train.txt").is_file():
        pool = pick(pool, read_list(root / "train.txt"), source=root / "train.txt")
    val = _validation(options, root, pool, held, everyone)
    tested = {item.image for item in val}
    pool = [item for item in pool if item.image not in tested]
    labelled = _labelled(options, root, pool, val)
    teaching, testing = {item.name for item in labelled}, {item.group for item in val}
    rest = [item for item in pool if item.name not in teaching]
    if not held:  # one folder for all: a patient of the validation list must not come back without a mask
        rest = [item for item in rest if item.group not in testing]
    if options.unlabelled:
        rest += _extra(options, root, wanted)
    return Cohort(labelled=_cases(labelled, seen=True), unlabelled=_cases(rest, seen=False), val=_cases(val, seen=True))


def every(options: DataOptions) -> tuple[Case, ...]:
    """All cases of a folder made for testing: images and masks, no split. Each image must have its mask."""
    root, wanted = _located(options)
    items = _items(root, wanted, options.patient_pattern)
    return _cases(_need_masks(items, source="data.root"), seen=True)


def _located(options: DataOptions) -> tuple[Path, Callable[[Path], bool]]:
    """The folder, and which of its files count."""
    if options.root is None:
        raise ValueError("data.root: not set; give the folder that holds the images, or use data.layout=phantom")
    root = Path(options.root)
    if not root.is_dir():
        raise ValueError(f"data.root: no such folder {str(root)!r}")
    layout = _recognise(root) if options.layout == "auto" else options.layout
    return root, is_volume if layout == "volumes" else is_image


def _recognise(root: Path) -> Literal["pairs", "volumes"]:
    base = root / "train" if (root / "train").is_dir() else root
    for name in IMAGE_FOLDERS:
        if (base / name).is_dir():
            return "volumes" if any(is_volume(path) for path in (base / name).iterdir()) else "pairs"
    raise ValueError(f"data.root: {str(root)!r} holds neither train/images nor images; see data.layout for the forms")


def _stem(path: Path) -> str:
    name = path.name
    return name[:-7] if name.lower().endswith(".nii.gz") else path.stem


def _by_stem(folder: Path, wanted: Callable[[Path], bool]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not wanted(path):
            continue
        if _stem(path) in found:
            raise ValueError(f"{path}: a second file named {_stem(path)!r}, beside {found[_stem(path)].name}")
        found[_stem(path)] = path
    return found


def _items(base: Path, wanted: Callable[[Path], bool], pattern: str) -> list[Item]:
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


def _need_masks(items: list[Item], *, source: str) -> list[Item]:
    for item in items:
        if item.label is None:
            raise ValueError(f"{source}: {item.image} has no mask of that name; add the mask or take it off the list")
    return items


def _validation(
    options: DataOptions, root: Path, pool: list[Item], held: list[Item], everyone: list[Item]
) -> list[Item]:
    text = options.val or ("val.txt" if not held and (root / "val.txt").is_file() else "")
    if not text:
        if not held:
            raise ValueError("data.val: no val folder and no val.txt; give a list file or a share such as 0.2")
        return _need_masks(held, source="val folder")
    how_many = amount(text, field="val")
    if how_many is None:
        path = find_list(text, root=root, field="val")
        return _need_masks(pick(held or everyone, read_list(path), source=path), source=str(path))
    free = [item for item in held or pool if item.label is not None]
    if not held and options.labelled and amount(options.labelled, field="labelled") is None:
        path = find_list(options.labelled, root=root, field="labelled")
        taken = {item.group for item in pick(pool, read_list(path), source=path)}
        free = [item for item in free if item.group not in taken]
    return draw(free, how_many=how_many, seed=options.seed, field="val")


def _labelled(options: DataOptions, root: Path, pool: list[Item], val: list[Item]) -> list[Item]:
    testing = {item.group for item in val}
    one_folder = not val or not pool or val[0].image.parent == pool[0].image.parent
    free = [i for i in pool if i.label is not None and not (one_folder and i.group in testing)]
    how_many = amount(options.labelled, field="labelled")
    if not options.labelled:
        labelled = free
    elif how_many is not None:
        labelled = draw(free, how_many=how_many, seed=options.seed, field="labelled")
    else:
        path = find_list(options.labelled, root=root, field="labelled")
        within = pool + (val if one_folder else [])
        labelled = _need_masks(pick(within, read_list(path), source=path), source=str(path))
    if not labelled:
        raise ValueError(f"data.labelled: no image under {root} has a mask to learn from")
    if one_folder:
        refuse_shared(labelled, val)
    else:  # equal file names in two folders mean nothing, an equal patient does
        refuse_shared([i for i in labelled if i.group != i.name], [i for i in val if i.group != i.name])
    return labelled


def _extra(options: DataOptions, root: Path, wanted: Callable[[Path], bool]) -> list[Item]:
    folder = Path(options.unlabelled) if Path(options.unlabelled).is_absolute() else root / options.unlabelled
    if not folder.is_dir():
        raise ValueError(f"data.unlabelled: no such folder {str(folder)!r}")
    found = _by_stem(folder, wanted)
    if not found:
        raise ValueError(f"data.unlabelled: {folder} holds no image")
    return [Item(n, group_of(n, pattern=options.patient_pattern), path, None) for n, path in found.items()]


def _cases(items: list[Item], *, seen: bool) -> tuple[Case, ...]:
    """`seen=False` strips the label here, once, so that nobody further down can read it."""
    cases = []
    for item in items:
        image, label = str(item.image), str(item.label) if seen and item.label is not None else None
        if is_volume(image):
            depth = volume_shape(image)[2]
            cases += [Case(f"{item.name}/{k:03d}", item.group, image, label, k) for k in range(depth)]
        else:
            cases.append(Case(item.name, item.group, image, label))
    return tuple(cases)


def _phantom(options: DataOptions) -> Cohort:
    """Training frames depend on `seed`; the validation frames are the same for every seed."""
    given = (options.labelled, options.unlabelled, options.val)
    counts = []
    for name, text, default in zip(("labelled", "unlabelled", "val"), given, options.phantom, strict=True):
        count = amount(text, field=name) if text else default
        if not isinstance(count, int) or (count < 1 and name != "unlabelled"):
            raise ValueError(f"data.{name}: the phantom layout takes a count, not {text!r}")
        counts.append(count)
    first = 1_000_000 * (options.seed + 1)

    def cases(start: int, count: int, *, seen: bool) -> tuple[Case, ...]:
        paths = [f"phantom:{start + i}" for i in range(count)]
        return tuple(Case(path, path, path, path if seen else None) for path in paths)

    return Cohort(
        labelled=cases(first, counts[0], seen=True),
        unlabelled=cases(first + counts[0], counts[1], seen=False),  # contiguous: a ceiling labels these same
        val=cases(0, counts[2], seen=True),
    )
