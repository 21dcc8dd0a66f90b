"""A folder with a dataset.json, as the Medical Segmentation Decathlon and nnU-Net publish theirs.

decathlon        "training" lists images and labels, "test" images, "labels" {"1": "spleen"}, "modality"
nnU-Net, second  imagesTr/NAME_0000.nii.gz, labelsTr/NAME.nii.gz, imagesTs; "labels" {"spleen": 1}, "file_ending"

Facts from https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgemt.data.layouts.case_files import CaseFiles, patient_of
from edgemt.io.plain_files import TEXT_LIMIT, parse_json, read_regular


def has_dataset_json(root: Path) -> bool:
    """Whether the folder has a dataset.json, as nnU-Net's layout requires."""
    return (root / "dataset.json").is_file()


def class_names(root: Path) -> tuple[str, ...]:
    """The classes of a dataset.json in the order of their values. Raises ValueError, naming the file, without them."""
    source = root / "dataset.json"
    return _class_names(_json(source), source)


def list_nnunet(root: Path, *, pattern: str, classes: tuple[str, ...]) -> tuple[list[CaseFiles], list[CaseFiles]]:
    """(training cases with labels, images without). Raises ValueError, naming the file, for what cannot be used."""
    source = root / "dataset.json"
    raw = _json(source)
    _one_channel(raw, source)
    _same_classes(_class_names(raw, source), classes, source)
    pool = _listed(raw, root) if isinstance(raw.get("training"), list) else _numbered(raw, root)
    stated = raw.get("numTraining")
    if isinstance(stated, int) and stated != len(pool):
        raise ValueError(f"{source}: numTraining is {stated}, {len(pool)} images are there; copy the set again")
    tests = _tests(raw, root)
    return (
        [CaseFiles(name, patient_of(name, pattern=pattern), image, label) for name, image, label in pool],
        [CaseFiles(name, patient_of(name, pattern=pattern), image, None) for name, image in tests],
    )


def _json(source: Path) -> dict[str, Any]:
    try:
        raw = parse_json(read_regular(source, limit=TEXT_LIMIT).decode("utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"{source}: no such file; data.layout=decathlon needs it") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{source}: not readable as JSON ({error})") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{source}: holds no JSON object")
    return raw


def _one_channel(raw: dict[str, Any], source: Path) -> None:
    channels = raw.get("channel_names") or raw.get("modality") or {"0": "image"}
    if not isinstance(channels, (dict, list)):
        raise ValueError(f"{source}: 'channel_names' = {channels!r} names no channels; mend it")
    if not isinstance(channels, dict) or len(channels) != 1:
        names = ", ".join(map(str, channels.values() if isinstance(channels, dict) else channels))
        raise ValueError(f"{source}: images have {len(channels)} channels ({names}), one is supported; keep one")


def _class_names(raw: dict[str, Any], source: Path) -> tuple[str, ...]:
    """In the order of their values, which must be 0, 1, 2 ..."""
    labels = raw.get("labels")
    if not isinstance(labels, dict):
        raise ValueError(f"{source}: has no 'labels' that name the classes")
    try:  # the decathlon writes value: name, nnU-Net name: value
        turned = all(str(key).isdigit() for key in labels)
        by_value = {int(k if turned else v): str(v if turned else k) for k, v in labels.items()}
    except (TypeError, ValueError):
        raise ValueError(f"{source}: 'labels' must give each class one number; regions are not supported") from None
    if sorted(by_value) != list(range(len(labels))) or "ignore" in labels:
        raise ValueError(f"{source}: 'labels' must be numbered 0 to {len(labels) - 1}, none ignored, not {labels}")
    return tuple(by_value[value] for value in sorted(by_value))


def _same_classes(found: tuple[str, ...], classes: tuple[str, ...], source: Path) -> None:
    if [name.casefold() for name in found] != [name.casefold() for name in classes]:
        wanted = " ".join(f"'{name}'" if " " in name else name for name in found)
        raise ValueError(f"data.classes: {' '.join(classes)} are not those of {source}; set --data.classes {wanted}")


def _listed(raw: dict[str, Any], root: Path) -> list[tuple[str, Path, Path]]:
    found = []
    for entry in raw["training"]:
        if not isinstance(entry, dict) or not {"image", "label"} <= set(entry):
            raise ValueError(f"{root / 'dataset.json'}: training entry {entry!r} is not {{'image': .., 'label': ..}}")
        label = _existing(root, entry["label"])
        found.append((_name(label), _existing(root, entry["image"]), label))
    return found


def _numbered(raw: dict[str, Any], root: Path) -> list[tuple[str, Path, Path]]:
    ending = _ending(raw)
    labels = sorted((root / "labelsTr").glob(f"*{ending}"))
    if not labels:
        raise ValueError(f"{root / 'labelsTr'}: holds no *{ending}, the file_ending of dataset.json")
    return [(_name(p), _existing(root, f"imagesTr/{p.name}"), p) for p in labels if not p.name.startswith(".")]


def _tests(raw: dict[str, Any], root: Path) -> list[tuple[str, Path]]:
    """Those that are there: the test images are often left out of a copy."""
    entries = raw.get("test") or []
    if not isinstance(entries, list):
        raise ValueError(f"{root / 'dataset.json'}: test = {entries!r} is no list of images; mend it")
    named = [entry.get("image") if isinstance(entry, dict) else entry for entry in entries]
    paths = [path for path in (_channel(root, name) for name in named) if path is not None]
    if not named:
        paths = [p for p in sorted((root / "imagesTs").glob(f"*{_ending(raw)}")) if not p.name.startswith(".")]
    return [(_name(path).removesuffix("_0000"), path) for path in paths]


def _ending(raw: dict[str, Any]) -> str:
    ending = raw.get("file_ending") or ".nii.gz"
    if not isinstance(ending, str) or not ending.startswith(".") or set(ending) & set("/\\*?["):
        raise ValueError(f"dataset.json: file_ending = {ending!r} is no ending of a file name; mend it")
    return ending


def _name(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[0]


def _channel(root: Path, name: Any) -> Path | None:
    """The file of that name, or the one that nnU-Net wrote for its only channel.

    Raises ValueError for what is no path below `root`. Links are followed: many sets are folders of them.
    """
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{root / 'dataset.json'}: names {name!r}, which is no file of its folder; copy it there")
    if not name or len(Path(name).name.encode()) > 250 or "\0" in name:
        raise ValueError(f"{root / 'dataset.json'}: names {name[:80]!r}, which can be no file; mend it")
    path = root / name
    stem = _name(path)
    numbered = path.with_name(f"{stem}_0000{path.name[len(stem) :]}")
    return next((tried for tried in (path, numbered) if tried.is_file()), None)


def _existing(root: Path, name: Any) -> Path:
    path = _channel(root, name)
    if path is None:
        raise ValueError(f"{root / 'dataset.json'}: names {name!r}, which is not there; copy the set again")
    return path
