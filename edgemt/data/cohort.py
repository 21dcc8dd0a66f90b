"""From a folder to cases: who teaches, who is unlabelled, who validates.

pairs            root/{train,val}/{images,masks}/*, or root/{images,masks}/* with `val` as a list or a share
volumes          root/{images,labels}/*.nii.gz, or a folder of slice images each, with train.txt and val.txt
decathlon        root/dataset.json with imagesTr and labelsTr: the decathlon's own, and both forms of nnU-Net
h5               root/*.h5 or root/NAME/*.h5, each with `image` and `label`, volumes or slices
phantom          no files: frames are drawn when they are read
phantom_volumes  the same in 3-D

Of volumes every slice is a case, or, with `whole`, every volume. Lists are found in root and in root/splits.
"""

from __future__ import annotations

import dataclasses
import filecmp
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgemt.contract import Case
from edgemt.data import phantom3d
from edgemt.data.layouts.case_files import Item, read_list
from edgemt.data.layouts.detect import Found, look, recognise, unpaired
from edgemt.data.splits import alike, amount, draw, find_list, patients, pick, refuse_shared, same_patient
from edgemt.io.bit_depth import Depth, Rule
from edgemt.io.file_types import is_h5, is_image
from edgemt.io.geometry import common_order, is_order
from edgemt.io.volumes import geometry_of, volume_shape

Layout = Literal["auto", "pairs", "volumes", "decathlon", "h5", "phantom", "phantom_volumes"]


@dataclass(frozen=True)
class DataOptions:
    """Where the images are and which of them may show their mask."""

    root: Path | None = None
    layout: Layout = "auto"
    labelled: str = ""
    """A list file, a count ("80") or a share ("0.1") of the patients; empty takes every image with a mask."""
    unlabelled: str = ""
    """A further folder of images without masks."""
    val: str = ""
    """A list file, a count or a share; empty takes the val folder or val.txt."""
    val_in_training: bool = False
    """Train on the images of the validation list too, without their masks, as the left-atrium papers do."""
    classes: tuple[str, ...] = ("background", "polyp")
    channels: Literal[1, 3] = 3
    size: tuple[int, int] = (256, 256)
    """Height and width of a frame, pixels."""
    slices: Literal[1, 3, 5] = 1
    """Neighbouring slices of a volume that a 2-D network sees as channels, its own in the middle."""
    seed: int = 0
    labelled_seed: int | None = None
    """Seed of the draw where `labelled` is a count or a share; None: `seed`, which draws a counted `val` too."""
    mask_threshold: int | None = None
    """Two classes: this value and above is class 1. None: decided by the values of all masks (0/1, 0/255 ...)."""
    depth: Rule = "auto"
    """How images become 8 bits: stored, percentiles (0.5 and 99.5 of each), window; auto is decided by the set."""
    window: tuple[float, float] | None = None
    """LOW HIGH: these values of every image become 0 and 255."""
    axes: str = ""
    """Axis order that volumes are brought to, the slice axis last, such as RAS; empty: that of most files."""
    slice_axis: Literal[0, 1, 2] | None = None
    """Axis that volumes are cut along; None: the one with by far the largest spacing, else the last."""
    affines: Literal["compare", "ignore"] = "compare"
    """ignore: trust the order of the voxels, whatever the headers of image and label state."""
    patient_pattern: str = r"^(.*?)(?:[_-](?:frame|phase|t)\d+)?(?:[_-]slice[_-]?\d+)?$"
    """What the first bracket catches in a file name is the patient; a patient is never torn apart."""
    phantom: tuple[int, int, int] = (12, 160, 40)
    """Frames, or volumes, that are labelled, unlabelled and held out for validation, for the phantom layouts."""

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"data.classes: need background and at least one other name, each once: {self.classes}")
        if self.channels not in (1, 3):
            raise ValueError(f"data.channels: must be 1 or 3, not {self.channels}")
        if self.slices not in (1, 3, 5):
            raise ValueError(f"data.slices: must be 1, 3 or 5, not {self.slices}")
        if self.slices > 1 and self.channels != 1:
            raise ValueError(
                f"data.slices: {self.slices} neighbouring slices need data.channels 1, not {self.channels}"
            )
        if len(self.size) != 2 or min(self.size) < 8:
            raise ValueError(f"data.size: must be (height, width), each at least 8, not {self.size}")
        if self.mask_threshold is not None and len(self.classes) != 2:
            raise ValueError(f"data.mask_threshold: only for 2 classes, data.classes has {len(self.classes)}")
        Depth("auto" if self.depth == "auto" else self.depth, self.window)
        if self.window is not None and self.depth in ("stored", "percentiles"):
            raise ValueError(f"data.window: data.depth {self.depth} takes none; leave one of them out")
        if self.axes and not is_order(self.axes):
            raise ValueError(f"data.axes: {self.axes!r} is no order of three axes; RAS, LPS, RSA are some")
        if self.axes and self.slice_axis is not None:
            raise ValueError("data.slice_axis: data.axes has the slice axis last; leave one of them out")
        if self.affines == "ignore" and self.axes and set(self.axes) != set("ijk"):
            raise ValueError(f"data.axes: {self.axes} needs the headers that data.affines ignores; leave one out")
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
        for key in ("classes", "size", "phantom", "window"):
            if values.get(key) is not None:
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
    axes: str = ""  # the order that all volumes are brought to, on each case too
    notes: tuple[str, ...] = ()  # what was left out, and why


