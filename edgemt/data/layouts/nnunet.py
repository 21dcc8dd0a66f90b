"""A folder with a dataset.json, as the Medical Segmentation Decathlon and nnU-Net publish theirs.

decathlon        "training" lists images and labels, "test" images, "labels" {"1": "spleen"}, "modality"
nnU-Net, second  imagesTr/NAME_0000.nii.gz, labelsTr/NAME.nii.gz, imagesTs; "labels" {"spleen": 1}, "file_ending"

The files NAME_0000, NAME_0001 ... are the channels of a case, named by "channel_names" (or "modality"). The decathlon
has them in one file with a fourth axis.

Facts from https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgemt.data.layouts.case_files import CaseFiles, patient_of
from edgemt.data.layouts.channel_files import Channels, Files, first_of, holds_all
from edgemt.data.layouts.nnunet_labels import DatasetLabels, read_labels
from edgemt.io.channels import quoted
from edgemt.io.file_types import is_image, is_stray, is_volume
from edgemt.io.mask_rule import MaskValues
from edgemt.io.plain_files import TEXT_LIMIT, parse_json, read_regular

_NUMBER = re.compile(r"_\d{4}$")


def has_dataset_json(root: Path) -> bool:
    """Whether the folder has a dataset.json, as nnU-Net's layout requires."""
    return (root / "dataset.json").is_file()


def dataset_labels(root: Path) -> DatasetLabels:
    """What a dataset.json states of its masks. Raises ValueError, naming the file, for what cannot be read."""
    source = root / "dataset.json"
    return read_labels(_json(source), source)


def channel_names(root: Path) -> tuple[str, ...]:
    """The channels of a dataset.json that are files of their own; empty for one file a case."""
    source = root / "dataset.json"
    raw = _json(source)
    names = _channel_names(raw, source)
    return () if len(names) == 1 or _is_colour(raw, root, names) else names


def list_nnunet(
    root: Path,
    *,
    pattern: str,
    classes: tuple[str, ...],
    channels: Channels = Channels(),
    values: MaskValues = MaskValues(),
) -> tuple[list[CaseFiles], list[CaseFiles]]:
    """(training cases with labels, images without). Raises ValueError, naming the file, for what cannot be used.

    `classes` and `values` must read the masks as dataset.json states (`DatasetLabels.check`).
    """
    source = root / "dataset.json"
    raw = _json(source)
    _same_channels(raw, root, source, channels)
    read_labels(raw, source).check(classes, values, source=source)
    pool = _listed(raw, root, channels) if isinstance(raw.get("training"), list) else _numbered(raw, root, channels)
    stated = raw.get("numTraining")
    if isinstance(stated, int) and stated != len(pool):
        raise ValueError(f"{source}: numTraining is {stated}, {len(pool)} images are there; copy the set again")
    tests = _tests(raw, root, channels)
    return (
        [_case(name, files, label, pattern, channels) for name, files, label in pool],
        [_case(name, files, None, pattern, channels) for name, files in tests],
    )


def _case(name: str, files: Files, label: Path | None, pattern: str, channels: Channels) -> CaseFiles:
    patient = patient_of(name, pattern=pattern)
    return CaseFiles(name, patient, first_of(files), label, files if channels.names else ())


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


def _channel_names(raw: dict[str, Any], source: Path) -> tuple[str, ...]:
    """In the order of their numbers; a name that occurs twice gets its number."""
    channels = raw.get("channel_names") or raw.get("modality") or {"0": "image"}
    if not isinstance(channels, (dict, list)):
        raise ValueError(f"{source}: 'channel_names' = {channels!r} names no channels; mend it")
    if isinstance(channels, dict):
        if sorted(channels) != sorted(map(str, range(len(channels)))):
            raise ValueError(f"{source}: 'channel_names' must be numbered 0 to {len(channels) - 1}, not {channels}")
        channels = [channels[str(number)] for number in range(len(channels))]
    names = [str(name) for name in channels]
    twice = {name for name in names if [n.casefold() for n in names].count(name.casefold()) > 1}
    return tuple(f"{name}_{number}" if name in twice else name for number, name in enumerate(names))


def _is_colour(raw: dict[str, Any], root: Path, names: tuple[str, ...]) -> bool:
    """Whether three names are the colours of one picture a case, as nnU-Net writes natural images."""
    ending = _ending(raw)
    return len(names) == 3 and is_image(f"a{ending}") and not any((root / "imagesTr").glob(f"*_0001{ending}"))


def _same_channels(raw: dict[str, Any], root: Path, source: Path, channels: Channels) -> None:
    """Raises ValueError where the channels are others than data.channel_names, or stand in another order."""
    found, wanted = _channel_names(raw, source), channels.names
    if not wanted and (len(found) == 1 or _is_colour(raw, root, found)):
        return
    if [name.casefold() for name in found] == [name.casefold() for name in wanted]:
        return
    if not wanted:
        raise ValueError(
            f"{source}: images have {len(found)} channels; --data.channel-names {quoted(found)} reads all of them"
        )
    raise ValueError(
        f"{source}: its channels are {quoted(found)}, data.channel_names are {quoted(wanted)}; a model reads the "
        "channels of its training in their order"
    )


def _listed(raw: dict[str, Any], root: Path, channels: Channels) -> list[tuple[str, Files, Path]]:
    found = []
    for entry in raw["training"]:
        if not isinstance(entry, dict) or not {"image", "label"} <= set(entry):
            raise ValueError(f"{root / 'dataset.json'}: training entry {entry!r} is not {{'image': .., 'label': ..}}")
        label = _existing(root, entry["label"])
        found.append((_name(label), _images(root, entry["image"], channels), label))
    images = {_case_name(first_of(files)) for _, files, _ in found}
    for name, files, label in found:
        if name != _case_name(first_of(files)) and name in images:
            raise ValueError(
                f"{root / 'dataset.json'}: lists {label.name} as the label of {first_of(files).name}, and it is named "
                "as that of another image; mend the list"
            )
    return found


def _case_name(image: Path) -> str:
    return _name(image).removesuffix("_0000")


def left_out_note(root: Path, cases: Sequence[CaseFiles]) -> tuple[str, ...]:
    """A line on images of imagesTr that no label or list names; none where there are none."""
    folder = root / "imagesTr"
    used = {path for case in cases for path in (case.image, *case.channels)}
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    rest = [p for p in inside if (is_image(p) or is_volume(p)) and not is_stray(p) and p not in used]
    if not rest:
        return ()
    where = f"{len(rest)} images of {folder} have no label or are on no list and are not read, first {rest[0].name}"
    return (f"{where}; in imagesTs, or in a folder for --data.unlabelled, they train without a label",)


def _numbered(raw: dict[str, Any], root: Path, channels: Channels) -> list[tuple[str, Files, Path]]:
    ending = _ending(raw)
    labels = sorted((root / "labelsTr").glob(f"*{ending}"))
    if not labels:
        raise ValueError(f"{root / 'labelsTr'}: holds no *{ending}, the file_ending of dataset.json")
    return [(_name(p), _images(root, f"imagesTr/{p.name}", channels), p) for p in labels if not p.name.startswith(".")]


def _images(root: Path, name: Any, channels: Channels) -> Files:
    """The file of a name, or those of its channels NAME_0000, NAME_0001 ..."""
    if not channels.names:
        return (_existing(root, name),)
    path = root / name
    if _channel(root, name) == path and holds_all(path, channels.names):
        return (path,) * len(channels.names)
    stem = _name(path)
    stem, ending = stem.removesuffix("_0000"), path.name[len(stem) :]
    files = [path.with_name(f"{stem}_{number:04d}{ending}") for number in range(len(channels.names))]
    further = path.with_name(f"{stem}_{len(files):04d}{ending}")
    if further.is_file():
        raise ValueError(f"{further}: a further channel, dataset.json names {len(files)}; name it or move it away")
    return channels.complete(stem, [file if file.is_file() else None for file in files], where=path)


def _tests(raw: dict[str, Any], root: Path, channels: Channels) -> list[tuple[str, Files]]:
    """Those that are there: the test images are often left out of a copy."""
    entries = raw.get("test") or []
    if not isinstance(entries, list):
        raise ValueError(f"{root / 'dataset.json'}: test = {entries!r} is no list of images; mend it")
    named = [entry.get("image") if isinstance(entry, dict) else entry for entry in entries]
    paths = [path for path in (_channel(root, name) for name in named) if path is not None]
    if not named:
        paths = [p for p in sorted((root / "imagesTs").glob(f"*{_ending(raw)}")) if not p.name.startswith(".")]
    if not channels.names:
        return [(_name(path).removesuffix("_0000"), (path,)) for path in paths]
    cases = dict.fromkeys(
        path if holds_all(path, channels.names) else path.with_name(_first_channel(path)) for path in paths
    )
    names = [path.relative_to(root).as_posix() for path in cases]
    return [(_name(Path(name)).removesuffix("_0000"), _images(root, name, channels)) for name in names]


def _first_channel(path: Path) -> str:
    stem = _name(path)
    return f"{re.sub(_NUMBER, '', stem)}_0000{path.name[len(stem) :]}"


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