def find(options: DataOptions, *, whole: bool = False) -> Cohort:
    """Lists and splits the cases; decodes no image. `whole` keeps a volume one case instead of its slices.

    Raises ValueError for whatever a user can mend.
    """
    if options.layout in ("phantom", "phantom_volumes"):
        return _phantom(options, whole=whole)
    if options.labelled_seed is not None and options.labelled and amount(options.labelled, field="labelled") is None:
        raise ValueError(
            f"data.labelled_seed: data.labelled is the list {options.labelled!r} and nothing is drawn; give a count"
        )
    root, found = _looked(options)
    pool, held = list(found.pool), list(found.held)
    everyone = pool
    listed = _default_list(root, "train")
    if listed is not None:
        pool = pick(pool, read_list(listed), source=listed)
    val = _validation(options, root, pool, held, everyone)
    pool = _without(pool, val)
    labelled = _labelled(options, root, pool, val)
    teaching = {item.name for item in labelled}
    further = _without([*found.extra, *(_extra(options, root) if options.unlabelled else [])], val)
    rest = [item for item in pool if item.name not in teaching]
    rest, left_out = _apart(rest, further, val, one_folder=not held, asked=options.val_in_training)
    items = [*labelled, *rest, *val]
    axes = _order(options, items)
    copies = "" if options.val_in_training else _copies([*labelled, *rest], val)
    names = "" if options.val_in_training else alike([*labelled, *rest], val)
    notes = (*found.notes, *(text for text in (left_out, copies, names) if text))
    return Cohort(
        labelled=_cases(labelled, seen=True, whole=whole, axes=axes),
        unlabelled=_cases(rest, seen=False, whole=whole, axes=axes),
        val=_cases(val, seen=True, whole=whole, axes=axes),
        axes=axes,
        notes=notes,
    )


def _apart(
    rest: list[Item], further: list[Item], val: list[Item], *, one_folder: bool, asked: bool
) -> tuple[list[Item], str]:
    """Unlabelled images without those of validation patients, by whatever door they came; with `asked` all of `val`.

    The second is what was left out, in words.
    """
    if asked:
        return [*rest, *val, *further], ""
    known = patients(val, always=one_folder)
    kept = [item for item in rest if not same_patient(item, known, always=one_folder)]
    kept += [item for item in further if not same_patient(item, known, always=not is_image(item.image))]
    training = {item.image for item in kept}
    lost = [item for item in (*rest, *further) if item.image not in training]
    if not lost:
        return kept, ""
    groups = len({item.group for item in lost})
    return kept, (
        f"{len(lost)} unlabelled images of {groups} validating patients do not train, first {lost[0].image.name}"
    )


def _without(items: list[Item], val: list[Item]) -> list[Item]:
    """The items that are none of the validation images, by whatever path or link."""
    tested = {_file(item.image) for item in val}
    return [item for item in items if _file(item.image) not in tested]


def _file(path: Path) -> Any:
    try:
        stat = path.stat()
    except OSError:  # named where it is read
        return path
    return stat.st_dev, stat.st_ino


def _copies(items: list[Item], val: list[Item]) -> str:
    """What to say of training images that equal a validation image byte for byte, by whatever name; empty for none."""
    tested: dict[int, list[Path]] = {}
    for item in val:
        if item.image.is_file():
            tested.setdefault(item.image.stat().st_size, []).append(item.image)
    starts: dict[Path, bytes] = {}
    found = []
    for item in items:
        twins = tested.get(item.image.stat().st_size, []) if item.image.is_file() else []
        if any(_start(item.image, starts) == _start(twin, starts) and _equal(twin, item.image) for twin in twins):
            found.append(item.image)
    return f"{len(found)} training images are copies of validation images, first {found[0]}" if found else ""


def _start(path: Path, known: dict[Path, bytes]) -> bytes:
    """The first bytes of a file, read once."""
    if path not in known:
        with path.open("rb") as file:
            known[path] = file.read(1 << 14)
    return known[path]


def _equal(one: Path, other: Path) -> bool:
    return filecmp.cmp(one, other, shallow=False)


def _order(options: DataOptions, items: list[Item]) -> str:
    """The axis order of all volumes. Raises ValueError, naming files, where there is none."""
    volumes = {item.image: item for item in items if not is_image(item.image)}
    if not volumes:
        return options.axes
    files = [(path, geometry_of(path)) for path in volumes]
    oriented = [(path, geometry) for path, geometry in files if not is_h5(path) and not path.is_dir()]
    files = oriented or [(path, geometry) for path, geometry in files if len(geometry.shape) == 3]
    return common_order(files, axes=options.axes, slice_axis=options.slice_axis, compare=options.affines == "compare")


def every(options: DataOptions, *, whole: bool = False) -> tuple[Case, ...]:
    """All cases of a folder made for testing: images and masks, no split. Each image must have its mask."""
    _, found = _looked(options)
    items = _need_masks(list(found.pool), source="data.root")
    return _cases(items, seen=True, whole=whole, axes=_order(options, items))


def _looked(options: DataOptions) -> tuple[Path, Found]:
    if options.root is None:
        raise ValueError("data.root: not set; give the folder that holds the images, or use data.layout=phantom")
    root = Path(options.root)
    if not root.is_dir():
        raise ValueError(f"data.root: no such folder {str(root)!r}")
    layout: Any = recognise(root) if options.layout == "auto" else options.layout
    return root, look(root, layout=layout, pattern=options.patient_pattern, classes=options.classes)


def _default_list(root: Path, name: str) -> Path | None:
    """`train` or `val`, as a list beside the data or under splits."""
    tried = [base / f"{name}{suffix}" for base in (root, root / "splits") for suffix in (".txt", ".list")]
    return next((path for path in tried if path.is_file()), None)


def _need_masks(items: list[Item], *, source: str) -> list[Item]:
    for item in items:
        if item.label is None:
            raise ValueError(f"{source}: {item.image} has no mask of that name; add the mask or take it off the list")
    return items


def _validation(
    options: DataOptions, root: Path, pool: list[Item], held: list[Item], everyone: list[Item]
) -> list[Item]:
    listed = _default_list(root, "val")
    text = options.val or (str(listed.resolve()) if not held and listed is not None else "")
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
        taken = {item.group.casefold() for item in pick(pool, read_list(path), source=path)}
        free = [item for item in free if item.group.casefold() not in taken]
    return draw(free, how_many=how_many, seed=options.seed, field="val")


def _labelled(options: DataOptions, root: Path, pool: list[Item], val: list[Item]) -> list[Item]:
    testing = {item.group.casefold() for item in val}
    one_folder = not val or not pool or val[0].image.parent == pool[0].image.parent
    free = [i for i in pool if i.label is not None and not (one_folder and i.group.casefold() in testing)]
    how_many = amount(options.labelled, field="labelled")
    if not options.labelled:
        labelled = free
    elif how_many is not None:
        known = {} if one_folder else patients(val, always=False)
        free = [item for item in free if not same_patient(item, known, always=False)]
        seed = options.seed if options.labelled_seed is None else options.labelled_seed
        labelled = draw(free, how_many=how_many, seed=seed, field="labelled")
    else:
        path = find_list(options.labelled, root=root, field="labelled")
        within = pool + (val if one_folder else [])
        labelled = _need_masks(pick(within, read_list(path), source=path), source=str(path))
    if not labelled:
        raise ValueError(f"data.labelled: no image under {root} has a mask to learn from")
    if one_folder:
        refuse_shared(labelled, val)
    else:  # equal file names in two folders mean nothing, an equal patient does
        refuse_shared(labelled, val, always=False)
    return labelled


def _extra(options: DataOptions, root: Path) -> list[Item]:
    folder = Path(options.unlabelled) if Path(options.unlabelled).is_absolute() else root / options.unlabelled
    if not folder.is_dir():
        raise ValueError(f"data.unlabelled: no such folder {str(folder)!r}")
    found = unpaired(folder, pattern=options.patient_pattern)
    if not found:
        raise ValueError(f"data.unlabelled: {folder} holds no image")
    return found


def _cases(items: list[Item], *, seen: bool, whole: bool, axes: str = "") -> tuple[Case, ...]:
    """`seen=False` strips the label here, once, so that nobody further down can read it."""
    cases = []
    for item in items:
        label = str(item.label) if seen and item.label is not None else None
        order = "" if is_image(item.image) else axes
        case = Case(item.name, item.group, str(item.image), label, axes=order)
        shape = (0, 0) if is_image(item.image) else volume_shape(item.image, axes=order)
        if whole and (len(shape) == 2 or shape[2] < 2):
            raise ValueError(f"{item.image}: is one 2-D image; a 3-D network needs volumes, choose a 2-D teacher")
        cases += [case] if whole or len(shape) == 2 else _slices(case, shape[2])
    return tuple(cases)


def _slices(case: Case, depth: int) -> list[Case]:
    return [dataclasses.replace(case, name=f"{case.name}/{k:03d}", slice=k) for k in range(depth)]


def _phantom(options: DataOptions, *, whole: bool) -> Cohort:
    """What trains depends on `seed`; what validates is the same for every seed.

    With `labelled_seed`, `labelled` of the training cases are drawn by it and the rest is unlabelled.
    """
    deep = options.layout == "phantom_volumes"
    if whole and not deep:
        raise ValueError("data.layout: phantom draws single frames; a 3-D network needs phantom_volumes")
    given = (options.labelled, options.unlabelled, options.val)
    counts = []
    for name, text, default in zip(("labelled", "unlabelled", "val"), given, options.phantom, strict=True):
        count = amount(text, field=name) if text else default
        if not isinstance(count, int) or (count < 1 and name != "unlabelled"):
            raise ValueError(f"data.{name}: the phantom layouts take a count, not {text!r}")
        counts.append(count)
    first = 1_000_000 * (options.seed + 1)

    def cases(numbers: Iterable[int], *, seen: bool) -> tuple[Case, ...]:
        paths = [f"{phantom3d.PREFIX if deep else 'phantom:'}{number}" for number in numbers]
        found = [Case(path, path, path, path if seen else None) for path in paths]
        if deep and not whole:
            found = [slice_ for case in found for slice_ in _slices(case, phantom3d.SHAPE[2])]
        return tuple(found)

    known: Sequence[int] = range(first, first + counts[0])
    rest: Sequence[int] = range(first + counts[0], first + counts[0] + counts[1])  # contiguous: a ceiling labels these
    if options.labelled_seed is not None and options.labelled:
        every = range(first, first + options.phantom[0] + counts[1])
        if counts[0] > len(every):
            raise ValueError(f"data.labelled: asks for {counts[0]} phantoms, {len(every)} are there")
        drawn = sorted(np.random.default_rng(options.labelled_seed).permutation(len(every))[: counts[0]])
        known = [every[i] for i in drawn]
        rest = [number for number in every if number not in known]
    return Cohort(
        labelled=cases(known, seen=True),
        unlabelled=cases(rest, seen=False),
        val=cases(range(counts[2]), seen=True),
    )
